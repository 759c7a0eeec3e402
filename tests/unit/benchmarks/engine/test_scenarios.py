"""The order of play."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from benchmarks.engine import scenarios
from benchmarks.engine.contestant import Run
from benchmarks.engine.field import INVARIANT, OURS
from benchmarks.engine.figures import ratios
from benchmarks.engine.measure import Measurement
from benchmarks.engine.scenarios import (
    GROUPS,
    Results,
    Season,
    batch_entries,
    in_turn,
    num_adapters,
    num_runs,
)
from benchmarks.engine.workload import ClosedLoop

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.engine.field import Field


@dataclass
class Player:
    name: str
    calls: list[tuple[str, str, Any]]

    def run(self, task: str, workload: Any) -> Run:
        self.calls.append((self.name, task, workload))
        extra = {"cold_minus_warm_ms": 1.0, "registry_overhead": 0.0}
        return Run(Measurement(1.0, 100, [0.1], [0.1], 1, 1, extra), 0.0, 0)


@dataclass
class Stage:
    """Stands for the field of contestants; every run takes a second."""

    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def contestant(self, name: str, **_options: str) -> Player:
        return Player(name, self.calls)

    def close(self) -> None:
        pass


@pytest.fixture
def played(tiny_model: Path) -> tuple[Stage, Season, list[str]]:
    stage, names = Stage(), list[str]()
    folders = [f"/adapters/{number}" for number in range(num_adapters(GROUPS, 2))]
    season = Season(cast("Field", stage), tiny_model, folders, 2, True, Results(), names.append)
    season.run(GROUPS)
    return stage, season, names


def test_a_whole_season_has_every_ratio(played: tuple[Stage, Season, list[str]]) -> None:
    _, season, _ = played
    assert all(ratio is not None for ratio in ratios(season.results).values())


def test_as_many_runs_are_played_as_were_announced(played: tuple[Stage, Season, list[str]]) -> None:
    _, _, names = played
    assert len(names) == num_runs(GROUPS, 2, has_peers=True)


def test_all_contestants_of_a_repeat_get_the_same_prompts_and_no_repeat_gets_them_again(
    played: tuple[Stage, Season, list[str]],
) -> None:
    stage, _, _ = played
    batches = [workload.prompts for _, task, workload in stage.calls if task == "batch"]
    contestants = len(batch_entries(has_peers=True))
    assert [batches.count(prompts) for prompts in batches] == [contestants] * (3 * contestants)


def test_the_zipf_runs_add_up_to_all_requests(played: tuple[Stage, Season, list[str]]) -> None:
    stage, _, _ = played
    loops = [workload for _, _, workload in stage.calls if isinstance(workload, ClosedLoop)]
    for count in (scenarios.FEW_ADAPTERS, scenarios.NUM_ADAPTERS):
        measured = [loop for loop in loops if len(loop.adapters) == count and loop.seed >= 0]
        assert sum(loop.num_requests for loop in measured) >= scenarios.ZIPF_REQUESTS


def test_both_sets_answer_the_same_requests_one_right_after_the_other(
    played: tuple[Stage, Season, list[str]],
) -> None:
    stage, _, _ = played
    loops = [workload for _, _, workload in stage.calls if isinstance(workload, ClosedLoop)]
    measured = [loop for loop in loops if loop.seed >= 0]
    assert [one.seed for one in measured[::2]] == [one.seed for one in measured[1::2]]
    for one, other in zip(measured[::2], measured[1::2], strict=True):
        assert len(one.adapters) != len(other.adapters)
        assert one.num_requests == other.num_requests


def test_no_adapter_is_loaded_cold_twice(played: tuple[Stage, Season, list[str]]) -> None:
    stage, _, _ = played
    cold = [folder for _, task, workload in stage.calls if task == "loads" for folder in workload.adapters]
    assert len(cold) == len(set(cold))


def test_every_second_repeat_runs_backwards() -> None:
    assert [*in_turn("abc", 0), *in_turn("abc", 1)] == [*"abccba"]


def test_without_peers_only_our_engine_plays(tiny_model: Path) -> None:
    stage = Stage()
    season = Season(cast("Field", stage), tiny_model, [""] * 32, 1, False, Results(), print)
    season.run(["batch"])
    assert {name for name, _, _ in stage.calls} == {OURS, INVARIANT}
