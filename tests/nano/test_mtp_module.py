"""The MTP module of the embedded model: a whole one, in a file of its own beside a model that it left as it was."""

from __future__ import annotations

import hashlib

from a3b.engine.engine import nano_directory
from a3b.formats.checkpoint import Checkpoint
from a3b.model.config_reader import read_config
from a3b.model.loader import check_tensors
from a3b.model.parameters import count_parameters
from a3b.model.tensor_names import is_mtp

MODEL = "385ab64178a22ace521417962ccb5bd7001cb3c9f7dc94597d7f75342105125c"  # SHA-256 from before there was a module
KEPT = ("norm", ".fc.", ".gate.weight", "shared_expert_gate")  # in names of what official checkpoints keep in BF16


def test_no_byte_of_the_model_is_another_than_before_its_module_was_trained():
    assert hashlib.sha256((nano_directory() / "model.safetensors").read_bytes()).hexdigest() == MODEL


def test_the_module_is_whole_and_alone_in_its_file():
    checkpoint, config = Checkpoint.open(nano_directory()), read_config(nano_directory())
    model, module = checkpoint.files
    assert all(map(is_mtp, module.tensors)) and not any(map(is_mtp, model.tensors))
    assert check_tensors(checkpoint, config) == {"mtp": count_parameters(config).mtp}


def test_norms_router_and_fc_are_bf16_and_all_other_matrices_fp8_as_in_official_checkpoints():
    _, module = Checkpoint.open(nano_directory()).files
    for name, info in module.tensors.items():
        kept = any(part in name for part in KEPT) or name.endswith("_scale_inv")
        assert info.dtype == ("BF16" if kept else "F8_E4M3"), name
