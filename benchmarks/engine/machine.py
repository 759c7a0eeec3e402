"""What machine this is, and how much of it was ours during a run. Linux. Standard library only."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_TICK = os.sysconf("SC_CLK_TCK")
# What decides how fast bf16 products are; the whole list of flags says nothing more.
_TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_tile",
    "amx_bf16",
    "bf16",
    "i8mm",
    "sve",
)


@dataclass(frozen=True, slots=True)
class Usage:
    """So far: CPU seconds of the whole machine, busy or stolen by its host, and of one process; and what that
    process had the kernel read from disks, which is nothing for files in the page cache.
    """

    at: float
    machine_seconds: float
    process_seconds: float
    disk_bytes: int

    @classmethod
    def now(cls, pid: int) -> Self:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        # The command's name, in brackets, may hold blanks. Children count once they were waited for.
        process = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        busy = user + nice + system + irq + softirq + steal
        disk = dict(_fields(Path(f"/proc/{pid}/io").read_text()))["read_bytes"]
        return cls(time.monotonic(), busy / _TICK, sum(map(int, process)) / _TICK, int(disk))

    def foreign_share_since(self, before: Usage) -> float:
        """Part of the machine's CPU time between the two that went to others, 0 to 1."""
        capacity = (self.at - before.at) * (os.cpu_count() or 1)
        busy = self.machine_seconds - before.machine_seconds
        own = self.process_seconds - before.process_seconds
        return min(1.0, max(0.0, (busy - own) / capacity)) if capacity > 0 else 0.0


def describe() -> dict[str, Any]:
    """CPU, telling flags, memory and versions of what runs here."""
    info = dict(_fields(Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]))
    flags = set(info.get("flags", info.get("Features", "")).split())
    memory = dict(_fields(Path("/proc/meminfo").read_text()))["MemTotal"]
    return {
        "cpu": info.get("model name", platform.machine()),
        "num_cores": os.cpu_count(),
        "flags": [flag for flag in _TELLING_FLAGS if flag in flags],
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _fields(text: str) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return [(name.strip(), value.strip()) for name, _, value in pairs]
