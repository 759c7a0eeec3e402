from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from inference.errors import ModelNotFoundError, UnsupportedModelError
from inference.model.architecture import read_architecture
from inference.model.loader import load_decoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def edited(tiny_llama: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny model with keys of its config.json changed."""

    def edit(**changes: Any) -> Path:
        folder = shutil.copytree(tiny_llama, tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    return edit


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
    ],
)
def test_models_outside_the_family_are_refused_by_name(
    changes: dict[str, Any], named: str, edited: Callable[..., Path]
) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        read_architecture(edited(**changes))


def test_older_checkpoints_keep_rotary_settings_at_the_top(edited: Callable[..., Path]) -> None:
    folder = edited(rope_parameters=None, rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    rope = read_architecture(folder).rope
    assert (rope["rope_type"], rope["rope_theta"], rope["factor"]) == ("linear", 5e5, 2.0)


def test_a_sliding_window_bounds_the_context(edited: Callable[..., Path]) -> None:
    assert read_architecture(edited(sliding_window=100)).max_context == 100


def test_weights_that_do_not_fit_the_config_are_refused(edited: Callable[..., Path]) -> None:
    folder = edited(intermediate_size=100)
    with pytest.raises(UnsupportedModelError, match="gate_proj"):
        load_decoder(folder, read_architecture(folder), 16, torch.float32, "cpu")


def test_a_folder_without_safetensors_is_refused(edited: Callable[..., Path]) -> None:
    folder = edited()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="other weight formats"):
        load_decoder(folder, read_architecture(folder), 16, torch.float32, "cpu")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        read_architecture(tmp_path / "nowhere")
