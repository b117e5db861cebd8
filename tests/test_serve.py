"""The process behind `a3b serve`: it writes what waits when it is told to stop, also in the middle of an answer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

ENDLESS = {"prompt": "hello", "max_tokens": 3500, "temperature": 3.0, "top_k": 0, "top_p": 1.0, "stream": True}


def asked(url: str, path: str, body: dict):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
    return urllib.request.urlopen(request, timeout=30)


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])  # 130 is Ctrl-C, as in every command
def test_a_server_told_to_stop_in_the_middle_of_an_answer_keeps_its_sessions_and_ends_well(how, status, tmp_path):
    command = [sys.executable, "-m", "a3b.cli", "serve", "--port", "0", "--cache-dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = next(found[1] for line in process.stderr if (found := re.search(r"Anthropic: (http://\S+)", line)))
            asked(url, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "temperature": 0}).read()
            with asked(url, "/v1/completions", ENDLESS) as stream:
                stream.readline()
                process.send_signal(how)
                assert process.wait(30) == status, process.stderr.read()
        finally:
            process.kill()
    listed = [sys.executable, "-m", "a3b.cli", "cache", "list", "--json", "--dir", str(tmp_path)]
    assert "hello" in subprocess.run(listed, capture_output=True, text=True, check=True).stdout
