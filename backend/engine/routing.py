"""Which replica serves a key: rendezvous hashing with bounded loads.

Keys keep their replica while replicas come and go (Thaler and Ravishankar, "Using name-based mappings to
increase hit rates", 1998), and no replica gets far more than its part (Mirrokni, Thorup and Zadimoghaddam,
"Consistent hashing with bounded loads", 2018).
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    R = TypeVar("R", bound=Hashable)

LOAD_FACTOR = 1.25
"""Most load of a replica over the mean. Lower values balance better, and spread keys over more replicas."""


def ranked(key: str, names: Iterable[str]) -> list[str]:
    """All names, in the order of preference of `key`. Removing a name does not change the others' order."""
    return sorted(names, key=lambda name: _score(key, name), reverse=True)


def place(order: Sequence[R], loads: Mapping[R, int], factor: float = LOAD_FACTOR) -> R:
    """The first of `order` that has room for one more unit of load. `loads`: of exactly these replicas."""
    room = math.ceil(factor * (sum(loads.values()) + 1) / len(order))
    return next(name for name in order if loads[name] < room)


def _score(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()
