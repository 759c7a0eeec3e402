"""Reads the description of a decoder from a Hugging Face `config.json`.

A new family is a row of `FAMILIES` where its features are known; what is not known is refused by name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inference.errors import ModelNotFoundError, UnsupportedModelError
from inference.model.architecture import (
    FUSED_PROJECTIONS,
    PROJECTIONS,
    Architecture,
    ExpertsSpec,
    LayerSpec,
    NormNames,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inference.model.architecture import Activation


@dataclass(frozen=True, slots=True)
class ExpertNames:
    """Names of a mixture of experts in config.json and in the checkpoint."""

    parent: str
    gate: str
    up: str
    down: str
    size_key: str  # of an expert's intermediate size


_LLAMA_NORMS = NormNames("input_layernorm", None, "post_attention_layernorm", None)


@dataclass(frozen=True, slots=True)
class Family:
    """What the decoders of one `model_type` have in common."""

    has_head_norms: bool = False
    has_local_layers: bool = False  # most layers have a window and a rotary embedding of their own
    has_scaled_embeddings: bool = False
    has_partial_rotation: bool = False
    projections: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: PROJECTIONS)
    norms: NormNames = _LLAMA_NORMS
    norm_offset: float = 0.0
    activation_key: str = "hidden_act"
    default_activation: str = "silu"
    default_theta: float = 10_000.0
    default_tied_head: bool = False
    experts: ExpertNames | None = None


_GEMMA_NORMS = NormNames(
    attention="input_layernorm",
    attention_output="post_attention_layernorm",
    mlp="pre_feedforward_layernorm",
    mlp_output="post_feedforward_layernorm",
)
_QWEN_EXPERTS = ExpertNames("mlp", "gate_proj", "up_proj", "down_proj", "moe_intermediate_size")
_MIXTRAL_EXPERTS = ExpertNames("block_sparse_moe", "w1", "w3", "w2", "intermediate_size")
FAMILIES: dict[str, Family] = {
    "gemma3_text": Family(
        has_head_norms=True,
        has_local_layers=True,
        has_scaled_embeddings=True,
        norms=_GEMMA_NORMS,
        norm_offset=1.0,
        activation_key="hidden_activation",
        default_activation="gelu_pytorch_tanh",
        default_theta=1e6,
        default_tied_head=True,
    ),
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(default_theta=1e6, experts=_MIXTRAL_EXPERTS),
    "phi3": Family(has_partial_rotation=True, projections=FUSED_PROJECTIONS),
    "qwen2": Family(),
    "qwen3": Family(has_head_norms=True),
    "qwen3_moe": Family(has_head_norms=True, experts=_QWEN_EXPERTS),
    "smollm3": Family(default_theta=2e6),
}
# Required keys of each rotary scaling; all others have defaults.
_ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# Keys whose values would change the arithmetic.
_REFUSED_KEYS = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "quantization_config",
    "use_bidirectional_attention",
)


def read_architecture(folder: Path) -> Architecture:
    """Raises `ModelNotFoundError` without a readable config.json; `UnsupportedModelError` for its content."""
    path = folder / "config.json"
    try:
        return _architecture(folder, _read_json(path))
    except KeyError as error:
        raise UnsupportedModelError(f"{path} lacks {error}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UnsupportedModelError(f"{path} has a value that is no number as expected: {error}") from error


def _architecture(folder: Path, config: dict[str, Any]) -> Architecture:
    name = config.get("model_type")
    if name not in FAMILIES:
        raise UnsupportedModelError(f"model type {name!r} is not one of {sorted(FAMILIES)}")
    _refuse_unknown(config)
    family, num_heads = FAMILIES[name], int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // num_heads)
    ropes = _ropes(config, family)
    experts = None if family.experts is None else _experts(config, family.experts)
    return Architecture(
        family=name,
        hidden_size=int(config["hidden_size"]),
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
        head_dim=head_dim,
        rotary_dim=_rotary_dim(config, family, ropes[0], head_dim),
        intermediate_size=int(config["intermediate_size"]),
        vocab_size=int(config["vocab_size"]),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        ropes=ropes,
        layers=_layers(config, family),
        max_context=_max_context(config, family),
        has_tied_head=bool(config.get("tie_word_embeddings", family.default_tied_head)),
        has_head_norms=family.has_head_norms,
        eos_token_ids=_eos_token_ids(folder, config),
        projections=family.projections,
        norms=family.norms,
        norm_offset=family.norm_offset,
        activation=_activation(config, family),
        embedding_scale=math.sqrt(config["hidden_size"]) if family.has_scaled_embeddings else 1.0,
        attention_scale=_attention_scale(config, family, head_dim),
        experts=experts,
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


def _refuse_unknown(config: dict[str, Any]) -> None:
    if config.get("quantization_config"):
        raise UnsupportedModelError("the checkpoint is quantised; use one in 16 or 32 bits")
    for key in _REFUSED_KEYS:
        if config.get(key):
            raise UnsupportedModelError(f"{key} of {config[key]!r} is not supported")


def _activation(config: dict[str, Any], family: Family) -> Activation:
    name = config.get(family.activation_key) or family.default_activation
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"activation {name!r} is not one of {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _attention_scale(config: dict[str, Any], family: Family, head_dim: int) -> float:
    """Gemma's scale depends on a number of its own instead of the width of a head."""
    divisor = config.get("query_pre_attn_scalar", 256) if family.has_local_layers else head_dim
    return float(divisor**-0.5)


def _ropes(config: dict[str, Any], family: Family) -> tuple[dict[str, Any], ...]:
    """One rotary embedding, or Gemma's two: of its global layers, then of its local ones."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta", family.default_theta)
    if not family.has_local_layers:
        return (_rope(config, {"rope_theta": theta, **scaling}),)
    kinds = {"full_attention": scaling} if "full_attention" not in scaling else scaling
    local = {"rope_theta": config.get("rope_local_base_freq", 10_000.0), **kinds.get("sliding_attention", {})}
    return _rope(config, {"rope_theta": theta, **kinds["full_attention"]}), _rope(config, local)


def _rope(config: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """Older checkpoints have separate `rope_theta` and `rope_scaling`; newer ones have `rope_parameters`."""
    kind = rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    if kind not in _ROPE_KEYS:
        raise UnsupportedModelError(f"rotary scaling {kind!r} is not one of {sorted(_ROPE_KEYS)}")
    missing = [key for key in _ROPE_KEYS[kind] if not isinstance(rope.get(key), int | float)]
    if missing:
        raise UnsupportedModelError(f"rotary scaling {kind!r} lacks {', '.join(missing)}")
    rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings", 2048))
    return rope


def _rotary_dim(config: dict[str, Any], family: Family, rope: dict[str, Any], head_dim: int) -> int:
    fraction = float(config.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1.0)))
    if fraction != 1.0 and not family.has_partial_rotation:
        raise UnsupportedModelError("partial_rotary_factor: this family's heads are rotated as a whole")
    return int(head_dim * fraction)


def _layers(config: dict[str, Any], family: Family) -> tuple[LayerSpec, ...]:
    numbers = range(int(config["num_hidden_layers"]))
    if family.has_local_layers:
        return tuple(_local_or_global(config, number) for number in numbers)
    if config["model_type"] == "smollm3":
        interval = int(config.get("no_rope_layer_interval", 4))
        flags = config.get("no_rope_layers") or [(number + 1) % interval for number in numbers]
        return tuple(LayerSpec(rope=0 if is_rotated else None) for is_rotated in flags)
    dense = set(config.get("mlp_only_layers") or ())
    step = int(config.get("decoder_sparse_step", 1))
    return tuple(
        LayerSpec(has_experts=family.experts is not None and number not in dense and not (number + 1) % step)
        for number in numbers
    )


def _local_or_global(config: dict[str, Any], number: int) -> LayerSpec:
    """By default every sixth layer is global; the others attend to a window."""
    pattern = int(config.get("_sliding_window_pattern") or config.get("sliding_window_pattern") or 6)
    kinds = config.get("layer_types")
    is_global = kinds[number] == "full_attention" if kinds else (number + 1) % pattern == 0
    return LayerSpec(rope=0) if is_global else LayerSpec(rope=1, window=int(config["sliding_window"]))


def _experts(config: dict[str, Any], names: ExpertNames) -> ExpertsSpec:
    return ExpertsSpec(
        num_experts=int(config.get("num_local_experts") or config["num_experts"]),
        num_used=int(config["num_experts_per_tok"]),
        intermediate_size=int(config[names.size_key]),
        is_normalised=config["model_type"] == "mixtral" or bool(config.get("norm_topk_prob", False)),
        parent=names.parent,
        gate=names.gate,
        up=names.up,
        down=names.down,
    )


def _max_context(config: dict[str, Any], family: Family) -> int:
    """Where all layers have one sliding window, the context is limited to it: within, it has no effect."""
    limit = int(config.get("max_position_embeddings", 2048))
    window = config.get("sliding_window")
    if window and not family.has_local_layers and config.get("use_sliding_window", True):
        return min(limit, int(window))
    return limit


def end_token_ids(folder: Path) -> frozenset[int]:
    """Tokens that end an answer, besides the tokenizer's own. Raises `ModelNotFoundError`."""
    return _eos_token_ids(folder, _read_json(folder / "config.json"))


def _eos_token_ids(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    generation = folder / "generation_config.json"
    value = _read_json(generation).get("eos_token_id") if generation.exists() else None
    value = config.get("eos_token_id") if value is None else value
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list) else frozenset({int(value)})
