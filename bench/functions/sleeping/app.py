"""A function that sleeps, and tells when it began, in which instance, and which modules it found imported."""

import os
import sys
import time


def handler(event, context):
    began = time.time()
    time.sleep(event.get("seconds", 0))
    modules = sorted(sys.modules) if event.get("modules") else []
    # An instance has a log stream of its own.
    return {"began": began, "instance": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"], "modules": modules}
