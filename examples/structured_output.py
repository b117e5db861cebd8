"""An answer that is JSON of a schema, whatever the model would rather write.

python examples/structured_output.py [DIRECTORY]
"""

import json
import sys

import a3b

SCHEMA = {
    "type": "object",
    "properties": {
        "language": {"enum": ["python", "c++", "none"]},
        "lines": {"type": "integer", "minimum": 0, "maximum": 999},
    },
    "required": ["language", "lines"],
    "additionalProperties": False,
}


def main(directory: str | None = None) -> None:
    with a3b.load(directory) as model:
        reply = model.chat("What is python?", schema=SCHEMA, thinking_budget=64, seed=1, max_tokens=200)
        print(json.dumps(json.loads(reply.text), indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
