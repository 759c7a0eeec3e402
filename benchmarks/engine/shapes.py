"""Checkpoints in the shapes of larger models, with random weights: their speed and memory are those of the
models, whose weights need not be downloaded.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from benchmarks.engine.adapters import make_adapters
from benchmarks.engine.workload import NUM_PROMPTS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

# The published config.json of each, without keys that do not change the arithmetic.
_CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
    },
}
SHAPES = tuple(_CONFIGS)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Shape:
    """Folders of a checkpoint and of as many adapters as a batch has prompts."""

    model: str
    adapters: list[str]


def make_shape(root: Path, name: str, tokenizer: Path) -> Shape:
    """The shape `name` with its adapters under `root`, which are reused by later runs."""
    model = make_checkpoint(root / "models" / name, name, tokenizer)
    adapters = make_adapters(root / "adapters", model, NUM_PROMPTS)
    return Shape(str(model.resolve()), [str(folder.resolve()) for folder in adapters])


def make_checkpoint(folder: Path, name: str, tokenizer: Path) -> Path:
    """Write random weights in bf16, always the same, unless `folder` exists. The tokenizer is that of the
    folder `tokenizer`, whose vocabulary is smaller.
    """
    if folder.is_dir():
        return folder
    scratch = folder.with_suffix(".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for file in _TOKENIZER_FILES:
        shutil.copyfile(tokenizer / file, scratch / file)
    (scratch / "config.json").write_text(json.dumps({**_CONFIGS[name], "eos_token_id": 2}))
    save_file(_weights(scratch), scratch / "model.safetensors", metadata={"format": "pt"})
    scratch.rename(folder)
    return folder


def _weights(folder: Path) -> dict[str, Tensor]:
    """Random weights by name, in the shapes that transformers gives the model of config.json."""
    from transformers import AutoConfig, AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = factory.from_config(AutoConfig.from_pretrained(folder))
    source = torch.Generator().manual_seed(0)
    weights = {}
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            weights[name] = torch.ones(parameter.shape, dtype=torch.bfloat16)
        else:
            weights[name] = (torch.randn(parameter.shape, generator=source) * 0.02).bfloat16()
    return weights
