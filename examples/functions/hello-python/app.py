"""Greets, and says which instance did it."""

import os

invocations = 0


def handler(event, context):
    global invocations
    invocations += 1
    name = event.get("name", "world")
    print("greeting", name)
    return {
        "message": "%s, %s!" % (os.environ.get("GREETING", "Hello"), name),
        "function": context.function_name,
        "invocations_of_this_instance": invocations,
    }
