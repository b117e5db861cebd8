"""Which hosts rules name, and which addresses are of the public internet."""

from __future__ import annotations

import pytest

from a3b.agent.sandbox.addresses import HostRule, is_public, normal_name
from a3b.errors import UsageError


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 198.18.0.1
    192.0.0.1 203.0.113.80 240.0.0.1 :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 fec0::1 ::ffff:127.0.0.1
    ::ffff:169.254.169.254 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:a9fe:a9fe::
    2001:db8::1 2001:0:7f00:1::""".split(),
)
def test_addresses_that_are_not_public_are_told(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "151.101.0.223", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_addresses_are_told(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("rule", "name", "port", "is_allowed"),
    [
        ("pypi.org", "pypi.org", 443, True),
        ("pypi.org", "pypi.org", 80, True),
        ("pypi.org", "pypi.org", 22, False),
        ("PyPI.org.", "pypi.org", 443, True),
        ("pypi.org", "evil-pypi.org", 443, False),
        ("pypi.org", "pypi.org.evil.net", 443, False),
        ("*.npmjs.org", "registry.npmjs.org", 443, True),
        ("*.npmjs.org", "npmjs.org", 443, False),
        ("*.npmjs.org", "evilnpmjs.org", 443, False),
        ("db.local:5432", "db.local", 5432, True),
        ("db.local:5432", "db.local", 443, False),
        ("[::1]:8080", "::1", 8080, True),
    ],
)
def test_a_rule_allows_what_it_names(rule, name, port, is_allowed):
    assert HostRule.parse(rule).allows(name, port) == is_allowed


@pytest.mark.parametrize(
    "text", ["", "*", "a b", "http://x.org", "x.org/", "x.org:0", "x.org:99999", "user@x.org", "a..b", "[::1"]
)
def test_what_is_no_host_is_refused(text):
    with pytest.raises(UsageError, match="is no host"):
        HostRule.parse(text)


def test_names_are_compared_in_one_form():
    assert normal_name("BÜCHER.example.") == "xn--bcher-kva.example"
    assert normal_name("0:0:0:0:0:0:0:1") == "::1"
    assert normal_name("a\r\nb") == ""


@pytest.mark.parametrize(
    "text", ["a" * 252 + "!", "a." * 126 + "!", "a-" * 126 + "!", "é" * 4000, "a" * 254, "a..b", ".a"]
)
def test_what_is_no_name_is_told_without_trying_all_ways_to_read_it(text):
    assert normal_name(text) == ""


@pytest.mark.parametrize("text", ["a" * 63 + ".b", "x_y.pypi.org", "*.npmjs.org", "xn--9ca.fr", "a-b.c-d"])
def test_a_name_is_its_own_normal_form(text):
    assert normal_name(text) == text
