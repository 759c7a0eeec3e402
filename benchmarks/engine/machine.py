"""Describes machine and code, and measures CPU use and disk reads. Linux. Standard library only."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_ROOT = Path(__file__).resolve().parents[2]
_TICK = os.sysconf("SC_CLK_TCK")
# The flags that decide the speed of bf16 products.
_RELEVANT_FLAGS = (
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
# By part of the text: its name in /proc/cpuinfo, on x86 and on ARM.
_CPU_MODEL = {
    "family": "cpu family",
    "model": "model",
    "stepping": "stepping",
    "implementer": "CPU implementer",
    "part": "CPU part",
    "revision": "CPU revision",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters since boot: CPU seconds of the whole machine, including time stolen by its host, and of one
    process; and bytes that this process read from disks, without reads from the page cache.
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
        # The command's name, in brackets, may contain blanks. Children count once they have been waited for.
        process = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        busy = user + nice + system + irq + softirq + steal
        disk = dict(_fields(Path(f"/proc/{pid}/io").read_text()))["read_bytes"]
        return cls(time.monotonic(), busy / _TICK, sum(map(int, process)) / _TICK, int(disk))

    def other_share_since(self, before: Usage) -> float:
        """Share of the machine's CPU time since `before` that other processes used, 0 to 1."""
        capacity = (self.at - before.at) * (os.cpu_count() or 1)
        busy = self.machine_seconds - before.machine_seconds
        own = self.process_seconds - before.process_seconds
        return min(1.0, max(0.0, (busy - own) / capacity)) if capacity > 0 else 0.0


def describe() -> dict[str, Any]:
    """CPU, relevant flags, memory, and versions of system and Python. `cpu_model` tells apart CPUs of one
    name, which virtual machines shorten.
    """
    info = dict(_fields(Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]))
    flags = set(info.get("flags", info.get("Features", "")).split())
    memory = dict(_fields(Path("/proc/meminfo").read_text()))["MemTotal"]
    return {
        "cpu": info.get("model name", platform.machine()),
        "cpu_model": ", ".join(f"{part} {info[name]}" for part, name in _CPU_MODEL.items() if name in info),
        "num_cores": os.cpu_count(),
        "flags": [flag for flag in _RELEVANT_FLAGS if flag in flags],
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """The commit of this code, with "+" if tracked files differ from it; None outside of a repository."""
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    command = [git, "-C", str(_ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _fields(text: str) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return [(name.strip(), value.strip()) for name, _, value in pairs]
