"""What a digest of weights sees of files large and small, and what the ids of nodes depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from a3b.cache.identity import NUM_SAMPLES, SAMPLE_BYTES, cache_identity, path_hash, root_id
from a3b.engine.engine import nano_directory
from a3b.model.config import with_context
from a3b.model.config_reader import read_config

CONSTANTS = (
    {"attention_factor": 1.0},
    {"beta_fast": 16.0},
    {"beta_slow": 2.0},
    {"original_context": 4096},
    {"factor": 3.0},
)
LARGEST_READ_WHOLE = 2 * NUM_SAMPLES * SAMPLE_BYTES


@pytest.fixture
def identity(tmp_path):
    config = read_config(nano_directory())

    def of(data: bytes, name: str = "model.safetensors") -> bytes:
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / name).write_bytes(data)
        return cache_identity(config, tmp_path, "q8", "avx2")

    return of


def changed(data: bytes, at: int) -> bytes:
    return data[:at] + b"x" + data[at + 1 :]


@pytest.mark.parametrize("at", [0, 3 * SAMPLE_BYTES // 2, LARGEST_READ_WHOLE - 1])
def test_every_byte_of_a_file_of_half_a_megabyte_counts(identity, at):
    data = bytes(LARGEST_READ_WHOLE)
    assert identity(data) != identity(changed(data, at))


def test_of_a_larger_file_the_size_the_header_and_samples_up_to_the_end_count(identity):
    header = 100_000
    data = header.to_bytes(8, "little") + bytes(8 * LARGEST_READ_WHOLE)
    base = identity(data)
    seen = [0, 8 + SAMPLE_BYTES + 1, 8 + header - 1, len(data) - 1, (len(data) - SAMPLE_BYTES) * 7 // (NUM_SAMPLES - 1)]
    assert len({base, identity(data + b"\0"), *(identity(changed(data, at)) for at in seen)}) == len(seen) + 2
    assert identity(changed(data, header + SAMPLE_BYTES)) == base  # between two samples: nobody reads 70 GB


def test_the_name_of_a_file_counts_and_the_same_bytes_in_gguf_are_other_weights(identity):
    assert len({identity(b"w"), identity(b"w", "other.safetensors"), identity(b"w", "model.gguf")}) == 3


def test_a_file_of_the_mtp_module_counts_where_states_hold_what_it_needs(tmp_path):
    config = read_config(nano_directory())
    (tmp_path / "model.safetensors").write_bytes(b"w")
    before = [cache_identity(config, tmp_path, "q8", "avx2", mtp=mtp) for mtp in (False, True)]
    (tmp_path / "mtp.safetensors").write_bytes(b"m")
    after = [cache_identity(config, tmp_path, "q8", "avx2", mtp=mtp) for mtp in (False, True)]
    assert after[0] == before[0] and len({*before, *after}) == 3


def test_each_scaling_of_positions_has_states_of_its_own():
    """Native, YaRN 2 and 4 by the context, and other constants in config.json; equal ones share theirs."""
    native = read_config(nano_directory())
    scaled = [with_context(native, factor * native.max_context)[0] for factor in (1, 2, 4)]
    told = [replace(scaled[1], rope=replace(scaled[1].rope, **change)) for change in CONSTANTS]
    ids = [cache_identity(config, nano_directory(), "q8", "avx2") for config in (*scaled, *told)]
    assert len(set(ids)) == 3 + len(CONSTANTS)
    assert ids[1] == cache_identity(with_context(native, native.max_context + 1)[0], nano_directory(), "q8", "avx2")


def test_ids_depend_on_the_identity_the_namespace_and_where_one_ends():
    assert len({root_id(b"a", "bc"), root_id(b"ab", "c"), root_id(b"a", "b"), root_id(b"b", "bc")}) == 4
    assert len(path_hash(root_id(b"a", "b")).digest()) == 16
