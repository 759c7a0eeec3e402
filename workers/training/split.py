"""Which rows are held out to evaluate an adapter, and which are trained. No tensors."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, TypeAlias

from workers.training.rows import UnusableRows

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from workers.training.rows import Example

SPLIT = "by-contribution"
"""Names the rule of `hold_out` in an attribution index."""

Group: TypeAlias = tuple[int, str]
"""A contribution, and rows of it that share a source or a question."""


def hold_out(
    examples: Sequence[Example], fraction: float, seed: int | str
) -> tuple[list[Example], list[Example]]:
    """(train, held out). Each contribution gives up `fraction` of its rows, so that no contributor decides
    which rows of others are trained, and paid. Its rows that share a source or a question are never split.

    Rows with a source or a question of another contribution are trained: held out, they would measure what
    the model has seen. They are drawn only if no others can be. The choice depends on the seed, the numbers
    of the contributions and the names of their own groups only.

    Errors: `UnusableRows` if all rows belong together.
    """
    group_of = _groups(examples)
    sizes = Counter(group_of)
    if len(sizes) < 2:
        raise UnusableRows(
            "all rows share a source object or a question: none can be held out to evaluate the adapter"
        )
    unlinked = sizes.keys() - _linked(examples, group_of)
    drawn = _draw(sizes, unlinked, fraction, seed) or _draw(sizes, sizes, fraction, seed)
    held_out = drawn or {min(unlinked or sizes, key=lambda group: (sizes[group], _hash(seed, group)))}
    pairs = list(zip(examples, group_of, strict=True))
    return (
        [example for example, group in pairs if group not in held_out],
        [example for example, group in pairs if group in held_out],
    )


def merge_groups(examples: Sequence[Example]) -> dict[str, str]:
    """Map each group to the smallest name among the groups linked with it by equal questions (union-find)."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(node: tuple[str, str]) -> tuple[str, str]:
        parents.setdefault(node, node)
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for example in examples:
        # "group" sorts before "question", so a root is always a group.
        group = root(("group", example.group))
        question = root(("question", example.question)) if example.question else group
        parents[max(group, question)] = min(group, question)
    return {example.group: root(("group", example.group))[1] for example in examples}


def _groups(examples: Sequence[Example]) -> list[Group]:
    """Of each example."""
    of_contribution: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        of_contribution[example.contribution].append(example)
    merged = {number: merge_groups(members) for number, members in of_contribution.items()}
    return [(example.contribution, merged[example.contribution][example.group]) for example in examples]


def _linked(examples: Sequence[Example], group_of: Sequence[Group]) -> set[Group]:
    """Groups that share a source or a question with another contribution."""
    owners: dict[tuple[str, str], set[int]] = defaultdict(set)
    for example in examples:
        for name in _names(example):
            owners[name].add(example.contribution)
    pairs = zip(examples, group_of, strict=True)
    return {group for example, group in pairs if any(len(owners[name]) > 1 for name in _names(example))}


def _names(example: Example) -> Iterator[tuple[str, str]]:
    yield "group", example.group
    if example.question:
        yield "question", example.question


def _draw(
    sizes: Mapping[Group, int], candidates: Collection[Group], fraction: float, seed: int | str
) -> set[Group]:
    """Candidates by chance: of each contribution those that fit into its part, and never all groups."""
    totals: Counter[int] = Counter()
    for (contribution, _), size in sizes.items():
        totals[contribution] += size
    room = {number: int(fraction * total + _unit(seed, number)) for number, total in totals.items()}
    drawn: set[Group] = set()
    for group in sorted(candidates, key=lambda group: _hash(seed, group)):
        if sizes[group] <= room[group[0]] and len(drawn) < len(sizes) - 1:
            room[group[0]] -= sizes[group]
            drawn.add(group)
    return drawn


def _unit(seed: int | str, contribution: int) -> float:
    """From 0 to 1: parts of a row round up as often as they should over many contributions."""
    digest = hashlib.sha256(f"{seed}:{contribution}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _hash(seed: int | str, group: Group) -> bytes:
    return hashlib.sha256(f"{seed}:{group[0]}:{group[1]}".encode()).digest()
