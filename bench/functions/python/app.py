"""The function that is measured: small enough that the platform is what the clock sees."""

invocations = 0


def handler(event, context):
    # The count tells the bench whether this was the instance's first invocation.
    global invocations
    invocations += 1
    return {"greeting": "Hello, " + event["name"], "invocations": invocations}
