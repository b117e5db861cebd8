"""Configuration files of MCP servers: the forms of other clients, what is expanded, and what is said of bad entries."""

from __future__ import annotations

import json

import pytest

from a3b.agent.mcp.config import configured_servers
from a3b.agent.mcp.config_file import MAX_BYTES

COMMAND = {"command": "server"}


class Files:
    """A workspace and a home with configuration files. environment: variables of the user."""

    def __init__(self, path):
        self.workspace, self.home, self.given = path / "work", path / "home", path / "given.json"
        self.workspace.mkdir()
        self.home.mkdir()
        self.environment = {"HOME": "/home/u", "KEY": "s3cret", "EMPTY": ""}

    def read(self, project=None, user=None, given=None):
        for path, content in (
            (self.workspace / ".mcp.json", project),
            (self.home / "mcp.json", user),
            (self.given, given),
        ):
            if content is not None:
                path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        is_given = self.given if given is not None else None
        return configured_servers(self.workspace, self.home, is_given, self.environment)


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def only(found):
    assert found.problems == ()
    (server,) = found.servers
    return server


def problem(found):
    (text,) = found.problems
    return text


def test_no_file_is_no_trouble(files):
    assert files.read() == configured_servers(files.workspace, files.home, None, {})
    assert files.read().servers == () and files.read().problems == ()


@pytest.mark.parametrize(
    "content",
    [
        {"mcpServers": {"s": {"command": "server", "args": ["-x"]}}},
        {"servers": {"s": {"type": "stdio", "command": "server", "args": ["-x"]}}, "inputs": []},
        {"mcpServers": {"s": {"command": ["server", "-x"], "disabled": False, "alwaysAllow": []}}},
        '\ufeff{// mine\n"mcpServers": {"s": {"command": "server", /* "//" */ "args": ["-x",],},},}',
    ],
    ids=["claude", "vscode", "opencode", "comments"],
)
def test_the_forms_of_other_clients_are_read(files, content):
    assert only(files.read(project=content)).command == ("server", "-x")


@pytest.mark.parametrize("field", ["url", "httpUrl", "serverUrl"])
def test_a_url_makes_a_server_of_http(files, field):
    server = only(files.read(user={"mcpServers": {"s": {field: "https://x.test/mcp", "headers": {"A": "b"}}}}))
    assert (server.url, dict(server.headers), server.is_sandboxed) == ("https://x.test/mcp", {"A": "b"}, False)


def test_comments_in_texts_stay(files):
    server = only(files.read(project='{"mcpServers": {"s": {"command": "a//b", "args": ["/* x */", ",]"],}}}'))
    assert server.command == ("a//b", "/* x */", ",]")


def test_variables_are_filled_in_where_the_user_lists_them(files):
    entry = {"command": "server", "env": {"TOKEN": "${KEY}", "B": "${env:KEY}", "C": "${NONE:-d}"}}
    user = {"allowedEnv": ["KEY", "NONE"]}
    server = only(files.read(project={"mcpServers": {"s": entry}}, user=user))
    assert dict(server.env) == {"TOKEN": "s3cret", "B": "s3cret", "C": "d"}
    assert server.variables == ("KEY", "NONE")


def test_a_variable_that_is_not_listed_is_refused_by_name(files):
    found = files.read(project={"mcpServers": {"s": {"command": "x", "env": {"T": "${KEY}"}}, "t": COMMAND}})
    assert [server.name for server in found.servers] == ["t"]
    assert problem(found).startswith(f"{files.workspace / '.mcp.json'}: server 's': env.T: ${{KEY}} is not on the list")
    assert f'add "KEY" to "allowedEnv" in {files.home / "mcp.json"}' in problem(found)


def test_a_project_cannot_list_variables(files):
    found = files.read(project={"allowedEnv": ["KEY"], "mcpServers": {"s": {"command": "x", "env": {"T": "${KEY}"}}}})
    assert found.servers == ()


def test_a_default_does_not_stand_in_for_what_is_not_listed(files):
    assert files.read(project={"mcpServers": {"s": {"command": "x", "args": ["${KEY:-a}"]}}}).servers == ()


def test_secrets_stay_out_of_what_questions_show(files):
    entry = {"command": "x", "args": ["--key", "${KEY}"]}
    server = only(files.read(project={"mcpServers": {"s": entry}}, user={"allowedEnv": ["KEY"]}))
    assert server.command[2] == "s3cret" and "s3cret" not in server.target and "${KEY}" in server.target


def test_the_workspace_can_be_named(files):
    server = only(files.read(project={"mcpServers": {"s": {"command": "x", "args": ["${workspaceFolder}/a"]}}}))
    assert server.command == ("x", f"{files.workspace}/a")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"comand": "x"}, "comand: unknown field; did you mean 'command'?"),
        ({"command": 5}, "command: 5; expected text"),
        ({"command": ""}, "command: ''; expected the program"),
        ({}, "command: missing"),
        ([], "expected an object"),
        ({"command": "x", "args": "y"}, "args: 'y'; expected a list"),
        ({"command": "x", "env": {"A": None}}, "env: A: None; expected text"),
        ({"command": "x", "env": {"A=B": "c"}}, "env: 'A=B': expected a name"),
        ({"command": "x", "url": "https://x.test"}, 'url: belongs to servers with "url"'),
        ({"url": "https://x.test", "env": {}}, 'env: belongs to servers with "command"'),
        ({"type": "http", "command": "x"}, "url: missing"),
        ({"type": "sse", "url": "https://x.test"}, 'type: "sse" is not supported'),
        ({"url": "http://x.test/mcp"}, "is not encrypted; expected https"),
        ({"url": "https://u:p@x.test/"}, "has a user or password in it"),
        ({"url": "file:///etc/passwd"}, "expected one such as https://"),
        ({"url": "https://x.test:99999/"}, "url: "),
        ({"url": "https://x.test/", "headers": {"A b": "c"}}, "headers.A b: expected the name of a header"),
        ({"url": "https://x.test/", "headers": {"A": "c\r\nX: y"}}, "headers.A: expected"),
        ({"command": "x", "timeout": 60}, "timeout: 60; expected milliseconds"),
        ({"command": "x", "network": True}, "network: true; expected a list of host names"),
        ({"command": "x", "sandbox": "no"}, "sandbox: 'no'; expected true or false"),
        ({"command": "x", "envFile": ".env"}, 'envFile: not supported; list the variables in "env"'),
        ({"command": "x", "allow": ["a"], "tools": ["b"]}, "tools: means the same as allow"),
        ({"command": "${input:key}"}, "command: ${input:key} is none of"),
        ({"command": "x\0y"}, "command: 'x\\x00y'; expected text"),
    ],
)
def test_a_bad_entry_is_named_with_file_server_and_field_and_the_others_stay(files, entry, words):
    found = files.read(project={"mcpServers": {"bad": entry, "good": COMMAND}})
    assert [server.name for server in found.servers] == ["good"]
    assert problem(found).startswith(f"{files.workspace / '.mcp.json'}: server 'bad': ")
    assert words in problem(found)


def test_own_files_may_name_plain_http(files):
    entry = {"url": "http://x.test/mcp", "allowHttp": True}
    assert only(files.read(user={"mcpServers": {"s": entry}})).url == "http://x.test/mcp"


def test_a_project_may_not_name_plain_http(files):
    entry = {"url": "http://x.test/mcp", "allowHttp": True}
    assert "is not encrypted" in problem(files.read(project={"mcpServers": {"s": entry}}))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "a.localhost"])
def test_this_machine_needs_no_encryption(files, host):
    assert only(files.read(project={"mcpServers": {"s": {"url": f"http://{host}:80/mcp"}}})).url


@pytest.mark.parametrize("host", ["127.0.0.1.evil.test", "localhost.evil.test", "2130706433", "0.0.0.0"])
def test_what_only_looks_like_this_machine_is_refused(files, host):
    assert files.read(project={"mcpServers": {"s": {"url": f"http://{host}/mcp"}}}).servers == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"x"',
        "[" * 100_000,
        '{"a":' * 50 + "1" + "}" * 50,
        '{"mcpServers": NaN}',
        '{"mcpServers": ' + "9" * 10_000 + "}",
        '"' * 50_000,
        "/*" * 50_000,
        "," * 50_000,
        '\\"' * 50_000,
    ],
)
def test_a_file_that_is_no_json_is_named_and_the_others_are_used(files, text):
    found = files.read(project=text, user={"mcpServers": {"s": COMMAND}})
    assert [server.name for server in found.servers] == ["s"]
    assert all(str(files.workspace / ".mcp.json") in one for one in found.problems) and found.problems


def test_bytes_that_are_no_text_are_named(files):
    (files.workspace / ".mcp.json").write_bytes(b'{"mcpServers": {"\xff": {}}}')
    assert "byte 17 is not UTF-8" in problem(files.read())


def test_a_huge_file_is_not_read(files):
    assert "has more than" in problem(files.read(project=" " * (MAX_BYTES + 1)))


def test_a_pipe_in_place_of_the_file_does_not_block(files):
    import os

    os.mkfifo(files.workspace / ".mcp.json")
    assert "named pipe" in problem(files.read())


def test_a_server_that_stands_twice_is_not_used(files):
    found = files.read(project='{"mcpServers": {"s": {"command": "a"}, "s": {"command": "b"}, "t": {"command": "c"}}}')
    assert [server.name for server in found.servers] == ["t"]
    assert "server 's': stands there more than once" in problem(found)


def test_a_field_that_stands_twice_is_refused(files):
    found = files.read(project='{"mcpServers": {"s": {"command": "a", "command": "b"}}}')
    assert "server 's': command: stands there more than once" in problem(found)


@pytest.mark.parametrize("name", ["", "a\x1b[2J", "a\nb", "x" * 65, " a"])
def test_a_name_that_cannot_be_shown_is_refused(files, name):
    assert files.read(project={"mcpServers": {name: COMMAND}}).servers == ()


def test_of_two_servers_with_one_name_the_nearer_file_wins_and_it_is_told(files):
    found = files.read(*({"mcpServers": {"s": {"command": name}}} for name in ("project", "user", "given")))
    assert [server.command for server in found.servers] == [("given",)]
    assert len(found.problems) == 2 and all("used instead of the one in" in text for text in found.problems)


def test_what_the_user_disables_stays_off(files):
    found = files.read(
        project={"mcpServers": {"s": COMMAND}}, user={"mcpServers": {"s": {**COMMAND, "disabled": True}}}
    )
    assert found.servers == ()


def test_a_named_file_must_be_there(files):
    found = configured_servers(files.workspace, files.home, files.given, {})
    assert "No such file" in problem(found)


def test_many_servers_are_bounded(files):
    found = files.read(project={"mcpServers": {f"s{i}": COMMAND for i in range(1000)}})
    assert len(found.servers) == 64 and "only the first 64 are used" in problem(found)


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        ({}, "abc"),
        ({"tools": ["*"]}, "abc"),
        ({"allow": ["a", "b"]}, "ab"),
        ({"deny": ["b"]}, "ac"),
        ({"includeTools": ["a", "b"], "excludeTools": ["b"]}, "a"),
    ],
)
def test_lists_choose_tools(files, fields, offered):
    server = only(files.read(project={"mcpServers": {"s": {**COMMAND, **fields}}}))
    assert "".join(filter(server.offers, "abc")) == offered


@pytest.mark.parametrize(
    ("fields", "approved"),
    [({}, ""), ({"autoApprove": ["a"]}, "a"), ({"alwaysAllow": True}, "abc"), ({"trust": True}, "abc")],
)
def test_lists_approve_tools(files, fields, approved):
    server = only(files.read(project={"mcpServers": {"s": {**COMMAND, **fields}}}))
    assert "".join(filter(server.approves, "abc")) == approved


def test_any_change_of_an_entry_changes_its_digest(files):
    entries = [
        COMMAND,
        {"command": "server", "args": ["x"]},
        {"command": "server", "env": {"A": "1"}},
        {"command": "server", "env": {"A": "2"}},
        {"command": "server", "sandbox": False},
        {"command": "server", "autoApprove": ["*"]},
    ]
    digests = {only(files.read(project={"mcpServers": {"s": entry}})).digest for entry in entries}
    (files.workspace / ".mcp.json").unlink()
    digests.add(only(files.read(user={"mcpServers": {"s": COMMAND}})).digest)
    assert len(digests) == len(entries) + 1


def test_a_default_is_used_where_a_variable_that_is_not_listed_is_not_set(files):
    server = only(files.read({"mcpServers": {"s": {"url": "${API:-https://x.org}/mcp"}}}))
    assert server.url == "https://x.org/mcp"
    assert "${KEY} is not on the list" in problem(files.read({"mcpServers": {"s": {"url": "${KEY:-https://x.org}"}}}))


def test_null_and_the_words_of_other_clients_are_taken(files):
    entry = {"source": "custom", "transportType": "stdio", **COMMAND, "args": None, "environment": {"A": "b"}}
    server = only(files.read({"mcpServers": {"s": entry}}))
    assert (server.command, dict(server.env), server.is_sandboxed) == (("server",), {"A": "b"}, True)
