"""Writes a Hugging Face checkpoint as GGUF, in the layout of llama.cpp."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import gguf
import numpy as np
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(
    model: Path,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    fields: Mapping[str, int | str] | None = None,
    without: str = "-",
) -> Path:
    """`kind` is how matrices are stored; norms and biases stay in fp32. `fields` are added; tensors whose
    name holds `without` are left out.
    """
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(path, config["model_type"])
    _write_config(writer, config)
    _write_tokenizer(writer, json.loads((model / "tokenizer.json").read_text()))
    for name, value in (fields or {}).items():
        writer.add_string(name, value) if isinstance(value, str) else writer.add_uint32(name, value)
    for name, tensor in load_file(model / "model.safetensors").items():
        if without in name:
            continue
        array = tensor.numpy()
        if config["model_type"] == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            is_query = "q_proj" in name
            array = _interleave(array, config["num_attention_heads" if is_query else "num_key_value_heads"])
        stored = kind if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(_gguf_name(name), gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: gguf.GGUFWriter, config: dict) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_key_length(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict) -> None:
    """Replace the last byte token by a merge, because readers reject an empty list of merges."""
    vocabulary = tokenizer["model"]["vocab"]
    tokens = [*sorted(vocabulary, key=vocabulary.get)[:-1], "ab"]
    special = {token["content"] for token in tokenizer["added_tokens"]}
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in special else normal for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def _gguf_name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _interleave(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp rotates neighbouring features where Hugging Face rotates the two halves of a head."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))
