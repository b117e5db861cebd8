"""`a3b rm NAME ...`: removes models from A3B_HOME, also those that stopped half way; with --sessions their sessions."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path

from a3b.cache.directory_lock import is_served
from a3b.commands.ask import agreed
from a3b.commands.cache_directories import name_of, root
from a3b.commands.info import size
from a3b.commands.model_home import ModelHome, StoredModel, tree_bytes
from a3b.engine.stored_models import short_name
from a3b.errors import UsageError, did_you_mean
from a3b.printable import report, say


def run(args: Namespace) -> int:
    home = ModelHome(args.runtime.home)
    stored = home.stored()
    chosen = list({model.folder: model for name in args.names for model in wanted(name, stored)}.values())
    sessions = [place for model in chosen for place in sessions_of(model, args)] if args.sessions else []
    for place in sessions:
        if is_served(place):
            raise UsageError(f"{place.name}: a server uses these sessions; stop it first")
    what = ", ".join(f"{model.record.name} ({size(model.num_bytes)})" for model in chosen)
    if sessions:
        what += f", sessions ({size(sum(map(tree_bytes, sessions)))})"
    command = " ".join(["a3b rm", *args.names, *(["--sessions"] if args.sessions else []), "--yes"])
    if not agreed(f"Remove {what}?", args.yes, command):
        say("nothing was removed")
        return 1
    for model in chosen:
        left = home.remove(model)
        report(f"{model.record.name}: removed, {size(model.num_bytes)} free")
        if left:
            say(f"{model.folder}: kept, as it holds what a3b did not write: {', '.join(p.name for p in left[:5])}")
    for place in sessions:
        shutil.rmtree(place)
        report(f"{place.name}: sessions removed")
    return 0


def wanted(name: str, stored: list[StoredModel]) -> list[StoredModel]:
    """The models that a name means: exactly that one, or all of a name without a tag if there is only one. Raises
    UsageError."""
    exact = [m for m in stored if name.lower() in (m.record.name.lower(), m.folder.name.lower())]
    if exact:
        return exact
    short = short_name(name)
    text = short.text if short else name
    found = [m for m in stored if text.lower() in (m.record.name.lower(), m.record.model.lower())]
    if len(found) == 1:
        return found
    names = [m.record.name for m in (found or stored)]
    if found:
        raise UsageError(f"{name[:80]!r} is {len(found)} models: {', '.join(names)}; name one, or each of them")
    meant = did_you_mean(name, names) or (f"; there are {', '.join(names[:10])}" if names else "; there are none")
    raise UsageError(f"{name[:80]!r} is no model in A3B_HOME{meant}")


def sessions_of(model: StoredModel, args: Namespace) -> list[Path]:
    """The directories of a model's sessions, one for each server that ran at the same time."""
    parent = root(args.runtime.home)
    name = name_of(str(model.folder)) if model.folder.is_dir() else None
    if name is None or not parent.is_dir():
        return []
    places = (p for p in parent.iterdir() if p.name == name or p.name.startswith(f"{name}."))
    return sorted(place for place in places if place.is_dir() and not place.is_symlink())
