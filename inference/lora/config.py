"""Parses adapter_config.json and refuses settings that this engine cannot serve exactly."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.errors import (
    AdapterBiasError,
    AdapterConfigError,
    AdapterError,
    AdapterModulesToSaveError,
    AdapterPatternError,
    AdapterRankError,
    AdapterRemoteCodeError,
    AdapterUnsupportedError,
    AdapterWrongBaseError,
)
from inference.lora.files import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

# Keys that are read below, and keys that do not affect what a trained adapter computes (its layers follow
# from the tensors). Any other key must be empty, because it may belong to a kind of adapter that this
# engine does not know.
_READ_KEYS = {"alpha_pattern", "auto_mapping", "base_model_digest", "bias", "init_lora_weights", "lora_alpha"}
_READ_KEYS |= {"alora_invocation_tokens", "ensure_weight_tying", "modules_to_save", "peft_type", "r"}
_READ_KEYS |= {"rank_pattern", "use_dora", "use_rslora"}
_IGNORED_KEYS = {
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "loftq_config",
}
_IGNORED_KEYS |= {"inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core"}
_IGNORED_KEYS |= {"peft_version", "qalora_group_size", "revision", "target_modules", "task_type"}
# Initialisations that do not change the base weights. All others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) move
# a part of the base into the adapter, which then does not match the shared base model.
_SUPPORTED_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
_MAX_INVOCATION = 256
# Rank and alpha patterns are regular expressions from untrusted files. Without repetition or alternatives
# they cannot backtrack, and module names need neither.
_SAFE_PATTERN = re.compile(r"\^?[\w.\\]{1,200}\$?", re.ASCII)
_TRUSTED_LIBRARY = re.compile(r"transformers(\.\w+)*", re.ASCII)

_Patterns = list[tuple[re.Pattern[str], object]]


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Rank and scaling of each module."""

    is_dora: bool
    is_rslora: bool
    default_rank: object
    default_alpha: object
    rank_patterns: _Patterns
    alpha_patterns: _Patterns
    is_tied: bool  # one delta for embeddings and head
    invocation: tuple[int, ...]  # tokens from which on the adapter is active; empty: it is always active

    def rank(self, module: str) -> int:
        """Raises `AdapterRankError` if it is no positive integer."""
        rank = _first_match(self.rank_patterns, module, self.default_rank)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise AdapterRankError(f"{CONFIG_FILE}: r", f"{rank!r} of {module} is not a positive integer")
        return rank

    def scaling(self, module: str) -> float:
        """Raises `AdapterConfigError` if alpha is no number, or larger than a double."""
        alpha, rank = _first_match(self.alpha_patterns, module, self.default_alpha), self.rank(module)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise AdapterConfigError(f"{CONFIG_FILE}: lora_alpha", f"{alpha!r} of {module} is not a number")
        try:
            return alpha / (math.sqrt(rank) if self.is_rslora else rank)
        except OverflowError as error:
            raise AdapterConfigError(f"{CONFIG_FILE}: lora_alpha", f"too large for {module}") from error


def read_config(config: Mapping[str, Any], base_digest: str, max_patterns: int) -> AdapterConfig:
    """Raises a subclass of `AdapterError` that names the key at fault."""
    if config.get("peft_type") != "LORA":
        raise _refusal(AdapterUnsupportedError, "peft_type", f"{config.get('peft_type')!r} is not LORA")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise _refusal(AdapterBiasError, "bias", "a bias cannot share a batch; train without one")
    if config.get("modules_to_save"):
        reason = f"{config['modules_to_save']} would replace shared base weights"
        raise _refusal(AdapterModulesToSaveError, "modules_to_save", reason)
    declared = config.get("base_model_digest")
    if declared is not None and declared != base_digest:
        reason = f"trained on {declared}, this engine serves {base_digest}"
        raise _refusal(AdapterWrongBaseError, "base_model_digest", reason)
    _refuse_code(config.get("auto_mapping"))
    _refuse_unknown(config)
    return AdapterConfig(
        is_dora=_flag(config, "use_dora"),
        is_rslora=_flag(config, "use_rslora"),
        default_rank=config.get("r"),
        default_alpha=config.get("lora_alpha"),
        rank_patterns=_compile(config, "rank_pattern", max_patterns),
        alpha_patterns=_compile(config, "alpha_pattern", max_patterns),
        is_tied=_flag(config, "ensure_weight_tying"),
        invocation=_invocation(config),
    )


def _invocation(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens of an activated LoRA (aLoRA, Greenewald et al. 2025, https://arxiv.org/abs/2504.12397)."""
    key = "alora_invocation_tokens"
    tokens = config.get(key)
    if tokens is None:
        return ()
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= _MAX_INVOCATION:
        raise _refusal(AdapterConfigError, key, f"not a list of 1 to {_MAX_INVOCATION} token ids")
    if any(type(token) is not int or token < 0 for token in tokens):
        raise _refusal(AdapterConfigError, key, "a token id is not an integer from 0")
    if _flag(config, "use_dora"):
        raise _refusal(AdapterUnsupportedError, key, "it cannot be combined with use_dora")
    return tuple(tokens)


def _refuse_code(auto_mapping: object) -> None:
    """The engine imports nothing that `auto_mapping` names, but other readers of the folder do."""
    if auto_mapping is None:
        return
    library = auto_mapping.get("parent_library") if isinstance(auto_mapping, dict) else None
    if not isinstance(library, str) or not _TRUSTED_LIBRARY.fullmatch(library):
        raise _refusal(AdapterRemoteCodeError, "auto_mapping", f"{auto_mapping!r} is not of transformers")


def _refuse_unknown(config: Mapping[str, Any]) -> None:
    init = config.get("init_lora_weights")
    if init not in _SUPPORTED_INITS:
        reason = f"{init!r} trains against a changed base; convert the adapter to plain LoRA"
        raise _refusal(AdapterUnsupportedError, "init_lora_weights", reason)
    for key in sorted(config.keys() - _READ_KEYS - _IGNORED_KEYS):
        if not config[key]:
            continue
        if key in ("auto_map", "custom_modules", "trust_remote_code"):
            raise _refusal(AdapterRemoteCodeError, key, "an adapter must not contain or name code")
        raise _refusal(AdapterUnsupportedError, key, "this kind of adapter is not served")


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise _refusal(AdapterConfigError, key, f"{value!r} is neither true nor false")
    return value


def _compile(config: Mapping[str, Any], key: str, limit: int) -> _Patterns:
    """Each pattern with its value. Every module is matched against every pattern, so `limit` bounds them."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise _refusal(AdapterConfigError, key, "not an object")
    if len(patterns) > limit:
        raise _refusal(AdapterPatternError, key, f"{len(patterns)} patterns for {limit} linear layers")
    compiled: _Patterns = []
    for pattern, value in patterns.items():
        if not _SAFE_PATTERN.fullmatch(pattern):
            raise _refusal(AdapterPatternError, key, f"{pattern!r} is more than a module name")
        try:
            compiled.append((re.compile(rf"(.*\.)?({pattern})$"), value))
        except re.error as error:
            raise _refusal(AdapterPatternError, key, f"{pattern!r}: {error}") from error
    return compiled


def _first_match(patterns: _Patterns, module: str, default: object) -> object:
    """PEFT's rule: the first pattern that matches the end of the module's name overrides the default."""
    return next((value for pattern, value in patterns if pattern.match(module)), default)


def _refusal(error: type[AdapterError], key: str, reason: str) -> AdapterError:
    return error(f"{CONFIG_FILE}: {key}", reason)
