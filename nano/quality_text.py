"""Conversations of the evaluation tasks, unseen in training, for `a3b eval quality --text FILE.json`.

python -m nano.quality_text --out FILE.json [--conversations 60]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from a3b.evals.families.common import rng_for
from nano.tasks import FAMILIES, mixed


def conversations(count: int) -> list[dict]:
    """An equal number of each family and of mixed ones."""
    makers = {name: family.example for name, family in FAMILIES.items() if name != "needle"} | {"mixed": mixed}
    makers["needle"] = lambda rng: FAMILIES["needle"].example(rng, 200)
    out = []
    for index in range(count):
        name = list(makers)[index % len(makers)]
        example = makers[name](rng_for("test", name, index))
        out.append({"messages": example.messages, "tools": example.tools})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--conversations", type=int, default=60)
    args = parser.parse_args()
    args.out.write_text(json.dumps(conversations(args.conversations), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
