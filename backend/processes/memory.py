"""Memory of the machine, or of the container."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""A container's limit, in versions 2 and 1 of control groups."""


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in filter(Path.exists, map(Path, CGROUP_FILES)):
        limit = file.read_text().strip()
        if limit.isdigit():  # version 2 says "max" for none
            sizes.append(int(limit))
    return min(sizes)
