"""Prompts and draws, the same for every contestant. Standard library only: peers import it too."""

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
_TOKEN_IDS = range(1_000, 49_000)  # ordinary words of SmolLM2's vocabulary, none of its special tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests submitted at once; `adapters[i]` is the folder that `prompts[i]` is answered with."""

    prompts: list[list[int]]
    adapters: list[str | None]
    new_tokens: int = NEW_TOKENS


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`num_clients` clients, each submitting its next request when the last one is answered.

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
    """Adapters that the engine has never seen, one at a time; `from_disk` drops them from the page cache."""

    adapters: list[str]
    seed: str
    from_disk: bool = False


@dataclass(frozen=True, slots=True)
class Residents:
    """`warm_up` fills every slot and buffer, then memory is watched while `adapters` become resident."""

    warm_up: list[str]
    adapters: list[str]
    bytes_per_adapter: int


def prompts(seed: str, count: int = NUM_PROMPTS, num_tokens: int = PROMPT_TOKENS) -> list[list[int]]:
    """Random token ids; another `seed` shares no prefix, so no cache of prefixes can answer it."""
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
