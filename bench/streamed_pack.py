"""Packs a model from a hub on this machine while it is downloaded, broken off with kill -9 on the way.

    python -m bench.peers.random_gguf model.gguf --shape 35b-a3b --mix Q4_K_M
    python -m bench.streamed_pack model.gguf packed [--kills 3] [--rate MB/S] [OPTIONS OF a3b pack]

Prints for each run what had arrived, its time and its peak memory, then the peak of the disk below `packed.part`, and
what `a3b verify` says of the result. SOURCE may also be a directory of safetensors."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT, REPO = "0" * 40, "local/model"
LFS_BYTES = 1 << 20  # files from this size on are verified by their SHA-256
PIECE = 1 << 20
LOOK_S = 0.05


class Hub(ThreadingHTTPServer):
    """Serves the files of a directory, or one file, as a repository."""

    daemon_threads = True

    def __init__(self, source: Path, rate: float | None):
        """rate: bytes per second over all connections."""
        paths = [source] if source.is_file() else sorted(path for path in source.iterdir() if path.is_file())
        self.paths, self.rate = {path.name: path for path in paths}, rate
        self.listing = json.dumps({"id": REPO, "sha": COMMIT, "siblings": [entry(path) for path in paths]}).encode()
        self.lock, self.clock = threading.Lock(), time.monotonic()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """The client was killed, as it should be."""

    def pace(self, num_bytes: int) -> None:
        if self.rate:
            with self.lock:
                self.clock = max(self.clock, time.monotonic()) + num_bytes / self.rate
                wait_s = self.clock - time.monotonic()
            time.sleep(max(wait_s, 0))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        if path.startswith("/api/models/"):
            self._begin(200, {}, len(self.server.listing))
            self.wfile.write(self.server.listing)
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            self._file(self.server.paths[path.rsplit("/", 1)[-1]])
        else:
            self._begin(404, {}, 0)

    def _file(self, path: Path) -> None:
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        stop = min(int(match[2]) + 1, size) if match and match[2] else size
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if match else {}
        self._begin(206 if match else 200, headers, stop - start)
        with open(path, "rb") as file:
            while start < stop:
                count = min(PIECE, stop - start)
                self.server.pace(count)
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, count)

    def _begin(self, status: int, headers: dict[str, str], size: int) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()


def entry(path: Path) -> dict[str, object]:
    """A file as a hub lists it."""
    size, big = path.stat().st_size, path.stat().st_size >= LFS_BYTES
    total = hashlib.sha256() if big else hashlib.sha1(b"blob %d\0" % size)
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            total.update(piece)
    found: dict[str, object] = {"rfilename": path.name, "size": size, "blobId": "0" * 40 if big else total.hexdigest()}
    return found | ({"lfs": {"size": size, "sha256": total.hexdigest(), "pointerSize": 130}} if big else {})


def bytes_on_disk(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def arrived(part: Path) -> int:
    """Bytes that have arrived, as the journal says."""
    with suppress(OSError, ValueError, KeyError):
        value = json.loads((part / "stream.json").read_text())
        return sum(stop - start for file in value["files"].values() for start, stop in file["arrived"])
    return 0


def cpu_seconds() -> float:
    """Of processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_memory(process: int) -> int:
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


def run(command: list[str], environment: dict[str, str], target: Path, until: int | None) -> tuple[float, int, int]:
    """Run the command, to its end or until so many bytes have arrived: (seconds, peak memory, peak disk)."""
    part, memory, disk = target.with_name(target.name + ".part"), 0, 0
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None:
        memory = max(memory, peak_memory(process.pid))
        disk = max(disk, bytes_on_disk(part))
        if until is not None and arrived(part) >= until:
            process.send_signal(signal.SIGKILL)
        time.sleep(LOOK_S)
    if until is None and process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return time.monotonic() - began, memory, disk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rate", type=float, help="of the connections together, in MB/s")
    args, options = parser.parse_known_args()
    hub = Hub(args.source, args.rate and args.rate * 1e6)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    size = sum(path.stat().st_size for path in hub.paths.values())
    print(f"{len(hub.paths)} files, {size / 1e9:.2f} GB")
    environment = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "a3b.cli", "pack", REPO, str(args.target), *options]
    part, runs = args.target.with_name(args.target.name + ".part"), []
    for kill in range(args.kills + 1):
        until = size * (kill + 1) // (args.kills + 1) if kill < args.kills else None
        before = arrived(part)
        used = cpu_seconds()
        runs.append(run(command, environment, args.target, until))
        seconds, memory, disk = runs[-1]
        here = "complete" if until is None else f"killed with {arrived(part) / 1e9:.2f} GB here"
        print(
            f"from {before / 1e9:.2f} GB: {seconds:.0f} s ({cpu_seconds() - used:.0f} s of processors), "
            f"memory {memory / 1e9:.2f} GB at most, "
            f"disk {disk / 1e9:.2f} GB at most; {here}"
        )
    packed = bytes_on_disk(args.target)
    print(
        f"{sum(run[0] for run in runs):.0f} s in all, {cpu_seconds():.0f} s of processors, "
        f"memory {max(run[1] for run in runs) / 1e9:.2f} GB at most, disk "
        f"{max(run[2] for run in runs) / 1e9:.2f} GB at most for {packed / 1e9:.2f} GB packed"
    )
    subprocess.run([sys.executable, "-m", "a3b.cli", "verify", str(args.target)], check=True)


if __name__ == "__main__":
    main()
