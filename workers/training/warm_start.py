"""Loads the weights of the parent adapter that a job continues from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from backend.domain.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from backend.domain.errors import InvalidInput
from backend.domain.training import LINEAR_LAYERS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.domain.training import TrainingConfig


class ParentMismatch(InvalidInput):
    """The parent's configuration or tensors differ from the job's; `param` names the option."""


def load_parent(model: Any, folder: Path, config: TrainingConfig) -> None:
    """Load the parent into the adapter of `model`, in fp32. Errors: `ParentMismatch`."""
    _check_options(json.loads((folder / CONFIG_FILE).read_bytes()), config)
    weights = load_file(folder / WEIGHTS_FILE)
    expected = {name: weight.shape for name, weight in get_peft_model_state_dict(model).items()}
    if {name: weight.shape for name, weight in weights.items()} != expected:
        raise ParentMismatch("the parent's tensors do not match its configuration", param="parent")
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ParentMismatch("the parent has non-finite weights", param="parent")
    set_peft_model_state_dict(model, {name: weight.float() for name, weight in weights.items()})


def _check_options(parent: Mapping[str, Any], config: TrainingConfig) -> None:
    for name, value in options_of(parent).items():
        if value != getattr(config, name):
            shown = ", ".join(value) if isinstance(value, tuple) else value
            raise ParentMismatch(f"the parent's {name} is {shown}: set {name} to the same value", param=name)
    for name in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if parent.get(name):
            raise ParentMismatch(f"the parent has a {name}, which is not supported", param="parent")


def options_of(parent: Mapping[str, Any]) -> dict[str, Any]:
    """A PEFT configuration by the names of `TrainingConfig`."""
    targets = parent["target_modules"]
    variant = "dora" if parent.get("use_dora") else "rslora" if parent.get("use_rslora") else "lora"
    return {
        "rank": parent["r"],
        "alpha": parent["lora_alpha"],
        "variant": variant,
        "targets": tuple(layer for layer in LINEAR_LAYERS if layer in targets),
    }
