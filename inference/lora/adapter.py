"""A PEFT adapter folder: its digest, and what the engine accepts of it.

An adapter comes from a stranger. Nothing of it is executed, every byte that is used was hashed first, and all
that this engine cannot serve exactly is refused by an error that names the place.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from inference.errors import (
    AdapterBiasError,
    AdapterCorruptError,
    AdapterDigestMismatchError,
    AdapterFileMissingError,
    AdapterModulesToSaveError,
    AdapterNotFiniteError,
    AdapterPickleError,
    AdapterRankError,
    AdapterShapeError,
    AdapterTargetError,
    AdapterUnsupportedError,
    AdapterWrongBaseError,
)
from inference.model.architecture import PARENT_BY_LINEAR

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inference.model.architecture import Architecture

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_DIGEST_DOMAIN = b"loraledger/adapter/v1\0"
_MAX_CONFIG_BYTES = 1024 * 1024
_MAX_CONFIG_DEPTH = 16
# An unterminated string matches too, else a crafted one would be scanned from each of its quotes again.
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_TENSOR_NAME = re.compile(
    r"base_model\.model\.(?P<module>model\.layers\.(?P<layer>\d{1,4})\.(?P<parent>self_attn|mlp)\.(?P<linear>\w+))"
    r"\.lora_(?P<side>[AB])\.weight"
)
# Rank and alpha patterns are regular expressions written by strangers. Without repetition or alternatives
# they cannot be made to backtrack, and module names need neither.
_SAFE_PATTERN = re.compile(r"\^?[\w.\\]+\$?")

_Patterns = list[tuple[re.Pattern[str], object]]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The bytes of an adapter as read once; parsing and hashing see the same ones."""

    folder: str
    config: bytes
    weights: bytes

    @property
    def digest(self) -> str:
        content = hashlib.sha256(_DIGEST_DOMAIN)
        content.update(hashlib.sha256(_canonical_json(self.config)).digest())
        content.update(hashlib.sha256(self.weights).digest())
        return content.hexdigest()


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One linear layer's delta: `states @ shrink.T @ expand`, the scaling folded into `expand`."""

    shrink: Tensor  # [rank, in_features]
    expand: Tensor  # [rank, out_features]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A validated adapter in the engine's dtype. `rank` is the largest of its layers' ranks."""

    digest: str
    rank: int
    num_bytes: int
    pairs: Mapping[tuple[int, str], LoraPair]  # (layer, linear such as "q_proj")


def adapter_digest(folder: Path) -> str:
    r"""Content digest of a PEFT folder, 64 hex digits.

    SHA-256 over `b"loraledger/adapter/v1\0"`, then the 32-byte SHA-256 of adapter_config.json in canonical
    form (parsed, re-written with sorted keys, no blanks, UTF-8), then the 32-byte SHA-256 of the bytes of
    adapter_model.safetensors. Other files of the folder, such as a README, do not count.
    """
    return read_adapter_files(folder).digest


def read_adapter_files(folder: Path) -> AdapterFiles:
    """Raises `AdapterPickleError` if any pickle lies in the folder, `AdapterFileMissingError`."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise AdapterFileMissingError(str(folder), f"not a readable folder ({error.strerror})") from error
    for name in names:
        if any(name.lower().endswith(suffix) for suffix in PICKLE_SUFFIXES):
            raise AdapterPickleError(name, "pickle can run code when read; save the adapter as safetensors")
    contents = []
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():  # reading a pipe would never return
            raise AdapterFileMissingError(name, f"not a file in {folder}")
        try:
            contents.append((folder / name).read_bytes())
        except OSError as error:
            raise AdapterFileMissingError(name, f"cannot be read in {folder} ({error.strerror})") from error
    return AdapterFiles(str(folder), *contents)


def load_adapter(
    folder: Path,
    expected_digest: str,
    architecture: Architecture,
    base_digest: str,
    max_rank: int,
    dtype: torch.dtype,
) -> Adapter:
    """Read, verify against `expected_digest`, validate against the base model and convert to `dtype`.

    Raises a subclass of `AdapterError` for whatever is wrong.
    """
    files = read_adapter_files(folder)
    if files.digest != expected_digest:
        raise AdapterDigestMismatchError(str(folder), expected_digest, files.digest)
    config = _read_config(files.config)
    _check_config(config, base_digest)
    sides = _sort_tensors(_read_tensors(files.weights), architecture)
    ranks, alphas = (_compile(config, key, architecture) for key in ("rank_pattern", "alpha_pattern"))
    pairs = {}
    for (layer, linear), (down, up) in sides.items():
        name = architecture.linear_name(layer, linear)
        rank, scaling = _rank_and_scaling(config, ranks, alphas, name)
        _check_shapes(name, down, up, rank, architecture.linear_shape(linear))
        if rank > max_rank:
            raise AdapterRankError(name, f"rank {rank} is over the engine's limit of {max_rank}")
        pairs[layer, linear] = _fold(name, down, up, scaling, dtype)
    return Adapter(
        digest=expected_digest,
        rank=max(len(pair.shrink) for pair in pairs.values()),
        num_bytes=sum(pair.shrink.nbytes + pair.expand.nbytes for pair in pairs.values()),
        pairs=pairs,
    )


def _canonical_json(config: bytes) -> bytes:
    return json.dumps(
        _read_config(config), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _read_config(config: bytes) -> dict[str, Any]:
    if len(config) > _MAX_CONFIG_BYTES or _depth(config) > _MAX_CONFIG_DEPTH:
        raise AdapterCorruptError(CONFIG_FILE, "larger or deeper than any adapter's configuration")
    try:
        value = json.loads(config, parse_constant=_refuse_constant)
    except ValueError as error:
        raise AdapterCorruptError(CONFIG_FILE, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AdapterCorruptError(CONFIG_FILE, "not a JSON object")
    return value


def _depth(text: bytes) -> int:
    """How deep brackets nest outside of strings. Python's parser recurses, and can overflow the stack."""
    depth = deepest = 0
    for bracket in re.findall(rb"[\[\]{}]", _JSON_STRING.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _check_config(config: Mapping[str, Any], base_digest: str) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterUnsupportedError(f"{CONFIG_FILE}: peft_type", f"{config.get('peft_type')!r} is not LORA")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise AdapterBiasError(
            f"{CONFIG_FILE}: bias", "adapters with biases cannot share a batch; train without"
        )
    if config.get("modules_to_save"):
        raise AdapterModulesToSaveError(
            f"{CONFIG_FILE}: modules_to_save",
            f"{config['modules_to_save']} would replace shared base weights",
        )
    for key in (
        "use_dora",
        "use_qalora",
        "alora_invocation_tokens",
        "arrow_config",
        "trainable_token_indices",
    ):
        if config.get(key):
            raise AdapterUnsupportedError(f"{CONFIG_FILE}: {key}", "this kind of adapter is not served")
    if config.get("layer_replication") or config.get("fan_in_fan_out"):
        raise AdapterUnsupportedError(CONFIG_FILE, "layer_replication and fan_in_fan_out are not served")
    declared = config.get("base_model_digest")
    if declared is not None and declared != base_digest:
        raise AdapterWrongBaseError(
            f"{CONFIG_FILE}: base_model_digest", f"trained on {declared}, this engine serves {base_digest}"
        )


def _read_tensors(weights: bytes) -> dict[str, Tensor]:
    try:
        tensors = parse_safetensors(weights)
    except (SafetensorError, KeyError, ValueError) as error:
        raise AdapterCorruptError(WEIGHTS_FILE, f"truncated or not safetensors: {error}") from error
    if not tensors:
        raise AdapterCorruptError(WEIGHTS_FILE, "it holds no tensors")
    return tensors


def _sort_tensors(
    tensors: Mapping[str, Tensor], architecture: Architecture
) -> dict[tuple[int, str], tuple[Tensor, Tensor]]:
    """Pair up A and B by (layer, linear). Every tensor must belong to a linear layer of the decoder."""
    sides: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or PARENT_BY_LINEAR.get(match["linear"]) != match["parent"]:
            raise _unknown_tensor(name)
        layer = int(match["layer"])
        if layer >= architecture.num_layers:
            raise AdapterWrongBaseError(name, f"the base model has {architecture.num_layers} layers")
        if not tensor.is_floating_point():
            raise AdapterShapeError(name, f"{tensor.dtype} is not a floating-point type")
        if tensor.element_size() < 2:
            raise AdapterUnsupportedError(name, f"{tensor.dtype} is not served; save it in 16 or 32 bits")
        sides.setdefault((layer, match["linear"]), {})[match["side"]] = tensor
    for (layer, linear), pair in sides.items():
        if len(pair) != len("AB"):
            name = architecture.linear_name(layer, linear)
            raise AdapterShapeError(name, f"it has lora_{''.join(pair)} alone; A and B belong together")
    return {key: (pair["A"], pair["B"]) for key, pair in sorted(sides.items())}


def _unknown_tensor(name: str) -> Exception:
    if name.endswith((".bias", ".lora_bias")):
        return AdapterBiasError(name, "adapters with biases cannot share a batch; train without")
    if "modules_to_save" in name:
        return AdapterModulesToSaveError(name, "it would replace shared base weights")
    if "lora_magnitude_vector" in name:
        return AdapterUnsupportedError(name, "DoRA is not served")
    return AdapterTargetError(
        name, f"not LoRA on a linear layer of the decoder ({', '.join(PARENT_BY_LINEAR)})"
    )


def _rank_and_scaling(
    config: Mapping[str, Any], ranks: _Patterns, alphas: _Patterns, module: str
) -> tuple[int, float]:
    """PEFT's rule: the first pattern that ends the module's name wins over the global value."""
    rank = _first_match(ranks, module, config.get("r"))
    alpha = _first_match(alphas, module, config.get("lora_alpha"))
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise AdapterRankError(f"{CONFIG_FILE}: r", f"rank {rank!r} of {module} is not a positive integer")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterCorruptError(
            f"{CONFIG_FILE}: lora_alpha", f"{alpha!r} for {module} is not a finite number"
        )
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _compile(config: Mapping[str, Any], key: str, architecture: Architecture) -> _Patterns:
    """Each pattern with its value. Every layer tries every pattern, so their number is bounded."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterCorruptError(f"{CONFIG_FILE}: {key}", "not an object")
    limit = architecture.num_layers * len(PARENT_BY_LINEAR)
    if len(patterns) > limit:
        raise AdapterUnsupportedError(
            f"{CONFIG_FILE}: {key}", f"{len(patterns)} patterns for the decoder's {limit} linear layers"
        )
    compiled: _Patterns = []
    for pattern, value in patterns.items():
        if not _SAFE_PATTERN.fullmatch(pattern):
            raise AdapterUnsupportedError(f"{CONFIG_FILE}: {key}", f"{pattern!r} is more than a module name")
        try:
            compiled.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except re.error as error:
            raise AdapterCorruptError(f"{CONFIG_FILE}: {key}", f"{pattern!r}: {error}") from error
    return compiled


def _first_match(patterns: _Patterns, module: str, default: object) -> object:
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _check_shapes(name: str, down: Tensor, up: Tensor, rank: int, linear_shape: tuple[int, int]) -> None:
    in_features, out_features = linear_shape
    if down.dim() != 2 or up.dim() != 2 or len(down) != rank or up.shape[1] != rank:
        raise AdapterShapeError(
            name, f"A {list(down.shape)} and B {list(up.shape)} do not fit the configured rank {rank}"
        )
    if down.shape[1] != in_features or len(up) != out_features:
        raise AdapterWrongBaseError(
            name,
            f"made for {down.shape[1]} -> {len(up)} features, the base has {in_features} -> {out_features}",
        )


def _fold(name: str, down: Tensor, up: Tensor, scaling: float, dtype: torch.dtype) -> LoraPair:
    pair = LoraPair(down.to(dtype).contiguous(), (up.float().T * scaling).to(dtype).contiguous())
    # Checked after conversion: scaling or a narrower type can overflow what was finite in the file.
    if not (torch.isfinite(pair.shrink).all() and torch.isfinite(pair.expand).all()):
        raise AdapterNotFiniteError(name, "it holds NaN or infinity, or overflows the engine's dtype")
    return pair
