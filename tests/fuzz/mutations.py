"""Mutations that keep the form of an input, so that the search gets past its syntax.

libFuzzer changes bytes, and JSON with changed bytes is seldom JSON. These change values of a document, the
length in front of it with them, or words of call data.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Mutation = Callable[[bytes, Random], bytes]

VALUES: tuple[Any, ...] = (
    *(None, True, False, [], {}, "", " ", "0", "-1", "0x", "0x0", "null", "\0", "\ud800", "\u202e", "é"),
    *("0x" + "00" * 20, "0x" + "f" * 40, "0x" + "F" * 64, "0x" + "11" * 65, "9" * 80, "1e999", "a" * 300),
    *(0, -1, 1, 1 << 31, 1 << 53, 1 << 63, 1 << 64, 1 << 256, -(1 << 63), 10**80),
    *(0.5, -0.0, 1e-9, 1e30, float("inf"), float("nan")),
)
WORDS = (0, 1, 31, 32, 64, 96, 128, 1 << 31, 1 << 64, 1 << 160, 1 << 255, (1 << 256) - 1)
MAX_CHANGES = 3
WORD_BYTES = 32


def json_values(data: bytes, random: Random) -> bytes:
    """Change values of a JSON document; what is none stays as it is."""
    try:
        document = json.loads(data)
        for _ in range(random.randint(1, MAX_CHANGES)):
            document = _changed(document, random)
        return json.dumps(document, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return data


def json_lines(data: bytes, random: Random) -> bytes:
    """Change the document of one line."""
    lines = data.split(b"\n")
    index = random.randrange(len(lines))
    lines[index] = json_values(lines[index], random)
    return b"\n".join(lines)


def behind(size: int, mutation: Mutation) -> Mutation:
    """Keep the first `size` bytes."""
    return lambda data, random: data[:size] + mutation(data[size:], random)


def framed(
    size: int, order: Literal["big", "little"], body: Mutation, rest: Mutation | None = None
) -> Mutation:
    """An input that begins with the length of its body, in `size` bytes: change the body, and its length
    with it, or what follows. Without `rest` that is another such input.
    """

    def mutate(data: bytes, random: Random) -> bytes:
        end = size + int.from_bytes(data[:size], order)
        if end < len(data) and random.random() < 0.5:
            return data[:end] + (rest or mutate)(data[end:], random)
        changed = body(data[size:end], random)
        if len(changed) >= 1 << 8 * size:
            return data
        return len(changed).to_bytes(size, order) + changed + data[end:]

    return mutate


def words(data: bytes, random: Random) -> bytes:
    """Replace a word of ABI-encoded arguments, or add one: a number, a pointer or length, another word."""
    start, other = (random.randrange(1 + len(data) // WORD_BYTES) * WORD_BYTES for _ in range(2))
    number = random.choice((*WORDS, other)).to_bytes(WORD_BYTES, "big")
    copied = data[other : other + WORD_BYTES].ljust(WORD_BYTES, b"\0")
    return data[:start] + random.choice((number, copied)) + data[start + WORD_BYTES :]


def safetensors(data: bytes, random: Random) -> bytes:
    """Change the header of a safetensors file."""
    return framed(8, "little", json_values, lambda tensors, _: tensors)(data, random)


def _changed(document: Any, random: Random) -> Any:
    """The document with one value changed, removed or added."""
    places = list(_places(document))
    if not places or random.random() < 0.02:
        return _value(document, places, random)
    holder, key = random.choice(places)
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, _value(holder[key], places, random))
        case 1:
            holder[_key(places, random)] = _value(holder[key], places, random)
        case 2 if isinstance(holder, dict):
            holder[_key(places, random)] = holder.pop(key)
        case 3:
            holder[key] = random.choice(([holder[key]], {"a": holder[key]}, [holder[key]] * 3))
        case _:
            holder[key] = _value(holder[key], places, random)
    return document


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Each value's object or array, with its key or index there."""
    pending, places = [document], []
    while pending:
        holder = pending.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            places.append((holder, key))
            pending.append(holder[key])
    return places


def _value(old: Any, places: list[tuple[Any, Any]], random: Random) -> Any:
    """Another value: a special one, a copy of one elsewhere, or the old one slightly changed."""
    kind = random.randrange(3)
    if kind == 0 and places:
        holder, key = random.choice(places)
        return copy.deepcopy(holder[key])
    if kind == 1 and isinstance(old, str):
        at = random.randint(0, len(old))
        return (
            old[:at]
            + random.choice(("", "0", "é", "\n", "\0", old[at:] * 2))
            + old[at + random.randrange(2) :]
        )
    if kind == 1 and isinstance(old, int):
        return old + random.choice((-1, 1, 1 << 32)) if random.random() < 0.5 else str(int(old))
    return copy.deepcopy(random.choice(VALUES))


def _key(places: list[tuple[Any, Any]], random: Random) -> str:
    """A key of the document, or a new one."""
    keys = [key for _, key in places if isinstance(key, str)]
    return random.choice((*keys, "", "a", "\ud800"))
