"""The sandbox's network: a namespace with a loopback of its own, and the proxy that serves it. Enter at
`SandboxNetwork`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from a3b.agent.approvals import ApprovalRequest, Approver
from a3b.agent.sandbox.addresses import WEB_PORTS, HostRule
from a3b.agent.sandbox.proxy import SandboxProxy
from a3b.errors import SandboxUnavailable

START_SECONDS = 20
ASK_SECONDS = 300
REFUSED_SECONDS = 60  # for which a no is not asked again
MAX_REFUSED = 50  # hosts: after so many, a session asks about no other; a command can think of any number
MAX_ASKED = 32  # questions that wait for an answer
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_FORWARDS = 32


class SandboxNetwork:
    """pid: of the process that holds the namespaces; port: of the proxy, on the loopback inside."""

    def __init__(self, program: str, code: Path, rules: tuple[HostRule, ...], approver: Approver | None):
        """program: bubblewrap; code: `holder.py`. Raises SandboxUnavailable with what bubblewrap said."""
        self._approver, self._asking_loop = approver, _running_loop()
        self._answers: dict[str, asyncio.Future[bool]] = {}
        self._num_open = self._num_refused = 0  # questions without an answer; answers that were no
        ports = [rule.port for rule in rules if rule.name in LOOPBACK and rule.port][:MAX_FORWARDS]
        self._socket, listeners, ports = self._start_holder(program, code, ports)
        self.port = ports[0]
        self._proxy = SandboxProxy(rules, self._ask)
        self._loop, self._closing = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(listeners, ports), name="a3b-proxy", daemon=True)
        self._thread.start()

    def _start_holder(
        self, program: str, code: Path, ports: list[int]
    ) -> tuple[socket.socket, list[socket.socket], list[int]]:
        ours, theirs = socket.socketpair()
        python = os.path.realpath(sys.executable)
        words = [
            program,
            "--unshare-user",
            "--unshare-net",
            "--new-session",
            "--cap-drop",
            "ALL",
            "--ro-bind",
            "/",
            "/",
        ]
        words += ["--", python, "-I", "-S", str(code), str(theirs.fileno()), *map(str, ports)]
        try:
            self._holder = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env={"LC_ALL": "C.UTF-8"},
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise SandboxUnavailable(f"it cannot be started: {error.strerror or error}") from None
        finally:
            theirs.close()
        ours.settimeout(START_SECONDS)
        try:
            data, handles, _, _ = socket.recv_fds(ours, 1 << 16, MAX_FORWARDS + 1)
        except TimeoutError:
            data, handles = b"", []
        if not data:
            ours.close()
            self._holder.kill()
            said = self._holder.communicate()[0].decode("utf-8", "replace").strip()
            raise SandboxUnavailable(said[-500:] or "its process ended without a word")
        message = json.loads(data)
        self.pid = int(message["pid"])
        return ours, [socket.socket(fileno=handle) for handle in handles], message["ports"]

    def listen_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Questions to the user are asked in this loop, which is the agent's."""
        self._asking_loop = loop

    def environment(self) -> dict[str, str]:
        """Variables by which programs find the proxy."""
        address, here = f"http://127.0.0.1:{self.port}", ",".join(LOOPBACK)
        names = ("http_proxy", "https_proxy", "all_proxy")
        found = {name: address for lower in names for name in (lower, lower.upper())}
        return {**found, "no_proxy": here, "NO_PROXY": here, "NODE_USE_ENV_PROXY": "1"}

    def _run(self, listeners: list[socket.socket], ports: list[int]) -> None:
        async def serve() -> None:
            servers = [await self._proxy.serve(listeners[0])]
            for listener, port in zip(listeners[1:], ports[1:], strict=True):
                servers.append(await self._proxy.forward(listener, port))
            await self._closing.wait()
            for server in servers:
                server.close()

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # cancels what is left
            runner.run(serve())

    async def _ask(self, host: str, port: int) -> bool:
        """Asks once for all connections to a host."""
        subject = f"{host}:{port}"
        if subject not in self._answers:
            if self._num_refused >= MAX_REFUSED or self._num_open >= MAX_ASKED:
                return False
            self._answers[subject] = asyncio.ensure_future(self._ask_user(host, port))
        return await asyncio.shield(self._answers[subject])

    async def _ask_user(self, host: str, port: int) -> bool:
        subject = f"{host}:{port}"
        allowed = False
        if self._approver is not None and self._asking_loop is not None:
            request = ApprovalRequest(
                "network",
                subject,
                f"Commands in the sandbox connect to {subject}",
                why="a command asked for it, and no option names it",
                option=f"--allow-host {host if port in WEB_PORTS else subject}",
                always=f"{subject} for all commands in this directory, in later sessions too",
            )
            self._num_open += 1
            try:
                with suppress(RuntimeError, TimeoutError, asyncio.CancelledError):
                    answer = asyncio.run_coroutine_threadsafe(self._approver.ask(request), self._asking_loop)
                    allowed = await asyncio.wait_for(asyncio.wrap_future(answer), ASK_SECONDS) != "no"
            finally:
                self._num_open -= 1
        if not allowed:
            self._num_refused += 1
            self._loop.call_later(REFUSED_SECONDS, self._answers.pop, subject, None)
        return allowed

    def close(self) -> None:
        """Ends the proxy and the process that holds the namespaces."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(5)
        self._socket.close()
        try:
            self._holder.wait(5)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        if self._holder.stdout:
            self._holder.stdout.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
