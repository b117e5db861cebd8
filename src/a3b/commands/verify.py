"""`a3b verify DIR`: checks every byte of a packed model against its manifest."""

from __future__ import annotations

from argparse import Namespace

from a3b.commands.progress import MB, Progress
from a3b.engine.engine import resolve
from a3b.formats.packed import MANIFEST, Manifest, verify
from a3b.printable import report, say


def run(args: Namespace) -> int:
    directory = resolve(args.directory)
    total = sum(size for size, _ in Manifest.read(directory).files.values()) if (directory / MANIFEST).exists() else 0
    with Progress("verifying", total, "MB", scale=MB) as progress:
        wrong = verify(directory, progress.add)
    for sentence in wrong:
        say(f"{directory}: {sentence}")
    if wrong:
        say(f"{directory}: {len(wrong)} of its parts are damaged; pack the model again, or copy it again")
        return 1
    report(f"{directory}: every byte is as it was written")
    return 0
