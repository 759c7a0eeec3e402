from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.adapter_files import WEIGHTS_FILE
from tests.unit.workers.training.support import NUM_STEPS, Killed, contents, ignore
from workers.training.job import run_job
from workers.training.run import _train
from workers.training.spec import ADAPTER, CHECKPOINTS, COMPLETE, RESULT_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def killed_at(step: int) -> Callable[[str, Mapping[str, Any]], None]:
    def emit(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "progress" and data["step"] == step:
            raise Killed

    return emit


def test_a_run_killed_anywhere_and_resumed_gives_the_same_bytes(
    make_job: Any, undisturbed: dict[str, bytes]
) -> None:
    spec, folder = make_job("killed")
    for step in (2, 5, 7, NUM_STEPS):  # before the first checkpoint, between, right behind one, at the end
        with pytest.raises(Killed):
            run_job(spec, folder, killed_at(step))
    assert not (folder / RESULT_FILE).exists()
    run_job(spec, folder, ignore)
    assert contents(folder / ADAPTER) == undisturbed


@pytest.mark.parametrize("stage", ["answers", "distillation", "gradients"])
def test_a_run_killed_during_distillation_publishes_nothing_and_gives_the_same_bytes(
    make_job: Any, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("workers.training.progress.INTERVAL_SECONDS", 0.0)
    spec, folder = make_job("killed")

    def kill(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "working" and data["stage"] == stage:
            raise Killed

    with pytest.raises(Killed):
        run_job(spec, folder, kill)
    assert not (folder / ADAPTER).exists()
    assert not (folder / RESULT_FILE).exists()
    run_job(spec, folder, ignore)
    assert contents(folder / ADAPTER) == undisturbed


def test_a_checkpoint_that_was_being_written_is_not_used(
    make_job: Any, undisturbed: dict[str, bytes]
) -> None:
    spec, folder = make_job("torn")
    with pytest.raises(Killed):
        run_job(spec, folder, killed_at(8))
    newest = folder / CHECKPOINTS / "checkpoint-6"
    (newest / COMPLETE).unlink()
    (newest / "trainer_state.json").write_text("{")
    run_job(spec, folder, ignore)
    assert contents(folder / ADAPTER) == undisturbed


def test_a_damaged_checkpoint_gives_way_to_an_older_one(make_job: Any, undisturbed: dict[str, bytes]) -> None:
    spec, folder = make_job("damaged")
    with pytest.raises(Killed):
        run_job(spec, folder, killed_at(8))
    (folder / CHECKPOINTS / "checkpoint-6" / "optimizer.pt").write_bytes(b"")
    steps: list[int] = []
    run_job(spec, folder, lambda kind, data: steps.append(data["step"]) if kind == "progress" else None)
    assert steps[0] == 4
    assert contents(folder / ADAPTER) == undisturbed


def test_a_checkpoint_is_complete_only_once_it_is_on_the_disk(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(_: Path) -> None:
        raise Killed

    spec, folder = make_job()
    monkeypatch.setattr("workers.training.fit.sync_tree", power_cut)
    with pytest.raises(Killed):
        run_job(spec, folder, ignore)
    assert list((folder / CHECKPOINTS).glob("checkpoint-*")) != []
    assert list((folder / CHECKPOINTS).glob(f"checkpoint-*/{COMPLETE}")) == []


def damage(adapter: Path) -> None:
    (adapter / WEIGHTS_FILE).write_bytes(b"")


@pytest.mark.parametrize("lose", [shutil.rmtree, damage])
def test_a_result_whose_adapter_is_lost_is_trained_again(make_job: Any, lose: Callable[[Path], None]) -> None:
    spec, folder = make_job(epochs=0.01)
    spec.save(folder)
    assert _train(folder, ignore) == 0
    kept = contents(folder / ADAPTER)
    lose(folder / ADAPTER)
    assert _train(folder, ignore) == 0
    assert contents(folder / ADAPTER) == kept
