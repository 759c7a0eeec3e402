"""Which rows are held out to evaluate an adapter, and which are trained. No tensors."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from workers.training.rows import Example, UnusableRows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SPLIT = "equal-parts"
"""Names the rule of `hold_out` in an attribution index."""

Group: TypeAlias = tuple[int, str]
"""A contribution, and rows of it that share a source or a question."""


class Split(NamedTuple):
    """Rows that are trained, rows that evaluate the adapter, and rows that do neither."""

    train: list[Example]
    held_out: list[Example]
    unused: list[Example]


def hold_out(examples: Sequence[Example], fraction: float, seed: int | str) -> Split:
    """Of each contribution the same `fraction` of its rows is not trained, so that no contributor's choice of
    words decides how many rows of it or of another are trained, and paid.

    They are held out as far as they are whole groups, which share a source or a question with no other row;
    for the rest of its part a contribution gives up rows of any group, which are unused: held out, they would
    measure what the model has seen. They are held out only if no group could be. The choice depends on the
    seed, the numbers of the contributions and their own rows only.

    Errors: `UnusableRows` if all rows belong together.
    """
    group_of = _groups(examples)
    sizes = Counter(group_of)
    if len(sizes) < 2:
        raise UnusableRows(
            "all rows share a source object or a question: none can be held out to evaluate the adapter"
        )
    room = _parts(Counter(example.contribution for example in examples), fraction, seed)
    unlinked = {group: sizes[group] for group in sizes.keys() - _linked(examples, group_of)}
    drawn = _draw_groups(unlinked, room, seed)
    pairs = list(zip(examples, group_of, strict=True))
    held_out = [example for example, group in pairs if group in drawn]
    rest = [example for example, group in pairs if group not in drawn]
    given_up = _draw_rows(rest, room, seed)
    train = [example for place, example in enumerate(rest) if place not in given_up]
    others = [example for place, example in enumerate(rest) if place in given_up]
    return Split(train, held_out, others) if held_out else Split(train, others, [])


def num_shared(train: Sequence[Example], held_out: Sequence[Example]) -> int:
    """Held-out rows that have the source or the question of a trained one."""
    known = {name for row in train for name in _names(row)}
    return sum(any(name in known for name in _names(row)) for row in held_out)


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


def _parts(totals: Mapping[int, int], fraction: float, seed: int | str) -> dict[int, int]:
    """How many rows each contribution gives up: one at least and not all, of all contributions together."""
    exact = {number: fraction * total + _unit(seed, number) for number, total in totals.items()}
    parts = {number: int(part) for number, part in exact.items()}
    if not any(parts.values()):
        parts[max(exact, key=lambda number: (totals[number] > 1, exact[number]))] = 1
    elif sum(parts.values()) == sum(totals.values()):
        parts[min(exact, key=lambda number: exact[number])] -= 1
    return parts


def _draw_groups(sizes: Mapping[Group, int], room: dict[int, int], seed: int | str) -> set[Group]:
    """Groups by chance, as far as they fit into the `room` of their contributions, which they take."""
    drawn = set[Group]()
    for group in sorted(sizes, key=lambda group: _hash(seed, *group)):
        if sizes[group] <= room[group[0]]:
            room[group[0]] -= sizes[group]
            drawn.add(group)
    return drawn


def _draw_rows(rows: Sequence[Example], room: Mapping[int, int], seed: int | str) -> set[int]:
    """Places of as many rows of each contribution as it has `room` for."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if room[row.contribution]:
            places[row.contribution].append(place)
    drawn = set[int]()
    for number, of_one in places.items():
        drawn.update(sorted(of_one, key=lambda place: _hash_row(seed, rows[place]))[: room[number]])
    return drawn


def _unit(seed: int | str, contribution: int) -> float:
    """From 0 to 1: parts of a row round up as often as they should over many contributions."""
    digest = hashlib.sha256(f"{seed}:{contribution}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _hash(seed: int | str, contribution: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{contribution}:{name}".encode()).digest()


def _hash_row(seed: int | str, row: Example) -> bytes:
    """Equal rows of a contribution have equal hashes, so that their order does not matter."""
    return _hash(seed, row.contribution, repr((row.group, row.question, row.token_ids, row.labels)))
