"""The weights of an adapter that training goes on from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from backend.domain.errors import InvalidInput
from backend.domain.training import LINEAR_LAYERS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.domain.training import TrainingConfig

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


class ParentDiffers(InvalidInput):
    """The adapter has not the form that the job asks for; `param` names the option."""


def load_parent(model: Any, folder: Path, config: TrainingConfig) -> None:
    """Into the adapter of `model`, which is kept in fp32. Errors: `ParentDiffers`."""
    _check_form(json.loads((folder / CONFIG_FILE).read_bytes()), config)
    weights = load_file(folder / WEIGHTS_FILE)
    wanted = {name: weight.shape for name, weight in get_peft_model_state_dict(model).items()}
    if {name: weight.shape for name, weight in weights.items()} != wanted:
        raise ParentDiffers("the parent's tensors are not those of such an adapter", param="parent")
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ParentDiffers("the parent has weights that are not finite", param="parent")
    set_peft_model_state_dict(model, {name: weight.float() for name, weight in weights.items()})


def _check_form(parent: Mapping[str, Any], config: TrainingConfig) -> None:
    for name, found in _form(parent).items():
        if found != getattr(config, name):
            shown = ", ".join(found) if isinstance(found, tuple) else found
            raise ParentDiffers(f"the parent's {name} is {shown}: ask for the same", param=name)
    for name in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if parent.get(name):
            raise ParentDiffers(f"the parent has a {name}, which jobs here do not train", param="parent")


def _form(parent: Mapping[str, Any]) -> dict[str, Any]:
    """By the names of options."""
    targets = parent["target_modules"]
    variant = "dora" if parent.get("use_dora") else "rslora" if parent.get("use_rslora") else "lora"
    return {
        "rank": parent["r"],
        "alpha": parent["lora_alpha"],
        "variant": variant,
        "targets": tuple(layer for layer in LINEAR_LAYERS if layer in targets),
    }
