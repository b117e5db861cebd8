"""What a long prompt costs those who are being answered: the pauses in one stream while another request's prompt is
read.

    python -m bench.two_streams MODEL [--words 2000] [--tokens 400] [--settle 0] [--json]

Starts `a3b serve` without a cache on disk. One client streams a long answer (JSON with a free string, so that random
weights write visible tokens, too). When it has some tokens, a second one asks about a long text, and once more when the
first is done. Pauses are the times between tokens as the first client gets them; half a character waits for its rest,
so a piece of two tokens counts as two halves. The embedded model is no subject: it reads such a prompt before anybody
could wait."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
import urllib.request
from typing import Any

from bench.turns import Conversation, Server, free_port

BEFORE = 12  # tokens that the first client has when the second one asks
TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}


def stream(server: Server, tokens: int, told: threading.Event) -> list[float]:
    """When each token of an answer arrived, seconds; sets `told` after some."""
    body = {
        "messages": [{"role": "user", "content": "Write a long text."}],
        "stream": True,
        "temperature": 0,
        "max_tokens": tokens,
        "logprobs": True,
        "chat_template_kwargs": {"enable_thinking": False},
        "response_format": {"type": "json_schema", "json_schema": {"name": "text", "strict": True, "schema": TEXT}},
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    times = []
    with urllib.request.urlopen(request, timeout=3600) as response:
        for line in response:
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:]).get("choices")
                found = (choices[0].get("logprobs") or {}).get("content") if choices else None
                if found:
                    now = time.perf_counter()
                    step = (now - times[-1]) / len(found) if times else 0.0
                    times += [now - step * i for i in reversed(range(len(found)))]
                    if len(times) >= BEFORE:
                        told.set()
    told.set()
    return times


def ask(server: Server, text: str) -> tuple[int, float]:
    """Tokens of the prompt and seconds until one token was there."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0}
    answer, seconds = server.post("/v1/chat/completions", body)
    return answer["usage"]["prompt_tokens"], seconds


def pauses(times: list[float], start: float, stop: float) -> list[float]:
    """Those that are, or begin, within [start, stop]."""
    return [b - a for a, b in zip(times, times[1:], strict=False) if a < stop and b > start]


def measure(server: Server, words: int, tokens: int) -> dict[str, Any]:
    talk, told, times = Conversation(60), threading.Event(), []
    first = threading.Thread(target=lambda: times.extend(stream(server, tokens, told)))
    first.start()
    told.wait()
    began = time.perf_counter()
    num, seconds = ask(server, talk.text(words))
    ended = time.perf_counter()
    first.join()
    if times[-1] < ended:
        sys.exit(
            f"the first answer ended {ended - times[-1]:.1f} s before the second prompt was read; give more --tokens"
        )
    _, alone_s = ask(server, talk.text(words))
    before, beside, behind = pauses(times, 0, began), pauses(times, began, ended), pauses(times, ended, times[-1])
    return {
        "prompt_tokens": num,
        "read_s": seconds,
        "read_alone_s": alone_s,
        "tokens": len(times),
        "alone_s": statistics.median(before),
        "beside_median_s": statistics.median(beside),
        "beside_longest_s": max(beside),
        "beside": len(beside),
        "behind_s": statistics.median(behind),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--words", type=int, default=2000, help="of the second prompt")
    parser.add_argument("--tokens", type=int, default=400, help="of the first answer")
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument(
        "--settle", type=float, default=0.0, help="seconds after the start, for weights to move into huge pages"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    command = [sys.executable, "-m", "a3b.cli", "serve", args.model, "--no-persist"]
    command += ["--context", str(args.context)]
    with Server(command, "/health", free_port()) as server:
        time.sleep(args.settle)
        found = measure(server, args.words, args.tokens)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    both = f"in {found['read_s']:.1f} s beside a stream, in {found['read_alone_s']:.1f} s alone"
    print(f"a prompt of {found['prompt_tokens']:,} tokens was read {both}")
    print(
        f"pauses of the stream: {found['alone_s']:.3f} s alone; while the prompt "
        f"was read {found['beside_median_s']:.2f} s (median of "
        f"{found['beside']}), the longest {found['beside_longest_s']:.2f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
