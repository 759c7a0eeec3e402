"""Splits adapters into matrix pairs for comparison, and writes adapter folders in PEFT's layout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.lora.block import DoraScale


class Pair(NamedTuple):
    shrink: Tensor  # [rank, in_features]
    expand: Tensor  # [rank, out_features]
    dora: DoraScale | None


def pairs(adapter: Adapter) -> dict[tuple[int, str], Pair]:
    """The matrix pairs of an adapter, keyed by (layer, linear)."""
    found = {
        key: Pair(
            block.shrink[index], block.expand[index], None if block.dora is None else block.dora.layer(index)
        )
        for block in adapter.blocks
        for index, key in enumerate(block.keys)
    }
    assert len(found) == sum(len(block.layers) for block in adapter.blocks)
    return found


def write_adapter(folder: Path, base: Path, rank: int = 2) -> None:
    """Write a PEFT adapter folder with random weights on every q_proj of `base`, without torch."""
    import numpy as np
    from safetensors.numpy import save_file

    shape = json.loads((base / "config.json").read_text())
    hidden = shape["hidden_size"]
    width = shape["num_attention_heads"] * (shape.get("head_dim") or hidden // shape["num_attention_heads"])
    dice = np.random.default_rng(0)
    tensors = {}
    for layer in range(shape["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = dice.normal(0, 0.02, (rank, hidden)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = dice.normal(0, 0.02, (width, rank)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]}
    config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
