"""What holds for all tests."""

import logging
import os
import signal
import tempfile

import pytest

# A job that a shell starts in the background ignores Ctrl-C, and so would every process that a test starts and
# interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_test_writes_to_the_user_s_cache():
    """Commands that keep something by default keep it in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="a3b-tests-") as directory, pytest.MonkeyPatch.context() as patch:
        if "A3B_CACHE" not in os.environ:
            patch.setenv("A3B_CACHE", directory)
        yield


@pytest.fixture(autouse=True)
def _the_log_of_a_server_ends_with_its_test():
    """`a3b serve` in this process sets up the root logger, whose stream is then that of a test that is over."""
    root = logging.getLogger()
    level = root.level
    yield
    for handler in list(root.handlers):
        if type(handler.formatter).__module__ == "a3b.server.logs":
            root.removeHandler(handler)
    root.setLevel(level)
