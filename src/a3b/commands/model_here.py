"""The model of a command that runs one: found by its name, or made first where somebody agrees to that.

Enter at `model_here`."""

from __future__ import annotations

import sys
from argparse import Namespace

from a3b.commands.model_home import ModelHome, used
from a3b.commands.model_names import is_place, local_model, meaning
from a3b.errors import UsageError

ASKING = ("serve", "chat")  # commands that may offer to get a model


def model_here(name: str | None, args: Namespace) -> str | None:
    """The directory of a MODEL, which may be a name; it is held until the command ends, so that nobody removes it.

    What is no name of a model stays as it is. Raises UsageError for a model that is not here, with what gets it."""
    if name is None or is_place(name):
        return name
    found = local_model(name, ModelHome(args.runtime.home))
    if found == name and args.command != "info":
        found = _elsewhere(name, args)
    if found != name:
        args.held.enter_context(used(str(found)))
    return found


def _elsewhere(name: str, args: Namespace) -> str:
    """A model of the hub that is made first, if that is agreed; any other name as it is."""
    try:
        named = meaning(name)
    except UsageError:
        return name  # the command has more to say
    if named.repo is None:
        return name
    if args.command in ASKING and (args.yes or (named.known and sys.stdin.isatty() and sys.stderr.isatty())):
        from a3b.commands.dialogue import drafts  # and the next two: half of a3b
        from a3b.commands.sizes import Use
        from a3b.commands.up import Wish, agreeing, obtain

        use = Use(getattr(args, "parallel", 1), drafts(args), args.runtime.kv)
        wish = Wish(args.yes, context=args.context, command=agreeing(name, args), use=use)
        directory = obtain(name, wish, args.runtime)
        if directory is not None:
            return str(directory)
    if named.known:
        raise UsageError(f"{name!r} is known but not here; get it: a3b up {name}")
    raise UsageError(
        f"{name!r} is neither a directory nor a model in 'a3b list'; if it is a repository of the hub, get it: "
        f"a3b up {name}"
    )
