"""The way out of the sandbox: which hosts commands reach, and what they are told about others."""

from __future__ import annotations

import http.server
import threading

import pytest

from a3b.agent.sandbox.network import MAX_REFUSED
from a3b.errors import UsageError
from tests.support.sandboxes import opened, ran

pytestmark = pytest.mark.slow


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"page for {self.headers['Host']}".encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def port():
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class Answering:
    def __init__(self, decision):
        self.decision, self.asked = decision, []

    async def ask(self, request):
        self.asked.append(request.subject)
        return self.decision


def fetched(base, command, **fields):
    sandbox = opened(base, {}, **fields)
    try:
        return ran(sandbox, command)[0]
    finally:
        sandbox.close()


def test_without_a_rule_nothing_is_reached_and_the_option_is_named(base):
    text = fetched(base, "curl -sS http://example.com/; curl -sS --noproxy '*' http://1.1.1.1/")
    assert "--allow-host example.com" in text
    assert "curl: (7)" in text  # there is no other way


def test_a_private_address_is_refused_although_its_name_is_allowed(base, port):
    approver = Answering("once")
    text = fetched(base, f"curl -sS http://127.0.0.2:{port}/; curl -sS http://0x7f000002:{port}/", approver=approver)
    assert "page for" not in text
    assert "no public address" in text
    assert f"127.0.0.2:{port}" in approver.asked


def test_a_private_address_that_is_named_with_its_port_is_reached(base, port):
    assert f"page for 127.0.0.2:{port}" in fetched(
        base, f"curl -sS http://127.0.0.2:{port}/", hosts=(f"127.0.0.2:{port}",)
    )


def test_a_port_of_this_machine_that_is_named_is_reached_under_its_own_name(base, port):
    assert "page for localhost" in fetched(base, f"curl -sS http://localhost:{port}/", hosts=(f"localhost:{port}",))


def test_the_user_is_asked_once_about_a_host(base):
    approver = Answering("no")
    fetched(base, "curl -sS http://example.com/; curl -sS http://example.com/b", approver=approver)
    assert approver.asked == ["example.com:80"]


def test_a_command_cannot_bury_the_user_in_questions(base):
    approver = Answering("no")
    hosts = "for i in $(seq 60); do curl -sS http://h$i.example/; done; curl -sS http://last.example/"
    text = fetched(base, hosts, approver=approver)
    assert len(approver.asked) == MAX_REFUSED
    assert "last.example:80 is not allowed" in text


def test_a_name_that_is_no_name_is_refused_at_once(base):
    code = "import socket, sys\ns = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20)\ns.settimeout(20)\n"
    code += "s.sendall(b'CONNECT ' + b'a' * 250 + b'!:443 HTTP/1.1\\r\\n\\r\\n')\nprint(s.recv(99))"
    assert "400 Bad Request" in fetched(base, f'python3 -c "{code}" "${{HTTPS_PROXY##*:}}"')


def test_landlock_has_no_network_and_says_so(base):
    with pytest.raises(UsageError, match="no network of its own"):
        opened(base, {}, "landlock", hosts=("pypi.org",))
