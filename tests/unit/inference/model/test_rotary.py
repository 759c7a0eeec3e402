"""Rotary tables of every scaling against those of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from inference.model.families import read_architecture
from inference.model.rotary import RotaryTable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

THETA = {"rope_theta": 10_000.0}
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TRAINED = {"original_max_position_embeddings": 128}
YARN = {**THETA, "rope_type": "yarn", "factor": 4.0, **TRAINED}


@pytest.mark.parametrize(
    "rope",
    [
        THETA,
        {"rope_theta": 1e6, "rope_type": "linear", "factor": 3.0},
        {**THETA, "rope_type": "llama3", **LLAMA3, **TRAINED},
        YARN,
        {**YARN, "attention_factor": 1.5},
        {**YARN, "beta_fast": 12.0, "beta_slow": 2.0, "truncate": False},
        {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5},
        {**YARN, "rope_theta": 1e6, "original_max_position_embeddings": 8},
    ],
    ids=lambda rope: f"{rope.get('rope_type', 'default')}-{len(rope)}",
)
def test_tables_equal_those_of_transformers(rope: dict[str, Any], edited: Callable[..., Path]) -> None:
    from transformers import AutoConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    folder = edited(rope_parameters=rope)
    architecture = read_architecture(folder)
    table = RotaryTable(architecture.ropes[0], architecture.rotary_dim, 512, torch.float32, "cpu")
    positions = torch.arange(512)
    reference = LlamaRotaryEmbedding(AutoConfig.from_pretrained(folder))
    cos, sin = reference(torch.zeros(1, 1), positions.unsqueeze(0))
    cosine, sine = table.rotation(positions).rows
    torch.testing.assert_close(cosine.squeeze(1), cos[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sine.squeeze(1), sin[0], atol=1e-5, rtol=1e-5)
