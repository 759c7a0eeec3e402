from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.scale.__main__ import DOCS, KEPT, PAGE, REPORT, stored_replicas
from benchmarks.scale.costs import ReplicaCosts, predictions, read_costs
from benchmarks.scale.fleet import Fleet, simulate
from benchmarks.scale.page import CHART, chart, page
from benchmarks.scale.study import outcomes, small_run, smallest, study
from benchmarks.scale.traffic import Arrival, Traffic, arrivals

COSTS = ReplicaCosts(10.0, 0.5, 0.25, 0.05, load_wait_ms=12.0, load_cpu_ms=4.0, resident_adapters=2)


@pytest.fixture(scope="module")
def report() -> Any:
    return json.loads((DOCS / REPORT).read_text())


@pytest.fixture(scope="module")
def kept() -> Any:
    return json.loads((DOCS / KEPT).read_text())


def test_the_page_shows_the_stored_runs(report: Any, kept: Any) -> None:
    """After a change of the template, run `python -m benchmarks.scale --render`."""
    assert (DOCS / PAGE).read_text() == page(kept, report, stored_replicas())
    assert (DOCS / CHART).read_text() == chart(kept)


def test_a_stored_run_is_what_the_program_computes(report: Any, kept: Any) -> None:
    """After a change of the simulation, run `python -m benchmarks.scale`."""
    run = small_run(read_costs(report))
    assert outcomes(run) == next(each for each in kept["runs"] if each["label"] == run.label)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_all_stored_runs_are_what_the_program_computes(report: Any, kept: Any) -> None:
    assert study(read_costs(report)) == kept


def test_the_costs_predict_what_they_were_not_fitted_to(report: Any) -> None:
    found = predictions(report, read_costs(report))
    assert [each.scenario for each in found] == ["profile_lora1", "profile_lora32", "zipf5", "zipf1000"]
    for each in found:
        assert each.predicted == pytest.approx(each.measured, rel=0.1), each.scenario


@pytest.mark.parametrize("size", [1, 8, 32])
def test_a_step_costs_what_batches_of_its_size_took(report: Any, size: int) -> None:
    rows = {row["scenario"]: row for row in report["rows"]}
    measured = rows[f"size{size}_adapters"]["itl_ms"]["p50"]["median"]
    assert read_costs(report).step(size, size) == pytest.approx(measured, rel=0.1)


def test_the_page_says_how_many_replicas_reach_the_target(kept: Any, report: Any) -> None:
    chosen = smallest(kept["runs"], "affinity")
    assert chosen == kept["chosen"]
    assert f"**{chosen} replicas with affinity" in page(kept, report, None)
    slow = [{**run, "ttft_p99": [500.0] * 3} for run in kept["runs"]]
    assert smallest(slow, "affinity") is None
    text = page({**kept, "runs": slow}, report, None)
    assert "none of up to 110 replicas is enough with affinity" in text
    assert "Affinity has the better p99 with all numbers of replicas." in text


def test_the_page_says_where_the_router_has_the_worse_p99(kept: Any, report: Any) -> None:
    runs = [{**run, "ttft_p99": [60.0 if "affinity" in run["label"] else 40.0] * 3} for run in kept["runs"]]
    assert "worse p99 with 60 replicas (60 against 40 ms), 70 replicas" in page(
        {**kept, "runs": runs}, report, None
    )


def test_settlement_is_that_of_the_fleet_too(kept: Any, report: Any) -> None:
    text = page(kept, report, None)
    assert "answers 86.4 million requests a day" in text
    assert "| 86.4 million | 25,000 | 3,456 | 0.42 |" in text


def test_routers_that_count_their_own_requests_see_less_load() -> None:
    """Together they send more to an adapter's first replica than one that sees all requests."""
    requests = [Arrival(0.001 * number, 7, 5) for number in range(40)]

    def imbalance(num_routers: int) -> float:
        fleet = Fleet(4, COSTS, prompt_tokens=10, num_routers=num_routers)
        return simulate(fleet, requests, (7,), 4.0, 0.0).imbalance

    assert imbalance(1) < imbalance(40) == 4.0


def test_a_lone_request_waits_for_its_load_and_one_step() -> None:
    requests = [Arrival(at, 7, 3) for at in (1.0, 2.0)]
    found = simulate(Fleet(1, COSTS, prompt_tokens=10), requests, (), 4.0, 0.0)
    warm = 10.0 + 0.5 + 0.25 + 10 * 0.05
    assert found.ttft_p50 == pytest.approx(warm + 12.0 + 4.0, abs=12.0)
    assert (found.num_requests, found.hit_rate, found.imbalance) == (2, 0.5, 1.0)


def test_adapters_leave_memory_least_recently_used_first() -> None:
    requests = [Arrival(float(number), adapter, 1) for number, adapter in enumerate((0, 1, 2, 1, 0))]
    found = simulate(Fleet(1, COSTS, prompt_tokens=10), requests, (), 10.0, 0.0)
    assert found.hit_rate == pytest.approx(1 / 5)


def test_arrivals_have_the_rate_and_popularity_that_are_assumed() -> None:
    traffic = Traffic(rate=200.0, num_adapters=100)
    found = list(arrivals(traffic, 60.0, seed=1))
    assert found == list(arrivals(traffic, 60.0, seed=1))
    assert len(found) / 60 == pytest.approx(200.0, rel=0.05)
    counts = [sum(each.adapter == adapter for each in found) for adapter in (0, 9)]
    assert counts[0] / counts[1] == pytest.approx(10, rel=0.25)
    assert any(each.adapter >= 100 for each in found)
