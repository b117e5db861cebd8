"""API keys from options, a file and the environment, for servers and for their clients. Enter at `api_keys`."""

from __future__ import annotations

from argparse import Namespace

from a3b.errors import UsageError
from a3b.files import read_given


def api_keys(args: Namespace) -> tuple[str, ...]:
    """Those of options, or else of A3B_API_KEY. Raises UsageError for an empty one, or a file that cannot be read."""
    keys = list(args.api_key or [])
    if args.api_key_file:
        try:
            keys += [line.strip() for line in read_given(args.api_key_file).splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(
                f"--api-key-file {args.api_key_file}: {why}; give a text file, a key in each line"
            ) from None
    if any(not key for key in args.api_key or []) or (args.api_key_file and not any(keys)):
        raise UsageError("an API key is empty; give one, or leave the option out to serve without keys")
    return tuple(dict.fromkeys(key for key in keys or args.runtime.api_key if key))
