"""What a target is, and what counts as a finding next to an exception."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.mutations import Mutation

MAX_CPU_SECONDS = 3.0
MAX_GROWTH_KIB = 512 << 10
ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Of a process that runs targets: other pools of Arrow reserve memory, which a limit on what a parser takes
would count before.
"""


class Exhausted(Exception):
    """An input takes too much processor time or memory for its size."""


@dataclass(frozen=True, slots=True)
class Target:
    """`run` raises only what is a finding. `seeds`: valid inputs to begin with. `max_bytes`: of an input.
    `mutate`: a mutation that is applied half of the time, instead of libFuzzer's.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    max_bytes: int = 4096
    mutate: Mutation | None = None


def check(target: Target, data: bytes) -> None:
    """Run one input. Errors: what its parser must not raise; `Exhausted`."""
    began, memory = time.process_time(), _peak_kib()
    target.run(data)
    seconds, growth = time.process_time() - began, _peak_kib() - memory
    if seconds > MAX_CPU_SECONDS or growth > MAX_GROWTH_KIB:
        raise Exhausted(f"{len(data)} bytes took {seconds:.1f} s of processor time and {growth} KiB")


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Bytes:
    """Reads numbers and strings from an input; past its end, zeros and empty strings."""

    def __init__(self, data: bytes) -> None:
        self._data, self._offset = data, 0

    def take(self, size: int) -> bytes:
        self._offset += size
        return self._data[self._offset - size : self._offset]

    def number(self, size: int = 1) -> int:
        """Big-endian, in `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        return self._data[self._offset :]
