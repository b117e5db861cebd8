"""Keeps the sandbox's network namespace: makes sockets that listen inside, hands them out, and ends with the agent.

Runs as `python -I -S` inside the namespace; standard library only. Arguments: the handle of a Unix socket, ports."""

from __future__ import annotations

import json
import os
import socket
import sys


def main(handle: int, ports: list[int]) -> None:
    """Sends [port of each listener] with the listeners, of which the first has any free port."""
    with socket.socket(fileno=handle) as out:
        listeners, taken = [], []
        for port in (0, *ports):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
            listeners.append(listener)
            taken.append(listener.getsockname()[1])
        message = {"pid": os.getpid(), "ports": taken}
        socket.send_fds(out, [json.dumps(message).encode()], [listener.fileno() for listener in listeners])
        for listener in listeners:
            listener.close()
        out.recv(1)  # ends when the agent has


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(port) for port in sys.argv[2:]])
