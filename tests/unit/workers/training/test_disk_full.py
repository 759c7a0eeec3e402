from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import SafetensorError

from workers.training import disk_full
from workers.training.disk_full import disk_full_error
from workers.training.run import _train
from workers.training.spec import CHECKPOINTS, COMPLETE, RESULT_FILE, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("could not save")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        wrapped(OSError(errno.ENOSPC, "No space left on device")),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_recognised_in_every_kind_of_error(tmp_path: Path, error: Exception) -> None:
    found = disk_full_error(error, tmp_path / "not made yet")
    assert found is not None
    assert "no checkpoint yet" in found.message


def test_the_last_whole_checkpoint_is_named(tmp_path: Path) -> None:
    for step in (20, 100, 120):
        (tmp_path / CHECKPOINTS / f"checkpoint-{step}").mkdir(parents=True)
    for step in (20, 100):
        (tmp_path / CHECKPOINTS / f"checkpoint-{step}" / COMPLETE).touch()
    found = disk_full_error(OSError(errno.ENOSPC, "full"), tmp_path)
    assert found is not None
    assert "step 100 is kept" in found.message


def test_torch_that_fails_to_write_says_nothing_so_the_disk_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.save(torch.zeros(1 << 20), "/dev/full")
    assert disk_full_error(failed.value, tmp_path) is None
    monkeypatch.setattr(disk_full, "MIN_FREE_BYTES", 1 << 62)
    assert disk_full_error(failed.value, tmp_path) is not None


def test_other_errors_are_none_of_its(tmp_path: Path) -> None:
    assert disk_full_error(PermissionError(errno.EACCES, "no"), tmp_path) is None
    assert disk_full_error(ValueError("no"), tmp_path) is None


def test_a_full_disk_ends_the_process_and_leaves_its_last_checkpoint(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = make_job(epochs=0.5)
    spec.save(folder)

    def write(path: Path, value: Any) -> None:
        if path.name == RESULT_FILE:
            Path("/dev/full").write_text("no space left")
        write_json(path, value)

    monkeypatch.setattr("workers.training.spec.write_json", write)
    messages: list[tuple[str, Mapping[str, Any]]] = []
    assert _train(folder, lambda kind, data: messages.append((kind, data))) == 1
    kind, error = messages[-1]
    assert (kind, error["code"]) == ("failed", "disk_full")
    assert "step 3 is kept" in error["message"]
    assert (folder / CHECKPOINTS / "checkpoint-3" / COMPLETE).exists()
