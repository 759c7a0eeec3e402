from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.workers.support import letter_rows
from tests.unit.workers.training.support import Killed, contents, ignore
from workers.training.job import run_job
from workers.training.rows import Example, UnusableRows
from workers.training.spec import ADAPTER, RESULT_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

STOPPING = {"early_stopping": 2, "eval_fraction": 0.3, "epochs": 40, "learning_rate": 0.05, "dropout": 0.0}


def test_training_ends_where_it_brings_nothing_and_keeps_the_best(make_job: Any) -> None:
    spec, folder = make_job(**STOPPING)
    events: list[tuple[str, Mapping[str, Any]]] = []
    run_job(spec, folder, lambda kind, data: events.append((kind, data)))
    metrics = json.loads((folder / RESULT_FILE).read_bytes())["metrics"]
    losses = {data["model"]: data["loss"] for kind, data in events if kind == "eval"}
    deciding = {int(model[5:]): loss for model, loss in losses.items() if model.startswith("step-")}
    best = min(deciding, key=lambda step: (deciding[step], step))
    assert sorted(deciding) == list(range(3, best + 7, 3))  # two in a row that were no better
    assert (metrics["num_steps"], metrics["kept_step"]) == (best + 6, best)
    assert metrics["num_steps"] < 160
    assert metrics["midway_step"] == metrics["num_steps"]  # the planned third lies behind the end
    assert (metrics["num_train_rows"], metrics["num_eval_rows"]) == (17, 3)  # and 4 decide: one object a row


@pytest.mark.parametrize("killed_behind", [1, 4])
def test_a_killed_training_stops_where_it_would_have(make_job: Any, killed_behind: int) -> None:
    spec, folder = make_job("whole", **STOPPING)
    run_job(spec, folder, ignore)
    _, killed = make_job("killed", **STOPPING)
    num_evals = 0

    def kill(kind: str, data: Mapping[str, Any]) -> None:
        nonlocal num_evals
        num_evals += kind == "checkpoint"
        if num_evals == killed_behind and kind == "progress":
            raise Killed

    with pytest.raises(Killed):
        run_job(spec, killed, kill)
    run_job(spec, killed, ignore)
    assert contents(killed / ADAPTER) == contents(folder / ADAPTER)


def test_a_training_that_has_stopped_takes_no_further_step_when_its_job_is_resumed(make_job: Any) -> None:
    spec, folder = make_job("whole", **STOPPING)
    run_job(spec, folder, ignore)
    _, killed = make_job("killed", **STOPPING)
    num_killed = 0
    progressed: list[str] = []

    def kill(kind: str, data: Mapping[str, Any]) -> None:
        nonlocal num_killed
        if num_killed and kind in {"progress", "checkpoint"}:
            progressed.append(kind)
        if kind == "eval" and data["model"] == "adapter":
            num_killed += 1
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            run_job(spec, killed, kill)
    run_job(spec, killed, ignore)
    assert (num_killed, progressed) == (2, [])
    assert contents(killed / ADAPTER) == contents(folder / ADAPTER)


def test_early_stopping_evaluates_no_more_tokens_than_are_trained(make_job: Any) -> None:
    options = {"batch_size": 1, "checkpoint_steps": 1, "eval_fraction": 0.5, "epochs": 2}
    spec, folder = make_job(**STOPPING | options | {"early_stopping": 100})
    events: list[tuple[str, Mapping[str, Any]]] = []
    run_job(spec, folder, lambda kind, data: events.append((kind, data)))
    evaluated = [data["model"] for kind, data in events if kind == "eval"]
    steps = [int(model[5:]) for model in evaluated if model.startswith("step-")]
    assert steps[-1] == 24
    assert all(later - earlier >= 5 for earlier, later in pairwise([0, *steps[:-1]]))  # on 6 short rows


def test_early_stopping_decides_by_a_draw_of_the_rows(make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.job.MAX_STOPPING_ROWS", 2)
    seen: list[frozenset[Example]] = []

    def measure(_model: Any, rows: list[Example], *_: Any) -> float:
        seen.append(frozenset(rows))
        return 1.0

    monkeypatch.setattr("workers.training.stopping.mean_loss", measure)
    spec, folder = make_job(**STOPPING | {"epochs": 1})
    run_job(spec, folder, ignore)
    assert {len(rows) for rows in seen} == {2}
    assert len(set(seen)) == 1


def test_one_held_out_source_cannot_both_decide_and_measure(make_job: Any) -> None:
    spec, folder = make_job(rows=letter_rows(4), early_stopping=1)
    with pytest.raises(UnusableRows, match="early_stopping") as refused:
        run_job(spec, folder, ignore)
    assert refused.value.param == "early_stopping"
