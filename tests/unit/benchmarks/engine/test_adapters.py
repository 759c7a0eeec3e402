"""Adapters that are made to be measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.engine.adapters import make_adapters, num_weight_bytes
from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef
from tests.fixtures_engine import read_tensors


def test_every_adapter_is_another_and_none_has_a_zero_side(adapters: list[str]) -> None:
    digests = [adapter_digest(Path(folder)) for folder in adapters]
    assert len(set(digests)) == len(adapters)
    tensors = read_tensors(AdapterRef(digests[0], adapters[0]))
    assert all(tensor.count_nonzero() > tensor.numel() // 2 for tensor in tensors.values())


def test_the_stated_size_is_that_of_the_weights(adapters: list[str], tiny_model: Path) -> None:
    tensors = read_tensors(AdapterRef("0" * 64, adapters[0]))
    assert sum(tensor.nbytes for tensor in tensors.values()) == num_weight_bytes(tiny_model, rank=2)


def test_adapters_are_kept_and_come_out_the_same_elsewhere(tiny_model: Path, tmp_path: Path) -> None:
    first = make_adapters(tmp_path / "a", tiny_model, 2, rank=2)
    written_at = (first[0] / "adapter_model.safetensors").stat().st_mtime_ns
    again = make_adapters(tmp_path / "a", tiny_model, 3, rank=2)
    elsewhere = make_adapters(tmp_path / "b", tiny_model, 3, rank=2)
    assert (again[0] / "adapter_model.safetensors").stat().st_mtime_ns == written_at
    assert [adapter_digest(folder) for folder in again] == [adapter_digest(folder) for folder in elsewhere]
