"""What a function may look like, for rehearsals."""

import json
import os


def handler(event, context):
    """Answers with what it got."""
    return {"event": event, "id": context.aws_request_id, "length": len(json.dumps(event)), "home": os.sep}
