"""Parsers of adapters and base models: a safetensors header, a whole adapter, GGUF files."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file

from inference.errors import AdapterError, ModelNotFoundError, UnsupportedModelError
from inference.lora.adapter import AdapterLoader
from inference.lora.files import CONFIG_FILE, WEIGHTS_FILE, adapter_digest
from inference.lora.header import extract_header, read_header
from inference.model.families import read_architecture
from inference.model.gguf import _examine
from inference.model.loader import BaseWeights
from tests.fuzz.mutations import framed, json_values, safetensors
from tests.fuzz.target import Bytes, Target

MAX_TENSORS = 8
MAX_RANK = 8
HIDDEN, INTERMEDIATE, VOCABULARY = 8, 12, 16
LAYER = "model.layers.0"
BASE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32,
    "eos_token_id": 1,
}
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def header(data: bytes) -> None:
    with contextlib.suppress(AdapterError):
        found = extract_header(memoryview(data), MAX_TENSORS)
        for spec in read_header(found, len(data), MAX_TENSORS).values():
            assert 8 + len(found) <= spec.start <= len(data)


def header_seeds() -> list[bytes]:
    small = {"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.bfloat16)}
    return [save(small, {"format": "pt"}), save({"c": torch.zeros(0)})]


def adapter(data: bytes) -> None:
    """The first two bytes are the length of the configuration; the weights follow it."""
    source = Bytes(data)
    config = source.take(source.number(2))
    with tempfile.TemporaryDirectory(prefix="loraledger-fuzz-") as place, contextlib.suppress(AdapterError):
        folder = Path(place)
        (folder / CONFIG_FILE).write_bytes(config)
        (folder / WEIGHTS_FILE).write_bytes(source.rest())
        loaded = _loader().load(folder, adapter_digest(folder), 1 << 20)
        assert loaded.num_bytes < 1 << 20
        assert all(torch.isfinite(block.expand).all() for block in loaded.blocks)


@functools.cache
def _loader() -> AdapterLoader:
    """Of a base model with one layer of eight numbers."""
    with tempfile.TemporaryDirectory(prefix="loraledger-fuzz-") as place:
        folder = Path(place)
        (folder / "config.json").write_text(json.dumps(BASE))
        torch.manual_seed(1)
        shapes = {
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
            "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        }
        weights = {f"{LAYER}.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
        weights["model.embed_tokens.weight"] = torch.randn(VOCABULARY, HIDDEN)
        save_file(weights, folder / "model.safetensors")
        architecture = read_architecture(folder)
        base = BaseWeights.open(folder, architecture, torch.float32)
        digest = hashlib.sha256(b"base").hexdigest()
        return AdapterLoader(base, digest, MAX_RANK)


def adapter_seeds() -> list[bytes]:
    def pair(module: str, width: int, height: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
        prefix = f"base_model.model.{LAYER}.{module}"
        return {
            f"{prefix}.lora_A.weight": torch.ones(2, width, dtype=dtype),
            f"{prefix}.lora_B.weight": torch.ones(height, 2, dtype=dtype),
        }

    query = pair("self_attn.q_proj", HIDDEN, HIDDEN)
    both = query | pair("mlp.down_proj", INTERMEDIATE, HIDDEN, torch.bfloat16)
    magnitude = {f"base_model.model.{LAYER}.self_attn.q_proj.lora_magnitude_vector": torch.ones(HIDDEN)}
    embedded = {
        "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(2, VOCABULARY),
        "base_model.model.model.embed_tokens.lora_embedding_B": torch.ones(HIDDEN, 2),
    }
    return [
        _input(query),
        _input(both, use_rslora=True, alpha_pattern={"q_proj": 8}),
        _input(query | magnitude, use_dora=True),
        _input(query, alora_invocation_tokens=[1, 2], rank_pattern={"down_proj": 4}),
        _input(embedded, target_modules=["embed_tokens"]),
    ]


def _input(tensors: dict[str, Any], **config: Any) -> bytes:
    text = json.dumps(CONFIG | config).encode()
    return len(text).to_bytes(2, "big") + text + save(tensors)


def gguf(data: bytes) -> None:
    """What comes before the conversion, which takes seconds, and which refuses what its library refuses."""
    with tempfile.TemporaryDirectory(prefix="loraledger-fuzz-") as place:
        path = Path(place) / "model.gguf"
        path.write_bytes(data)
        with contextlib.suppress(ModelNotFoundError, UnsupportedModelError):
            _examine(path)


def gguf_seeds() -> list[bytes]:
    import numpy as np
    from gguf import GGUFWriter

    found = []
    for architecture in ("llama", "other"):
        with tempfile.TemporaryDirectory(prefix="loraledger-fuzz-") as place:
            path = Path(place) / "model.gguf"
            writer = GGUFWriter(path, architecture)
            writer.add_block_count(1)
            writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
            writer.add_tensor("token_embd.weight", np.zeros((2, 4), np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            found.append(path.read_bytes())
    return found


TARGETS = (
    Target("safetensors_header", header, header_seeds, max_bytes=2048, mutate=safetensors),
    Target(
        "adapter", adapter, adapter_seeds, max_bytes=6000, mutate=framed(2, "big", json_values, safetensors)
    ),
    Target("gguf", gguf, gguf_seeds, max_bytes=2048),
)
