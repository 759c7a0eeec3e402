"""Reads the file of generated answers in an adapter's folder, which anyone may have published."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from backend.domain.attribution import ANSWERS_FILE
from backend.domain.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_TYPES = {
    "token_ids": np.int64,
    "prompt_ends": np.int64,
    "ends": np.int64,
    "seeds": np.int64,
    "is_kept_out": np.bool_,
}
"""Tensors of the file, each of one dimension; `workers.training.answers.answer_tensors` explains them."""


class FileAnswer(NamedTuple):
    """Token ids of a prompt and of its answer, neither of them empty."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    seed: int
    is_kept_out: bool


def parse_answers(content: bytes) -> list[FileAnswer]:
    """Errors: `InvalidInput`, with what is wrong."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
    except (SafetensorError, ValueError, TypeError, AttributeError, KeyError) as error:  # types numpy lacks
        raise InvalidInput(f"The answers in {ANSWERS_FILE} cannot be read: {error}") from error
    _check(tensors)
    token_ids, ends = tensors["token_ids"].tolist(), tensors["ends"].tolist()
    columns = zip(
        pairwise([0, *ends]),
        tensors["prompt_ends"].tolist(),
        tensors["seeds"].tolist(),
        tensors["is_kept_out"].tolist(),
        strict=True,
    )
    return [
        FileAnswer(tuple(token_ids[start:middle]), tuple(token_ids[middle:end]), seed, is_kept_out)
        for (start, end), middle, seed, is_kept_out in columns
    ]


def _check(tensors: Mapping[str, Any]) -> None:
    """Errors: `InvalidInput`."""
    found = {name: (part.dtype, part.ndim) for name, part in tensors.items()}
    if found != {name: (np.dtype(kind), 1) for name, kind in _TYPES.items()}:
        raise InvalidInput(f"{ANSWERS_FILE} has other tensors than {', '.join(_TYPES)}, or of other types.")
    ends = tensors["ends"]
    if any(tensors[name].shape != ends.shape for name in ("prompt_ends", "seeds", "is_kept_out")):
        raise InvalidInput(f"{ANSWERS_FILE} has tensors of different lengths.")
    starts = np.concatenate(([0], ends))[:-1]
    is_ordered = (starts < tensors["prompt_ends"]) & (tensors["prompt_ends"] < ends)
    if not is_ordered.all() or ends[-1:].tolist() != [len(tensors["token_ids"])]:
        raise InvalidInput(f"{ANSWERS_FILE} has a prompt or an answer without tokens, or tokens of neither.")
