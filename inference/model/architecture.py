"""Description of a decoder: everything that the arithmetic needs to know besides the weights.

`inference.model.families` reads it from a checkpoint's config.json, and `inference.model.decoder` executes
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Activation = Literal["silu", "gelu_tanh"]

# Linear layers with the same input are computed as one matrix: fused name -> linear layers of the checkpoint,
# in row order. Phi's checkpoints store them fused.
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
FUSED_PROJECTIONS: dict[str, tuple[str, ...]] = {
    "qkv": ("qkv_proj",),
    "o": ("o_proj",),
    "gate_up": ("gate_up_proj",),
    "down": ("down_proj",),
}
# The matrices outside the layers that adapters may change, with the names of their modules. Adapters count
# them to layer 0. For an adapter, an embedding is a linear layer whose input is one-hot.
EMBEDDING, HEAD = "embed_tokens", "lm_head"
OUTER = {EMBEDDING: "model.embed_tokens", HEAD: "lm_head"}
_PARENT_BY_PROJECTION = {"qkv": "self_attn", "o": "self_attn", "gate_up": "mlp", "down": "mlp"}


@dataclass(frozen=True, slots=True)
class NormNames:
    """Names of a layer's norms in the checkpoint. The outputs' norms come before the residual sum."""

    attention: str
    attention_output: str | None
    mlp: str
    mlp_output: str | None


@dataclass(frozen=True, slots=True)
class ExpertsSpec:
    """A mixture of experts in place of the MLP: the router chooses `num_used` of `num_experts` per token."""

    num_experts: int
    num_used: int
    intermediate_size: int
    is_normalised: bool  # the weights of a token's experts add up to 1
    parent: str  # such as "block_sparse_moe", with the router `gate` and the `experts`
    gate: str  # names of an expert's linear layers
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What may set a layer apart from the others of its decoder."""

    rope: int | None = 0  # index into `Architecture.ropes`; None: no rotary embedding
    window: int = 0  # latest positions that a token attends to, its own included; 0: all
    has_experts: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """Dimensions and constants of one decoder."""

    family: str  # `model_type` in config.json
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int  # leading features of a head that are rotated
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    ropes: tuple[dict[str, Any], ...]  # each with the keys of transformers' `rope_parameters`
    layers: tuple[LayerSpec, ...]
    max_context: int
    has_tied_head: bool
    has_head_norms: bool  # each head's queries and keys are normalised
    eos_token_ids: frozenset[int]
    projections: Mapping[str, tuple[str, ...]]
    norms: NormNames
    norm_offset: float  # norms multiply by their weight plus this
    activation: Activation
    embedding_scale: float
    attention_scale: float  # of queries times keys
    experts: ExpertsSpec | None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def linears(self) -> tuple[str, ...]:
        """Names of the linear layers that adapters may change."""
        projections = self.projections.items()
        return tuple(name for projection, names in projections if self._has(projection) for name in names)

    @property
    def linear_keys(self) -> list[tuple[int, str]]:
        """(layer, linear) of every linear layer that adapters may change, in order."""
        layers = range(self.num_layers)
        return [(layer, name) for layer in layers for name in self.linears if self.has_linear(layer, name)]

    @property
    def special_features(self) -> list[str]:
        """What the native kernels do not compute, in words. Plain torch computes it."""
        features = {
            "partly rotated heads": self.rotary_dim != self.head_dim,
            "GELU": self.activation != "silu",
            "norms of outputs": self.norms.attention_output is not None,
            "scaled embeddings": self.embedding_scale != 1.0,
            "mixtures of experts": self.experts is not None,
        }
        return [name for name, is_present in features.items() if is_present]

    def has_linear(self, layer: int, linear: str) -> bool:
        """Whether the layer has this linear layer outside its experts."""
        if linear not in self.linears:
            return False
        return self.parent(linear) != "mlp" or not self.layers[layer].has_experts

    def linear_shape(self, linear: str) -> tuple[int, int]:
        """(in_features, out_features) of one of the linear layers, or of `OUTER`."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden_size, queries),
            "k_proj": (self.hidden_size, keys),
            "v_proj": (self.hidden_size, keys),
            "qkv_proj": (self.hidden_size, queries + 2 * keys),
            "o_proj": (queries, self.hidden_size),
            "gate_proj": (self.hidden_size, self.intermediate_size),
            "up_proj": (self.hidden_size, self.intermediate_size),
            "gate_up_proj": (self.hidden_size, 2 * self.intermediate_size),
            "down_proj": (self.intermediate_size, self.hidden_size),
            EMBEDDING: (self.vocab_size, self.hidden_size),
            HEAD: (self.hidden_size, self.vocab_size),
        }[linear]

    def fused_columns(self, linear: str) -> tuple[str, slice]:
        """The fused projection of a linear layer, and the layer's columns in the projection's output."""
        projection = self._projection(linear)
        linears = self.projections[projection]
        start = sum(self.linear_shape(before)[1] for before in linears[: linears.index(linear)])
        return projection, slice(start, start + self.linear_shape(linear)[1])

    def parent(self, linear: str) -> str:
        """The module of a layer that holds a linear layer: "self_attn" or "mlp"."""
        return _PARENT_BY_PROJECTION[self._projection(linear)]

    def linear_name(self, layer: int, linear: str) -> str:
        """Name in a checkpoint without `.weight`, such as `model.layers.3.self_attn.q_proj`."""
        return OUTER.get(linear) or f"model.layers.{layer}.{self.parent(linear)}.{linear}"

    def _projection(self, linear: str) -> str:
        return next(name for name, linears in self.projections.items() if linear in linears)

    def _has(self, projection: str) -> bool:
        is_mlp = _PARENT_BY_PROJECTION[projection] == "mlp"
        return not is_mlp or not all(layer.has_experts for layer in self.layers)
