"""Reads what an adapter's folder states about attribution. All of it is untrusted."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from backend.domain.adapter_files import CONFIG_FILE
from backend.domain.attribution import (
    ANSWERS_FILE,
    INDEX_FILE,
    MAX_ANSWER_TOKENS,
    MAX_ANSWERS,
    METHODS_OF_INDEX,
)
from backend.domain.errors import InvalidInput
from backend.services.answers.attribution_index import load_index
from backend.services.train.options import parse_config
from workers.training.answers import read_answers
from workers.training.index import ARITHMETIC
from workers.training.sketch import SKETCH_SIZE
from workers.training.split import SPLIT
from workers.training.tensors import is_finite
from workers.training.warm_start import options_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.domain.training import TrainingConfig
    from backend.services.answers.attribution_index import AttributionIndex
    from inference.model.architecture import Architecture
    from workers.training.answers import Answer


_UNREADABLE = (
    InvalidInput,
    OSError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class MalformedFolder(InvalidInput):
    """A file of the adapter's folder is not what training writes; `param` names it."""


@dataclass(frozen=True, slots=True)
class Published:
    """`config` has the adapter's own shape, and the options of its training if the index states them."""

    index: AttributionIndex
    metadata: Mapping[str, str]
    config: TrainingConfig
    has_options: bool
    answers: Sequence[Answer]
    """Empty for adapters that were trained before answers were published."""

    @property
    def is_reproducible(self) -> bool:
        """Whether the index states that rows were held out as by this release, and that vectors were computed
        in `ARITHMETIC`.
        """
        return self.metadata.get("split") == SPLIT and self.metadata.get("arithmetic") == ARITHMETIC

    @property
    def missing_methods(self) -> list[str]:
        """Methods that training writes and the index leaves out, so that answers are paid by one that suits
        its creator.
        """
        stated = self.metadata.get("methods", "").split()
        return [method for method in METHODS_OF_INDEX if method not in stated]


def read_published(folder: Path) -> Published:
    """Errors: `MalformedFolder`."""
    try:
        index = load_index(folder / INDEX_FILE, with_gradients=True)
        with safe_open(folder / INDEX_FILE, framework="np") as file:
            metadata = dict(file.metadata() or {})
        config, has_options = _config(folder, metadata)
        path = folder / ANSWERS_FILE
        answers = read_answers(path) if path.is_file() else []
    except _UNREADABLE as error:
        raise MalformedFolder(f"a file of the adapter's folder cannot be used: {error}") from error
    published = Published(index, metadata, config, has_options, answers)
    if published.is_reproducible:
        _check_whole(published)
    return published


def load_weights(model: Any, path: Path) -> None:
    """Load an adapter's weights into `model`, in fp32. Errors: `MalformedFolder`."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type that torch lacks
        raise MalformedFolder(f"{path.name} cannot be read: {error}", param=path.name) from error
    expected = {name: weight.shape for name, weight in get_peft_model_state_dict(model).items()}
    if {name: weight.shape for name, weight in weights.items()} != expected:
        raise MalformedFolder(f"{path.name} has other tensors than the adapter", param=path.name)
    if not all(map(is_finite, weights.values())):
        raise MalformedFolder(
            f"{path.name} has weights that are not finite, or not of 16 or 32 bits", param=path.name
        )
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    set_peft_model_state_dict(model, {name: weight.float() for name, weight in weights.items()})


def check_sizes(published: Published, vocab_size: int, base: Architecture) -> None:
    """Errors: `MalformedFolder` unless index and answers are of a base model of this size."""
    longest = max((len(answer.example.token_ids) for answer in published.answers), default=0)
    if longest > base.max_context:
        text = (
            f"{ANSWERS_FILE} has {longest} tokens in one answer; the base model's limit is {base.max_context}"
        )
        raise MalformedFolder(text, param=ANSWERS_FILE)
    tokens = [token for answer in published.answers for token in answer.example.token_ids]
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
        raise MalformedFolder(f"{ANSWERS_FILE} has tokens that the base model lacks", param=ANSWERS_FILE)
    if published.index.centre.size != base.hidden_size:
        raise MalformedFolder(f"{INDEX_FILE} has vectors of another base model", param=INDEX_FILE)


def _check_whole(published: Published) -> None:
    """All that training writes must be there, so that no part escapes verification by being left out.

    Errors: `MalformedFolder`.
    """
    answers, gradient = published.answers, published.index.gradient
    if missing := published.missing_methods:
        text = f"{INDEX_FILE} lacks {', '.join(missing)}, so that answers are paid by another method"
        raise MalformedFolder(text, param=INDEX_FILE)
    if gradient is None or gradient.shape[1] != SKETCH_SIZE:
        raise MalformedFolder(f"{INDEX_FILE} has gradients of another size", param=INDEX_FILE)
    if not (answers and published.has_options):
        text = f"{INDEX_FILE} lacks the answers or the options that its maps follow from"
        raise MalformedFolder(text, param=INDEX_FILE)
    if len(answers) > MAX_ANSWERS or all(answer.prompt.is_kept_out for answer in answers):
        raise MalformedFolder(f"{ANSWERS_FILE} has too many answers, or none to fit on", param=ANSWERS_FILE)
    longest = max((len(answer.token_ids) for answer in answers), default=0)
    if longest > MAX_ANSWER_TOKENS:
        text = f"{ANSWERS_FILE} has an answer of {longest} tokens, more than {MAX_ANSWER_TOKENS}"
        raise MalformedFolder(text, param=ANSWERS_FILE)


def _config(folder: Path, metadata: Mapping[str, str]) -> tuple[TrainingConfig, bool]:
    """(options, whether the metadata have them). The adapter's own configuration decides its shape."""
    options = json.loads(metadata.get("config", "{}"))
    stated = {name: value for name, value in options.items() if value is not None}
    shape = options_of(json.loads((folder / CONFIG_FILE).read_bytes()))
    return replace(parse_config(stated), **shape), bool(stated)
