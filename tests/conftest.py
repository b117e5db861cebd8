"""What holds for all tests."""

import gc
import logging
import os
import re
import signal
import tempfile

import pytest

# A job that a shell starts in the background ignores Ctrl-C, and one under nohup the end of its terminal; and so would
# every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


SLOW_FILE = re.compile(r"^pytestmark = (\[[^]]*)?pytest\.mark\.slow\b", re.MULTILINE)
LEVEL = pytest.StashKey[int]()


@pytest.fixture(autouse=True, scope="session")
def _no_test_writes_to_the_user_s_cache():
    """Commands that keep something by default keep it in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="a3b-tests-") as directory, pytest.MonkeyPatch.context() as patch:
        if "A3B_CACHE" not in os.environ:
            patch.setenv("A3B_CACHE", directory)
        yield


def pytest_configure(config):
    gc.disable()  # nothing that collecting tests makes goes away again


def pytest_ignore_collect(collection_path, config):
    """`make quick` does not even load files all of whose tests are slow: they import what takes seconds."""
    if config.getoption("markexpr") == "not slow" and collection_path.suffix == ".py":
        return True if SLOW_FILE.search(collection_path.read_text(encoding="utf-8")) else None
    return None


def pytest_collection_finish(session):
    gc.freeze()
    gc.enable()


def pytest_runtest_logreport(report):
    """A failure is told at once: a run that is cut short shows no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.outcome} in {report.when}: {report.nodeid}\n{report.longreprtext[-2000:]}", flush=True)


def pytest_runtest_setup(item):
    item.stash[LEVEL] = logging.getLogger().level


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """`a3b serve` in this process sets up the root logger, whose stream is then that of a test that is over."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler.formatter).__module__ == "a3b.server.logs":
            root.removeHandler(handler)
    root.setLevel(item.stash.get(LEVEL, root.level))  # a test that is skipped has not been set up
