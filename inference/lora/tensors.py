"""Groups the tensors of a file by linear layer, from names and shapes alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.errors import (
    AdapterBiasError,
    AdapterError,
    AdapterModulesToSaveError,
    AdapterRankError,
    AdapterShapeError,
    AdapterTargetError,
    AdapterUnsupportedError,
    AdapterWrongBaseError,
)
from inference.model.architecture import EMBEDDING, HEAD, OUTER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.kernels.factors import TensorSpec
    from inference.lora.config import AdapterConfig
    from inference.model.architecture import Architecture

TENSORS_PER_LINEAR = 3
_OUTER_NAMES = {
    "base_model.model.model.embed_tokens.lora_embedding_A": (EMBEDDING, "lora_A.weight"),
    "base_model.model.model.embed_tokens.lora_embedding_B": (EMBEDDING, "lora_B.weight"),
    "base_model.model.lm_head.lora_A.weight": (HEAD, "lora_A.weight"),
    "base_model.model.lm_head.lora_B.weight": (HEAD, "lora_B.weight"),
}
_DOWN, _UP, _MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
_NAME = re.compile(
    r"base_model\.model\.(?P<module>model\.layers\.(?P<layer>0|[1-9][0-9]{0,3})\.(?P<parent>self_attn|mlp)"
    r"\.(?P<linear>[a-z_]{1,20}))\.(?P<side>lora_A\.weight|lora_B\.weight|lora_magnitude_vector)"
)


@dataclass(frozen=True, slots=True)
class LinearSpecs:
    """The tensors of one linear layer. Their shapes match the base model and the configured rank."""

    layer: int
    linear: str  # such as "q_proj"
    module: str  # its full name
    down: TensorSpec  # A: [rank, in_features]
    up: TensorSpec  # B: [out_features, rank]
    magnitude: TensorSpec | None  # [out_features]; DoRA only

    def is_followed_by(self, other: LinearSpecs) -> bool:
        """Whether `other` is the same linear of the next layer, with the same rank."""
        rank = other.down.shape[0]
        return (other.linear, other.layer, rank) == (self.linear, self.layer + 1, self.down.shape[0])


def group_by_linear(
    specs: Mapping[str, TensorSpec], config: AdapterConfig, architecture: Architecture, max_rank: int
) -> list[LinearSpecs]:
    """Sorted by (layer, linear). Every tensor must belong to a linear layer of the decoder, the embeddings or
    the head.

    Raises `AdapterTargetError`, `AdapterBiasError`, `AdapterModulesToSaveError`, `AdapterWrongBaseError`,
    `AdapterShapeError`, `AdapterRankError`, `AdapterUnsupportedError`.
    """
    parents = {linear: architecture.parent(linear) for linear in architecture.linears}
    sides: dict[tuple[int, str], dict[str, TensorSpec]] = {}
    for name, spec in specs.items():
        if name in _OUTER_NAMES:
            linear, side = _OUTER_NAMES[name]
            _check_outer(name, linear, config)
            sides.setdefault((0, linear), {})[side] = spec
            continue
        match = _NAME.fullmatch(name)
        if match is None or parents.get(match["linear"]) != match["parent"]:
            raise _unknown(name, architecture)
        layer = int(match["layer"])
        if layer >= architecture.num_layers:
            raise AdapterWrongBaseError(name, f"the base model has {architecture.num_layers} layers")
        if not architecture.has_linear(layer, match["linear"]):
            raise AdapterTargetError(name, f"layer {layer} has experts, which adapters cannot change")
        sides.setdefault((layer, match["linear"]), {})[match["side"]] = spec
    expected = {_DOWN, _UP, _MAGNITUDE} if config.is_dora else {_DOWN, _UP}
    shapes = {linear: architecture.linear_shape(linear) for linear in (*architecture.linears, *OUTER)}
    grouped = []
    for (layer, linear), found in sorted(sides.items()):
        module = architecture.linear_name(layer, linear)
        if found.keys() != expected:
            reason = f"it has {', '.join(sorted(found))}; expected are {', '.join(sorted(expected))}"
            raise AdapterShapeError(module, reason)
        one = LinearSpecs(layer, linear, module, found[_DOWN], found[_UP], found.get(_MAGNITUDE))
        _check_rank(one, config.rank(module), max_rank)
        _check_base(one, *shapes[linear])
        grouped.append(one)
    return grouped


def _check_outer(name: str, linear: str, config: AdapterConfig) -> None:
    """Refuse what PEFT computes differently for embeddings and head, or does not define."""
    if config.is_dora:
        raise AdapterUnsupportedError(name, "DoRA on embeddings or head; train it on linear layers only")
    if config.is_tied:
        reason = "`ensure_weight_tying` makes one delta of embeddings and head; train them apart"
        raise AdapterUnsupportedError(name, reason)
    if config.invocation and linear == EMBEDDING:
        raise AdapterUnsupportedError(name, "PEFT has no activated LoRA (aLoRA) on embeddings")


def _unknown(name: str, architecture: Architecture) -> AdapterError:
    if name.endswith((".bias", ".lora_bias")):
        return AdapterBiasError(name, "a bias cannot share a batch; train without one")
    if name.endswith(".base_layer.weight"):
        return AdapterModulesToSaveError(
            name, "a copy of base weights; save the adapter with `save_embedding_layers=False`"
        )
    if "modules_to_save" in name:
        return AdapterModulesToSaveError(name, "it would replace shared base weights")
    return AdapterTargetError(
        name, f"not LoRA on a linear layer ({', '.join(architecture.linears)}), embeddings or head"
    )


def _check_rank(specs: LinearSpecs, rank: int, max_rank: int) -> None:
    if rank > max_rank:
        raise AdapterRankError(specs.module, f"rank {rank} is over the engine's limit of {max_rank}")
    down, up = specs.down.shape, specs.up.shape
    if len(down) != 2 or len(up) != 2 or down[0] != rank or up[1] != rank:
        reason = f"A {list(down)} and B {list(up)} do not fit the configured rank {rank}"
        raise AdapterShapeError(specs.module, reason)


def _check_base(specs: LinearSpecs, in_features: int, out_features: int) -> None:
    has = (specs.down.shape[1], specs.up.shape[0])
    if has != (in_features, out_features):
        reason = f"maps {has[0]} -> {has[1]} features, the base model {in_features} -> {out_features}"
        raise AdapterWrongBaseError(specs.module, reason)
    if specs.magnitude is not None and specs.magnitude.shape != (out_features,):
        reason = f"magnitude {list(specs.magnitude.shape)} is not one number for each of {out_features} rows"
        raise AdapterShapeError(specs.module, reason)
