"""Parses and validates the hyper-parameters of a job."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from backend.domain.errors import InvalidInput
from backend.domain.ids import Hash32, VersionId
from backend.domain.training import (
    LINEAR_LAYERS,
    MAX_BATCH_TOKENS,
    TrainingConfig,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, 128),
    "alpha": (1, 1024),
    "dropout": (0.0, 0.5),
    "learning_rate": (1e-6, 0.1),
    "warmup_fraction": (0.0, 0.5),
    "epochs": (0.01, 100.0),
    "steps": (0, 1_000_000),
    "batch_size": (1, 256),
    "max_length": (16, 8192),
    "eval_fraction": (0.01, 0.5),
    "seed": (0, 2**32 - 1),
    "checkpoint_steps": (1, 100_000),
    "early_stopping": (0, 100),
}
"""Inclusive limits of the numeric options."""


class InvalidConfig(InvalidInput):
    """A hyper-parameter is unknown, of the wrong type or out of range; `param` names it."""


def parse_config(raw: Mapping[str, Any]) -> TrainingConfig:
    """Parse options by our names or OpenAI's; the rest have defaults.

    Errors: `InvalidConfig` for the first invalid one.
    """
    raw = _translate_openai_names(raw)
    known = {field.name for field in fields(TrainingConfig)}
    for name in raw:
        if name not in known:
            raise InvalidConfig(f"unknown option {name!r}; known are {', '.join(sorted(known))}", param=name)
    config = TrainingConfig(**{name: _parse_option(name, value) for name, value in raw.items()})
    if config.batch_size * config.max_length > MAX_BATCH_TOKENS:
        given = f"{config.batch_size} x {config.max_length}"
        limit = f"batch_size x max_length must be at most {MAX_BATCH_TOKENS} tokens, not {given}"
        raise InvalidConfig(f"{limit}: lower one of them", param="batch_size")
    return config


def _translate_openai_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `n_epochs` is `epochs`, `learning_rate_multiplier` a factor of the default `learning_rate`,
    and "auto" any default.
    """
    named = {name: value for name, value in raw.items() if value != "auto"}
    for theirs, ours in _OPENAI_NAMES.items():
        if theirs in named and ours in named:
            raise InvalidConfig(f"{theirs} is OpenAI's name for {ours}: give only one of them", param=theirs)
    if "n_epochs" in named:
        named["epochs"] = named.pop("n_epochs")
    if "learning_rate_multiplier" in named:
        factor = named.pop("learning_rate_multiplier")
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            message = f"learning_rate_multiplier must be a number, not {factor!r}"
            raise InvalidConfig(message, param="learning_rate_multiplier")
        try:
            named["learning_rate"] = factor * TrainingConfig().learning_rate
        except OverflowError:
            message = "learning_rate_multiplier is larger than any learning rate"
            raise InvalidConfig(message, param="learning_rate_multiplier") from None
    return named


def _parse_option(name: str, value: Any) -> Any:
    if name == "targets":
        return _parse_targets(value)
    if name == "parent":
        return _parse_parent(value)
    kind = _OPTION_TYPES[name]
    if kind is bool:
        if not isinstance(value, bool):
            raise InvalidConfig(f"{name} must be true or false, not {value!r}", param=name)
        return value
    if name not in RANGES:
        choices = get_args(kind)
        if value not in choices:
            raise InvalidConfig(f"{name} must be one of {', '.join(choices)}, not {value!r}", param=name)
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
        expected = "a number" if kind is float else "an integer"
        raise InvalidConfig(f"{name} must be {expected}, not {value!r}", param=name)
    low, high = RANGES[name]
    if not low <= value <= high:  # NaN fails too
        raise InvalidConfig(f"{name} must be between {low} and {high}, not {value!r}", param=name)
    return kind(value)


def _parse_parent(value: Any) -> VersionId | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _VERSION.fullmatch(value):
        message = f"parent must be the id of a version, 0x and 64 hexadecimal digits, not {value!r}"
        raise InvalidConfig(message, param="parent")
    return VersionId(Hash32(value))


def _parse_targets(value: Any) -> tuple[str, ...]:
    if value == "all-linear":
        return LINEAR_LAYERS
    wanted = value if isinstance(value, list | tuple) else ()
    if not wanted or any(layer not in LINEAR_LAYERS for layer in wanted):
        allowed = f'"all-linear" or a list out of {", ".join(LINEAR_LAYERS)}'
        raise InvalidConfig(f"targets must be {allowed}, not {value!r}", param="targets")
    return tuple(layer for layer in LINEAR_LAYERS if layer in wanted)


_VERSION = re.compile(r"0x[0-9a-f]{64}")
_OPENAI_NAMES = {"n_epochs": "epochs", "learning_rate_multiplier": "learning_rate"}
_OPTION_TYPES = get_type_hints(TrainingConfig)
