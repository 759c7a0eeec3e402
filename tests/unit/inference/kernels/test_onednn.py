from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from inference.kernels.onednn import limit_caches

if TYPE_CHECKING:
    import pytest

VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
# Prints by how many pages a process grows over products of 120 sizes.
GROWTH = """
import sys
from pathlib import Path
import torch
from inference.kernels import onednn
from inference.kernels.portable import PortableKernels
from inference.model.linear import make_linear

def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

onednn._CAPACITY = sys.argv[1]
onednn.limit_caches()
linear, states = make_linear(torch.randn(256, 256), None, PortableKernels()), torch.randn(121, 256)
linear(states)
before = pages()
for size in range(1, 121):
    linear(states[:size])
print(pages() - before)
"""


def growth(capacity: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", GROWTH, capacity]
    return int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def test_steps_of_many_sizes_stop_to_take_more_memory() -> None:
    assert growth("8") < growth("1024") / 2


def test_an_environment_variable_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[0], "7")
    monkeypatch.delenv(VARIABLES[1], raising=False)
    limit_caches()
    assert [os.environ[name] for name in VARIABLES] == ["7", "192"]
