"""Scenarios of our engine alone: prompt lookup, chats, sizes of batches, and ranks of adapters."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.engine.launcher import OURS
from benchmarks.engine.workload import Batch, Chat, Texts, prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOKUP = f"{OURS} lookup"
WITHOUT_LOOKUP = f"{OURS} without lookup"
SIZES = (1, 8, 32, 64)
RANKS = (8, 16, 64)
LOOKUP_SIZES = (1, 8, 32)
_NUM_RANKED = 32  # adapters of each rank, and prompts
_LARGEST = max(SIZES)
_THINGS = ("lamp", "chair", "table", "bottle", "carpet", "mirror", "kettle", "basket", "ladder", "candle")
_TOWNS = ("Lyon", "Oslo", "Porto", "Turin", "Ghent", "Basel", "Malmo", "Graz")
_COPIED_LINES = 10

Workload = Batch | Chat | Texts


@dataclass(frozen=True, slots=True)
class OwnScenario:
    """One scenario of one process of our engine, which is started with `options`."""

    contestant: str
    name: str
    task: str  # of `benchmarks.engine.ours`
    workload: Callable[[int], Workload]  # by repeat; -1 warms up
    options: Mapping[str, str]


def lookup_scenarios() -> list[OwnScenario]:
    """Texts that copy and texts that do not, by a process with prompt lookup and one without, in turn.
    The prefix cache is off: batches of several sizes have the same prompts.
    """
    kinds = {"copying": (copying_text, 0.0), "not_copying": (telling_text, 1.0)}

    def scenario(kind: str, size: int, *, has_lookup: bool) -> OwnScenario:
        make, temperature = kinds[kind]

        def workload(repeat: int) -> Texts:
            return Texts([make(f"{repeat} {number}") for number in range(size)], temperature)

        options = {"prefix-sharing": "off", "prompt-lookup": "yes" if has_lookup else "no"}
        if has_lookup:
            return OwnScenario(LOOKUP, f"{kind}{size}", "texts", workload, options)
        return OwnScenario(WITHOUT_LOOKUP, f"{kind}{size}_without", "texts", workload, options)

    return [
        scenario(kind, size, has_lookup=has_lookup)
        for kind, size, has_lookup in itertools.product(kinds, LOOKUP_SIZES, (False, True))
    ]


def chat_scenarios() -> list[OwnScenario]:
    """Chats of ten turns, with and without the prefix cache."""

    def scenario(sharing: str) -> OwnScenario:
        name = "chat" if sharing == "payer" else "chat_without_cache"
        options = {"prefix-sharing": sharing}
        return OwnScenario(f"{OURS} {name}", name, "chat", lambda repeat: Chat(f"chat {repeat}"), options)

    return [scenario("payer"), scenario("off")]


def size_scenarios(adapters: Sequence[str]) -> list[OwnScenario]:
    """Batches of several sizes, without an adapter and with as many as there are prompts."""
    options = {"max-running": str(_LARGEST), "num-adapter-slots": str(_LARGEST)}

    def scenario(size: int, *, has_adapters: bool) -> OwnScenario:
        chosen: list[str | None] = [*adapters[:size]] if has_adapters else [None] * size
        name = f"size{size}_adapters" if has_adapters else f"size{size}"
        return OwnScenario(
            f"{OURS} sizes",
            name,
            "batch",
            lambda repeat: Batch(prompts(f"size {size} {repeat}", size), chosen),
            options,
        )

    return [scenario(size, has_adapters=each) for size in SIZES for each in (False, True)]


def rank_scenarios(adapters: Mapping[int, Sequence[str]]) -> list[OwnScenario]:
    """Batches of different adapters of one rank, and of all of `RANKS` in turn. `adapters` by rank."""
    sets = {f"rank{rank}": [*adapters[rank]] for rank in RANKS}
    turns = itertools.islice(itertools.cycle(RANKS), _NUM_RANKED)
    sets["ranks_mixed"] = [adapters[rank][number] for number, rank in enumerate(turns)]
    options = {"num-adapter-rows": str(max(RANKS) * _NUM_RANKED), "adapter-budget-bytes": str(2 * 2**30)}

    def scenario(name: str, chosen: list[str]) -> OwnScenario:
        return OwnScenario(
            f"{OURS} ranks",
            name,
            "batch",
            lambda repeat: Batch(prompts(f"{name} {repeat}", _NUM_RANKED), [*chosen]),
            options,
        )

    return [scenario(*each) for each in sets.items()]


def copying_text(seed: str) -> str:
    """A message whose answer repeats most of it."""
    source = random.Random(f"copying {seed}")  # noqa: S311 - reproducible, not secret
    lines = [
        f"{source.randrange(100, 999)} {source.choice(_THINGS)}s from {source.choice(_TOWNS)} "
        f"at {source.randrange(10, 99)}.{source.randrange(10, 99)} each"
        for _ in range(_COPIED_LINES)
    ]
    return "\n".join(["Repeat this list exactly, line by line, and write nothing else:", "", *lines])


def telling_text(seed: str) -> str:
    """A message whose answer repeats little."""
    source = random.Random(f"telling {seed}")  # noqa: S311 - reproducible, not secret
    first, second = source.sample(_THINGS, 2)
    return f"Tell me a story about a {first} and a {second} in {source.choice(_TOWNS)}."
