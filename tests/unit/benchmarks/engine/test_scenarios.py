"""The order in which scenarios run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from benchmarks.engine import scenarios
from benchmarks.engine.contestant import Run
from benchmarks.engine.figures import ratios
from benchmarks.engine.launcher import INT8, INVARIANT, OURS
from benchmarks.engine.measure import Measurement
from benchmarks.engine.own_scenarios import LOOKUP, RANKS, WITHOUT_LOOKUP, lookup_scenarios
from benchmarks.engine.scenarios import (
    GROUPS,
    Results,
    Suite,
    batch_entries,
    in_turn,
    num_adapters,
    num_runs,
    prompt_entries,
    with_prompt_speed,
)
from benchmarks.engine.shapes import SHAPES, Shape
from benchmarks.engine.workload import NUM_PROMPTS, ClosedLoop

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.engine.launcher import Launcher


@dataclass
class FakeContestant:
    name: str
    calls: list[tuple[str, str, Any]]

    def run(self, task: str, workload: Any) -> Run:
        self.calls.append((self.name, task, workload))
        extra = {"cold_minus_warm_ms": 1.0, "registry_overhead": 0.0, "limit_fraction": 0.5}
        return Run(Measurement(1.0, 100, [0.1], [0.1], 1, 1, extra), 0.0, 0)


@dataclass
class FakeLauncher:
    """A launcher whose runs all take a second."""

    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def contestant(self, name: str, **_options: str) -> FakeContestant:
        return FakeContestant(name, self.calls)

    def close(self) -> None:
        pass


def make_shape(name: str) -> Shape:
    return Shape(f"/models/{name}", [f"/{name}/{number}" for number in range(32)])


def make_ranked(rank: int) -> list[str]:
    return [f"/rank{rank}/{number}" for number in range(32)]


@pytest.fixture
def suite_run(tiny_model: Path) -> tuple[FakeLauncher, Suite, list[str]]:
    launcher, names = FakeLauncher(), list[str]()
    folders = [f"/adapters/{number}" for number in range(num_adapters(GROUPS, 2))]
    suite = Suite(
        cast("Launcher", launcher),
        tiny_model,
        folders,
        2,
        True,
        Results(),
        names.append,
        make_shape,
        make_ranked,
    )
    suite.run(GROUPS)
    return launcher, suite, names


def test_a_complete_suite_has_every_ratio(suite_run: tuple[FakeLauncher, Suite, list[str]]) -> None:
    _, suite, _ = suite_run
    assert all(ratio is not None for ratio in ratios(suite.results).values())


def test_as_many_runs_are_made_as_announced(suite_run: tuple[FakeLauncher, Suite, list[str]]) -> None:
    _, _, names = suite_run
    assert len(names) == num_runs(GROUPS, 2, has_peers=True)


def test_all_contestants_of_a_repeat_get_the_same_prompts_and_no_repeat_gets_them_again(
    suite_run: tuple[FakeLauncher, Suite, list[str]],
) -> None:
    launcher, _, _ = suite_run
    peers = {name for name, _ in batch_entries(has_peers=True)}
    batches = [work.prompts for name, task, work in launcher.calls if task == "batch" and name in peers]
    short = [prompts for prompts in batches if len(prompts) == NUM_PROMPTS]
    long = [prompts for prompts in batches if len(prompts) != NUM_PROMPTS]
    contestants = len(batch_entries(has_peers=True))
    assert [short.count(prompts) for prompts in short] == [contestants] * (3 * contestants)
    by_length = Counter(
        int(scenario.removeprefix("prefill")) for _, scenario in prompt_entries(has_peers=True)
    )
    assert by_length == {256: 4, 1_000: 4, 4_000: 2}
    assert all(long.count(prompts) == by_length[len(prompts[0])] for prompts in long)
    assert len(long) == 3 * by_length.total()


def test_the_speed_of_prompts_counts_until_the_last_has_its_first_token() -> None:
    run = Run(Measurement(9.0, 8, [1.0, 2.0, 4.0], [0.1], 1, 1, {"other": 1.0}), 0.0, 0)
    assert with_prompt_speed(run, 4000).measurement.extra == {
        "other": 1.0,
        "prompt_tokens_per_second": 1000,
    }


def test_every_shape_has_rows_of_its_own(
    suite_run: tuple[FakeLauncher, Suite, list[str]],
) -> None:
    launcher, suite, _ = suite_run
    for name in SHAPES:
        for scenario in ("base", "lora32"):
            assert len(suite.results.runs[f"{OURS} {name}", scenario]) == 2
    adapters = [work.adapters for name, _, work in launcher.calls if name == f"{OURS} {SHAPES[0]}"]
    assert {each for batch in adapters for each in batch if each} == set(make_shape(SHAPES[0]).adapters)


def test_lookup_is_compared_on_the_same_texts(
    suite_run: tuple[FakeLauncher, Suite, list[str]],
) -> None:
    launcher, _, _ = suite_run
    texts = [(name, work) for name, task, work in launcher.calls if task == "texts"]
    with_lookup, without = (
        sorted(work.messages for name, work in texts if name == contestant)
        for contestant in (LOOKUP, WITHOUT_LOOKUP)
    )
    assert with_lookup == without != []
    options = {each.contestant: each.options for each in lookup_scenarios()}
    assert options == {
        LOOKUP: {"prefix-sharing": "off", "prompt-lookup": "yes"},
        WITHOUT_LOOKUP: {"prefix-sharing": "off", "prompt-lookup": "no"},
    }


def test_a_mixed_batch_has_every_rank(suite_run: tuple[FakeLauncher, Suite, list[str]]) -> None:
    launcher, _, _ = suite_run
    batches = [work.adapters for name, _, work in launcher.calls if name == f"{OURS} ranks"]
    ranks = {len({folder.split("/")[1] for folder in batch}) for batch in batches}
    assert ranks == {1, len(RANKS)}
    assert all(len(set(batch)) == 32 for batch in batches)


def test_the_zipf_runs_add_up_to_all_requests(suite_run: tuple[FakeLauncher, Suite, list[str]]) -> None:
    launcher, _, _ = suite_run
    loops = [workload for _, _, workload in launcher.calls if isinstance(workload, ClosedLoop)]
    for count in (scenarios.FEW_ADAPTERS, scenarios.NUM_ADAPTERS):
        measured = [loop for loop in loops if len(loop.adapters) == count and loop.seed >= 0]
        assert sum(loop.num_requests for loop in measured) >= scenarios.ZIPF_REQUESTS


def test_both_sets_answer_the_same_requests_one_right_after_the_other(
    suite_run: tuple[FakeLauncher, Suite, list[str]],
) -> None:
    launcher, _, _ = suite_run
    loops = [workload for _, _, workload in launcher.calls if isinstance(workload, ClosedLoop)]
    measured = [loop for loop in loops if loop.seed >= 0]
    assert [one.seed for one in measured[::2]] == [one.seed for one in measured[1::2]]
    for one, other in zip(measured[::2], measured[1::2], strict=True):
        assert len(one.adapters) != len(other.adapters)
        assert one.num_requests == other.num_requests


def test_no_adapter_is_loaded_cold_twice(suite_run: tuple[FakeLauncher, Suite, list[str]]) -> None:
    launcher, _, _ = suite_run
    cold = [folder for _, task, workload in launcher.calls if task == "loads" for folder in workload.adapters]
    assert len(cold) == len(set(cold))


def test_every_second_repeat_runs_backwards() -> None:
    assert [*in_turn("abc", 0), *in_turn("abc", 1)] == [*"abccba"]


def test_without_peers_only_our_engine_runs(tiny_model: Path) -> None:
    launcher = FakeLauncher()
    suite = Suite(
        cast("Launcher", launcher), tiny_model, [""] * 32, 1, False, Results(), print, make_shape, make_ranked
    )
    suite.run(["batch"])
    assert {name for name, _, _ in launcher.calls} == {OURS, INVARIANT, INT8}
