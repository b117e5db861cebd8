"""The bench that packs while it downloads and kills on the way, with a small model."""

from __future__ import annotations

import os
import subprocess
import sys

import gguf
import pytest

from tests.support.gguf_files import write_gguf
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # starts servers or commands, or computes for seconds


def test_a_small_model_is_served_packed_and_verified(tmp_path):
    write_gguf(tmp_path / "model-Q4_K_M.gguf", gguf)
    command = [sys.executable, "-m", "bench.streamed_pack", tmp_path / "model-Q4_K_M.gguf", tmp_path / "packed"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([*command, "--kills", "0"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "GB packed" in done.stdout and "every byte is as it was written" in done.stdout
