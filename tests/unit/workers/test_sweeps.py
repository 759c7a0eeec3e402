"""When the sweeps of a loop run."""

from __future__ import annotations

import pytest

from workers.sweeps import at_most_every


def test_a_task_runs_at_most_once_in_its_period() -> None:
    now, began = [5.0], list[float]()
    task = at_most_every(60, lambda: began.append(now[0]), lambda: now[0])
    for now[0] in (5, 64, 65, 66, 130):
        task()
    assert began == [5, 65, 130]


def test_a_task_that_fails_waits_for_its_next_period() -> None:
    now = [0.0]

    def fail() -> None:
        raise RuntimeError("away")

    task = at_most_every(60, fail, lambda: now[0])
    for now[0] in (0, 60):
        with pytest.raises(RuntimeError):
            task()
        task()
