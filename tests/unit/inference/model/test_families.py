from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from inference.errors import ModelNotFoundError, UnsupportedModelError
from inference.model.families import read_architecture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn' lacks factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_models_outside_the_family_are_refused_by_name(
    changes: dict[str, Any], named: str, edited: Callable[..., Path]
) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        read_architecture(edited(**changes))


@pytest.mark.parametrize("changes", [{"num_hidden_layers": "many"}, {"num_attention_heads": None}])
def test_a_value_that_is_no_number_is_refused(changes: dict[str, Any], edited: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match="is no number"):
        read_architecture(edited(**changes))


def test_a_missing_key_is_named(edited: Callable[..., Path]) -> None:
    folder = edited()
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="lacks 'hidden_size'"):
        read_architecture(folder)


def test_older_checkpoints_keep_rotary_settings_at_the_top(edited: Callable[..., Path]) -> None:
    folder = edited(rope_parameters=None, rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0})
    rope = read_architecture(folder).ropes[0]
    assert (rope["rope_type"], rope["rope_theta"], rope["factor"]) == ("linear", 5e5, 2.0)


def test_a_sliding_window_bounds_the_context(edited: Callable[..., Path]) -> None:
    assert read_architecture(edited(sliding_window=100)).max_context == 100


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        read_architecture(tmp_path / "nowhere")
