"""The server that a client will talk to: one that runs, or one that is started for it and ends with it.

Enter at `serving`."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from a3b.commands.api_keys import api_keys
from a3b.commands.server_answers import Asker, NoServerError, ServedModel, url_of
from a3b.errors import A3BError, UsageError
from a3b.files import open_private, private_directory
from a3b.printable import say
from a3b.settings import process_environment

LOOK_S = 0.1
TOLD_S = 5.0  # between two words about a server that is starting
STOP_S = 90.0  # for a server to write its sessions
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
LAST_LOG = "serve.log"
LOG_BYTES = 1 << 16  # of a log that are searched
NO_MODEL = (
    "no model is here yet, and no server runs; a3b up gets a model that suits this machine, --model NAME takes one of "
    "your choice, and --model nano the small one inside this package (a3b code --demo shows what that can do)"
)
READY = re.compile(r"^OpenAI: (http://127\.0\.0\.1:(\d{1,5}))/v1 ", re.MULTILINE)
SESSIONS = re.compile(r"^.* kept but not used by this server.*", re.MULTILINE)  # what `stored_otherwise` says


@dataclass(frozen=True)
class Served:
    """A server that answers. log: of one that was started here."""

    asker: Asker
    model: ServedModel
    log: Path | None = None


def clients_directory(args: Namespace) -> Path:
    """Where each client has a directory of its own."""
    return Path(os.path.abspath(Path(args.runtime.home).expanduser())) / "clients"


def found(args: Namespace) -> Served | None:
    """The running server; None if there is none and one may be started. Raises UsageError for anything else there."""
    asker = Asker(address(args), first_key(args))
    if args.base_url is None and wanted_port(args) == 0:
        return None
    try:
        model = asker.model()
    except NoServerError as error:
        if args.base_url is not None:
            raise UsageError(f"{error}; start a3b serve there, or leave --base-url out") from None
        return None
    if args.named and (wanted := served_name(model_of(args))) != model.name:
        raise UsageError(
            f"{asker.url} serves {model.name!r}; expected {wanted!r}. Stop it, or give another --port for a new one"
        )
    if args.context and args.context > model.context:
        raise UsageError(
            f"--context {args.context:,}: {asker.url} runs with a context of {model.context:,}. "
            "Stop it, or give another --port for a new one"
        )
    return Served(asker, model)


def address(args: Namespace) -> str:
    """The address that was given, or the one at which a3b serve can be reached from this machine."""
    if args.base_url is not None:
        return str(args.base_url)
    return url_of(args.runtime.host, wanted_port(args))


def model_of(args: Namespace) -> str | None:
    """What a server is started with: the model that is named, or else the one of A3B_HOME that was used last; None is
    the embedded model."""
    from a3b.commands.model_home import ModelHome  # only a client that starts a server loads what knows of models
    from a3b.commands.model_names import local_model

    home = ModelHome(args.runtime.home)
    if name := args.named or args.runtime.model:
        return local_model(name, home)
    last = next((model for model in home.stored() if model.complete), None)
    return str(last.folder) if last else None


def planned(args: Namespace) -> ServedModel:
    """What a server that is started would serve. Raises A3BError for a model that is not here."""
    from a3b.engine.engine import load_config, resolve

    model = model_of(args)
    config, note = load_config(resolve(model), args.context)
    if note:
        say(note)
    return ServedModel(served_name(model), args.context or config.max_context)


def served_name(model: str | None) -> str:
    """The name under which a model is served."""
    from a3b.engine.engine import nano_directory, resolve

    path = resolve(model).resolve()
    return "a3b-nano" if path == nano_directory().resolve() else path.name


def wanted_port(args: Namespace) -> int:
    port = args.runtime.port if args.port is None else args.port
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port}: expected 0 to 65535; 0 takes a free one")
    return int(port)


def first_key(args: Namespace) -> str:
    """The key that a client uses; "" if none is known."""
    given = Namespace(**{**vars(args), "api_key": [args.api_key] if args.api_key is not None else []})
    return next(iter(api_keys(given)), "")


@contextmanager
def serving(args: Namespace, check: Callable[[ServedModel], None]) -> Iterator[Served]:
    """The running server, or one that ends with the block. check: raises what speaks against a model.

    Raises A3BError with its last words if it does not start. The log of the last one that ended stays."""
    running = found(args)
    if running is not None:
        check(running.model)
        yield running
        return
    if model_of(args) is None:
        raise A3BError(NO_MODEL)
    check(planned(args))
    directory = clients_directory(args)
    log = directory / f"serve.{os.getpid()}.log"
    try:
        private_directory(directory)
        file = open(log, "w+b", opener=open_private)
    except OSError as error:
        raise UsageError(f"{log}: {error.strerror}; give a writable directory with A3B_HOME") from None
    with file:
        process = subprocess.Popen(
            command(args),
            env=process_environment() | ({"A3B_API_KEY": first_key(args)} if first_key(args) else {}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C is for the client
            preexec_fn=_end_with_parent,
        )
    try:
        asker = Asker(_ready(process, args, log), first_key(args))
        served = Served(asker, asker.model(), log)
        check(served.model)
        yield served
    finally:
        _stop(process)
        with suppress(OSError):
            log.replace(directory / LAST_LOG)


def _end_with_parent() -> None:
    """Have Linux end this process with its parent, even if that is killed: nobody else would end the server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def command(args: Namespace) -> list[str]:
    """How the server is started. -P: the current directory is somebody's project, and holds no module of ours."""
    from a3b.formats.packed import MANIFEST

    named = model_of(args)
    model = [named] if named else []
    # of a packed model, as much context as the memory has room for
    verb = "up" if named and (Path(named) / MANIFEST).is_file() else "serve"
    context = ["--context", str(args.context)] if args.context else []
    listens = ["--host", "127.0.0.1", "--port", str(wanted_port(args))]
    return [sys.executable, "-P", "-m", "a3b", verb, *model, *listens, *context]


def _ready(process: subprocess.Popen[bytes], args: Namespace, log: Path) -> str:
    """The address of a server, once it listens."""
    say(f"a3b {args.command}: starting a3b serve {model_of(args) or ''}".rstrip() + f"; its log: {log}")
    begun = told = time.monotonic()
    while True:
        said = _end_of(log)
        if ready := READY.search(said):
            for line in SESSIONS.findall(said[: ready.start()]):
                say(line)
            return ready[1]
        if process.poll() is not None:
            words = " / ".join(line.strip() for line in said.splitlines() if line.strip())[-600:]
            said = f"{words or 'it said nothing'}; its log: {log.with_name(LAST_LOG)}"
            raise A3BError(f"a3b serve did not start (status {process.returncode}): {said}")
        if time.monotonic() - told >= TOLD_S:
            told = time.monotonic()
            say(f"a3b {args.command}: the model is being loaded, {told - begun:.0f} s so far")
        time.sleep(LOOK_S)


def _end_of(log: Path) -> str:
    with suppress(OSError), open(log, "rb") as file:
        return file.read(LOG_BYTES).decode(errors="replace")
    return ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server as Ctrl-C would, so that its sessions are on the disk."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        say("a3b: the server does not end; it is killed. Its sessions stay as they are on the disk")
        process.kill()
        process.wait()
