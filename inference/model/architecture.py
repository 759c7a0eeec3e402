"""Shape of a Llama-family decoder, read from a Hugging Face `config.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import ModelNotFoundError, UnsupportedModelError

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})
# Required keys of each scaling; all others have defaults.
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}

# Linear layers with the same input are fused into one matrix: fused name -> its linear layers, in row order.
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
PARENT_BY_LINEAR = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """Dimensions and constants of one decoder."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope: dict[str, Any]  # keys of transformers' `rope_parameters`
    max_context: int
    has_tied_head: bool
    unrotated_layers: frozenset[int]  # SmolLM3 has no rotary embedding in every fourth layer
    has_head_norms: bool  # Qwen3 normalises each head's queries and keys
    eos_token_ids: frozenset[int]

    def linear_shape(self, linear: str) -> tuple[int, int]:
        """(in_features, out_features) of one of the seven linear layers."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, queries),
            "k_proj": (self.hidden_size, keys),
            "v_proj": (self.hidden_size, keys),
            "o_proj": (queries, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
        }[linear]

    def fused_columns(self, linear: str) -> tuple[str, slice]:
        """The fused projection of a linear layer, and the layer's columns in the projection's output."""
        projection, linears = next(item for item in PROJECTIONS.items() if linear in item[1])
        start = sum(self.linear_shape(before)[1] for before in linears[: linears.index(linear)])
        return projection, slice(start, start + self.linear_shape(linear)[1])

    def linear_name(self, layer: int, linear: str) -> str:
        """Name in a checkpoint without `.weight`, such as `model.layers.3.self_attn.q_proj`."""
        return f"model.layers.{layer}.{PARENT_BY_LINEAR[linear]}.{linear}"


def read_architecture(folder: Path) -> Architecture:
    """Raises `ModelNotFoundError` without a readable config.json; `UnsupportedModelError` for its content."""
    config = _read_json(folder / "config.json")
    family = config.get("model_type")
    if family not in FAMILIES:
        raise UnsupportedModelError(f"model type {family!r} is not one of {sorted(FAMILIES)}")
    if config.get("hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"activation {config['hidden_act']!r}; only silu is supported")
    if config.get("quantization_config"):
        raise UnsupportedModelError("the checkpoint is quantised; use one in 16 or 32 bits")
    num_heads = int(config["num_attention_heads"])
    return Architecture(
        hidden_size=int(config["hidden_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // num_heads),
        intermediate_size=int(config["intermediate_size"]),
        vocab_size=int(config["vocab_size"]),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope=_rope(config),
        max_context=_max_context(config),
        has_tied_head=bool(config.get("tie_word_embeddings", False)),
        unrotated_layers=_unrotated_layers(config) if family == "smollm3" else frozenset(),
        has_head_norms=family == "qwen3",
        eos_token_ids=_eos_token_ids(folder, config),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelNotFoundError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelNotFoundError(f"{path} is not a JSON object")
    return value


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Older checkpoints have separate `rope_theta` and `rope_scaling`; newer ones have `rope_parameters`."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    default_theta = 2_000_000.0 if config["model_type"] == "smollm3" else 10_000.0
    rope = {"rope_theta": config.get("rope_theta", default_theta), **scaling}
    kind = rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    if kind not in ROPE_TYPES:
        raise UnsupportedModelError(f"rotary scaling {kind!r} is not one of {sorted(ROPE_TYPES)}")
    if config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor: partly rotated heads are not supported")
    missing = [key for key in _ROPE_KEYS[kind] if not isinstance(rope.get(key), int | float)]
    if missing:
        raise UnsupportedModelError(f"rotary scaling {kind!r} lacks {', '.join(missing)}")
    rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings", 2048))
    return rope


def _unrotated_layers(config: dict[str, Any]) -> frozenset[int]:
    num_layers, interval = int(config["num_hidden_layers"]), int(config.get("no_rope_layer_interval", 4))
    flags = config.get("no_rope_layers") or [(layer + 1) % interval for layer in range(num_layers)]
    return frozenset(layer for layer, is_rotated in enumerate(flags) if not is_rotated)


def _max_context(config: dict[str, Any]) -> int:
    """The context is limited to the sliding window, within which the window has no effect."""
    limit = int(config.get("max_position_embeddings", 2048))
    window = config.get("sliding_window")
    if window and config.get("use_sliding_window", True):
        return min(limit, int(window))
    return limit


def _eos_token_ids(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    generation = folder / "generation_config.json"
    value = _read_json(generation).get("eos_token_id") if generation.exists() else None
    value = config.get("eos_token_id") if value is None else value
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list) else frozenset({int(value)})
