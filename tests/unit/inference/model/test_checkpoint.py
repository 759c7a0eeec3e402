"""Folders that hold no whole, readable model are refused with what is wrong and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.errors import ModelNotFoundError, UnsupportedModelError
from inference.model.checkpoint import Checkpoint
from tests.fixtures_engine import make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(edited: Callable[..., Path]) -> Path:
    return edited()


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_model(tmp_path / "sharded", max_shard_size="40KB")


def test_sharded_files_read_as_one(sharded: Path, tiny_llama: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    whole = load_file(tiny_llama / "model.safetensors")
    checkpoint = Checkpoint(sharded)
    for name, tensor in whole.items():
        assert torch.equal(checkpoint.tensor(name, tuple(tensor.shape), torch.float32), tensor)
    checkpoint.check_all_used()


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelNotFoundError, match=f"{shard.name}.*fetch it again"):
        Checkpoint(sharded)


def test_a_truncated_file_is_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelNotFoundError, match="truncated"):
        Checkpoint(folder)


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match=r"only pytorch_model\.bin: pickle can run code"):
        Checkpoint(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no model\.safetensors"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "named"),
    [
        (b"{", "not an index"),
        (b"[]", "not an index"),
        (b'{"weight_map": {"a": "../model.safetensors"}}', "outside its folder"),
        (b'{"weight_map": {"a": ".hidden"}}', "outside its folder"),
        (b'{"weight_map": {"a": 3}}', "outside its folder"),
    ],
)
def test_an_index_that_is_none_is_refused(index: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(ModelNotFoundError, match=named):
        Checkpoint(tmp_path)


def test_missing_and_misshapen_tensors_are_named(tiny_llama: Path) -> None:
    checkpoint = Checkpoint(tiny_llama)
    with pytest.raises(UnsupportedModelError, match=r"no tensor model\.other"):
        checkpoint.tensor("model.other", (1,), torch.float32)
    with pytest.raises(UnsupportedModelError, match=r"shape \[64\], config\.json says \[65\]"):
        checkpoint.tensor("model.norm.weight", (65,), torch.float32)


def test_integers_are_not_taken_for_weights(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"torch\.int8"):
        Checkpoint(tmp_path).tensor("w", (4,), torch.float32)


def test_tensors_without_a_place_are_refused_except_derived_ones(tmp_path: Path) -> None:
    names = ("w", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.vision.weight")
    save_file({name: torch.zeros(4) for name in names}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    checkpoint.tensor("w", (4,), torch.float32)
    with pytest.raises(UnsupportedModelError, match=r"1 tensors .* model\.vision\.weight"):
        checkpoint.check_all_used()
    checkpoint.check_all_used(ignored={"model.vision.weight"})
