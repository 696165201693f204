"""The same handler for Google's functions framework."""

import os
import sys

sys.path.insert(0, os.environ["BENCH_FUNCTION"])
import app  # noqa: E402  (the folder is known only now)


def serve(request):
    return app.handler(request.get_json(), None)
