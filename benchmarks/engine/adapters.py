"""Generates adapters for benchmarks: PEFT folders with random weights, reused between runs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from inference.model.families import read_architecture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.model.architecture import Architecture

RANK = 8


def make_adapters(
    root: Path, model: Path, count: int, rank: int = RANK, on_made: Callable[[], None] = lambda: None
) -> list[Path]:
    """Write `count` folders under `root` with LoRA of `rank` on all linear layers of `model`, in bf16.

    Existing folders are reused: the n-th adapter of a model always has the same bytes. `on_made` is called
    for each folder.
    """
    architecture = read_architecture(model)
    root = root / f"{model.name}-rank{rank}"
    folders = []
    for number in range(count):
        folder = root / f"{number:04}"
        if not folder.is_dir():
            scratch = root / f"{number:04}.part"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            _write(scratch, architecture, rank, number)
            scratch.rename(folder)
        folders.append(folder)
        on_made()
    return folders


def num_weight_bytes(model: Path, rank: int = RANK) -> int:
    """Size of the weights of one such adapter in bf16, in bytes."""
    architecture = read_architecture(model)
    features = sum(sum(architecture.linear_shape(linear)) for _, linear in architecture.linear_keys)
    return features * rank * torch.bfloat16.itemsize


def _write(folder: Path, architecture: Architecture, rank: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer, linear in architecture.linear_keys:
        in_features, out_features = architecture.linear_shape(linear)
        name = f"base_model.model.{architecture.linear_name(layer, linear)}"
        # Deltas are a few percent of a layer's output: neither rounded away nor overflowing.
        down = torch.randn(rank, in_features, generator=source) * in_features**-0.5
        up = torch.randn(out_features, rank, generator=source) * 0.02
        tensors[f"{name}.lora_A.weight"] = down.bfloat16()
        tensors[f"{name}.lora_B.weight"] = up.bfloat16()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(architecture.linears),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
