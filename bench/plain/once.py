"""The comparator of cold starts: import the handler, call it once, print the answer. Usage: once.py FOLDER EVENT"""

import json
import sys

sys.path.insert(0, sys.argv[1])
import app  # noqa: E402  (the folder is known only now)

print(json.dumps(app.handler(json.loads(sys.argv[2]), None)), flush=True)
