"""Workloads, identical for every contestant. Standard library only: peers import this module."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NUM_PROMPTS = 32
PROMPT_TOKENS = 32
NEW_TOKENS = 64
_TOKEN_IDS = range(1_000, 49_000)  # ordinary tokens of SmolLM2's vocabulary, without special tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests submitted at once; `adapters[i]` is the adapter folder for `prompts[i]`."""

    prompts: list[list[int]]
    adapters: list[str | None]
    new_tokens: int = NEW_TOKENS


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`num_clients` clients, each of which submits its next request when its last one is answered.

    `adapters` are ordered by popularity: the n-th is drawn with probability proportional to 1/n.
    """

    adapters: list[str]
    num_requests: int
    seed: int
    num_clients: int = 32
    prompt_tokens: int = PROMPT_TOKENS
    shortest: int = 8
    longest: int = 24


@dataclass(frozen=True, slots=True)
class Loads:
    """Adapters that the engine has not loaded, one at a time; `from_disk` drops them from the page cache."""

    adapters: list[str]
    seed: str
    from_disk: bool = False


@dataclass(frozen=True, slots=True)
class Residents:
    """`warm_up` fills every slot and buffer; memory is measured while `adapters` become resident."""

    warm_up: list[str]
    adapters: list[str]
    bytes_per_adapter: int


@dataclass(frozen=True, slots=True)
class Texts:
    """Messages of chats submitted at once, each answered with a seed of its own."""

    messages: list[str]
    temperature: float
    new_tokens: int = 96


@dataclass(frozen=True, slots=True)
class Chat:
    """`num_chats` chats at once, in which each turn's prompt is all that was said before and a question."""

    seed: str
    num_chats: int = 4
    num_turns: int = 10
    question_tokens: int = 24
    new_tokens: int = 24


def prompts(seed: str, count: int = NUM_PROMPTS, num_tokens: int = PROMPT_TOKENS) -> list[list[int]]:
    """Random token ids. Different seeds share no prefix, so a prefix cache has no effect."""
    source = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return [source.choices(_TOKEN_IDS, k=num_tokens) for _ in range(count)]


def zipf_requests(loop: ClosedLoop) -> Iterator[tuple[list[int], str, int]]:
    """Prompt, adapter folder and number of new tokens of each request."""
    source = random.Random(loop.seed)  # noqa: S311 - reproducible, not secret
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(loop.adapters) + 1)))
    for _ in range(loop.num_requests):
        (adapter,) = source.choices(loop.adapters, cum_weights=weights)
        prompt = source.choices(_TOKEN_IDS, k=loop.prompt_tokens)
        yield prompt, adapter, source.randint(loop.shortest, loop.longest)
