from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from workers.training import memory
from workers.training.memory import memory_limit, out_of_memory_error
from workers.training.spec import VERIFICATION_FILE
from workers.training.supervise import supervise

if TYPE_CHECKING:
    from pathlib import Path

LIMITED = """
import sys, torch
from workers.training import memory, run
memory.GPU_FILES = ()
memory.machine_memory = lambda: int(4 * 2**30 / memory.SHARE)
run._run_job = lambda *_: {}
sys.exit(run.main(["--job", sys.argv[1]]))
"""


def program(what: str, folder: Path) -> list[str]:
    return [sys.executable, "-c", LIMITED.format(what), str(folder)]


@pytest.mark.parametrize("what", ["torch.empty(8 << 30, dtype=torch.uint8)", "bytearray(8 << 30)"])
def test_a_job_that_needs_more_memory_than_it_may_have_fails_for_good_and_says_what_to_lower(
    tmp_path: Path, what: str
) -> None:
    last = supervise(program(what, tmp_path), tmp_path, lambda: True, print)
    assert last is not None
    assert (last.kind, last.data["code"]) == ("failed", "out_of_memory")
    assert "4.3 GB" in last.data["message"]
    assert "lower max_length" in last.data["message"]


def test_a_verification_that_needs_more_memory_names_a_remedy_of_its_own(tmp_path: Path) -> None:
    (tmp_path / VERIFICATION_FILE).touch()
    last = supervise(program("bytearray(8 << 30)", tmp_path), tmp_path, lambda: True, print)
    assert last is not None
    assert "verify the index on a machine with more memory" in last.data["message"]


def test_a_process_that_was_limited_further_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "GPU_FILES", ())
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4096, 4096))
    assert out_of_memory_error(MemoryError()) is None


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_a_gpu_machine_sets_no_limit_and_knows_its_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(memory, "GPU_FILES", (str(tmp_path),))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert memory_limit() is None
    assert out_of_memory_error(error) is not None
    assert out_of_memory_error(ValueError("out of memory")) is None
