"""Engines behind the router: the benchmark on a tiny model, and its part of the page."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.scale.__main__ import stored_replicas
from benchmarks.scale.measured import measured
from benchmarks.scale.replicas import AFFINITY, ROUND_ROBIN, Bench, Load, measure
from inference.protocol import AdapterRef, Chunk, Generate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REFS = [AdapterRef(digest, digest) for digest in "abcd"]
SMALL = Load(adapters=4, resident=2, clients=4, warm_up=4, requests=24, tokens=4, repeats=2)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Runs as the benchmark writes them."""
    figures = {
        "tokens_per_second": [98.0, 100.0, 103.0],
        "hit_rate": [0.9, 0.9, 0.9],
        "other_cpu": [0.0, 0.02, 0.5],
    }
    others = ("tokens_per_cpu_second", "ttft_p50_ms", "ttft_p99_ms", "imbalance", "failed")
    run = figures | {name: [1.0, 1.0, 1.0] for name in others}
    killed = {"engines": 2, "requests": 24, "running": 8, "begun": 7, "failed": 6, "other_cpu": 0.25}
    speeds = {"tokens_per_second_before": 900.0, "tokens_per_second_after": 450.0}
    waits = {"ttft_p99_ms_before": 50.0, "ttft_p99_ms_after": 1_234.0}
    return {
        "model": "small",
        "load": {name: getattr(SMALL, name) for name in Load.__dataclass_fields__},
        "machine": {"cpu": "A processor", "num_cores": 2},
        "finished_at": "2026-01-01T00:00:00+00:00",
        "runs": [{"engines": 1, "router": AFFINITY} | run, {"engines": 2, "router": ROUND_ROBIN} | run],
        "killed": [killed | speeds | waits],
    }


def test_runs_of_a_seed_request_the_same_adapters_by_prompts_of_their_own() -> None:
    first, second = (list(SMALL.each(REFS, run, 7, 50)) for run in ("run 0", "run 1"))
    assert [each.adapter for each in first] == [each.adapter for each in second]
    prompts = {each.prompt for each in first + second}
    assert len(prompts) == len({each.request_id for each in first + second}) == 100
    counts = [sum(each.adapter == ref for each in first) for ref in REFS]
    assert counts[0] == max(counts)


@pytest.mark.deep
def test_both_routers_are_measured_and_then_an_engine_is_killed(tiny_model: Path, tmp_path: Path) -> None:
    found = measure(tiny_model, SMALL, (2,), tmp_path)
    assert [(run["engines"], run["router"]) for run in found["runs"]] == [(2, AFFINITY), (2, ROUND_ROBIN)]
    for run in found["runs"]:
        assert len(run["tokens_per_second"]) == SMALL.repeats
        assert run["failed"] == [0, 0]
        assert all(0 <= rate <= 1 for rate in run["hit_rate"])
        assert all(1 <= part <= 2 for part in run["imbalance"])
    (killed,) = found["killed"]
    assert 0 < killed["running"] < SMALL.clients
    assert killed["failed"] <= killed["running"]
    assert min(killed["tokens_per_second_before"], killed["tokens_per_second_after"]) > 0
    assert measured(json.loads(json.dumps(found))).count("| 2 engines, ") == 2


def test_the_page_shows_medians_ranges_and_the_machine_s_load(found: dict[str, Any]) -> None:
    text = measured(found)
    assert "A processor (model not recorded) with 2 cores, commit not recorded" in text
    assert "These runs are older" in text
    assert "These runs are older" not in measured(found | {"commit": "0123abc"})
    assert "24 answers of 4 tokens a run after 4 that are not counted" in text
    assert "| 1 engine | 100 (98 to 103) |" in text
    assert "| 2 engines, round robin | 100 (98 to 103) |" in text
    assert "| 2 (0 to 50) % |" in text
    assert "| 2 | 8 | 7 | 6 | 900 | 450 | 50 | 1,234 | 25% |" in text


def test_the_page_compares_the_routers(found: dict[str, Any]) -> None:
    (_, other) = found["runs"]
    ours = {**other, "router": AFFINITY, "tokens_per_second": [90.0, 95.0, 99.0]}
    text = measured(found | {"runs": [ours, other]})
    assert "with 2 engines 95 against 100 tokens/s" in text


def test_the_first_requests_of_the_clients_have_no_wait() -> None:
    class Target:
        async def generate(self, request: Generate) -> AsyncIterator[Chunk]:
            await asyncio.sleep(0)
            yield Chunk(request.request_id, "", [1], 1, 1)

    bench = Bench(SMALL, REFS, [])
    answers, _, _ = asyncio.run(bench.serve(Target(), 1, SMALL.requests))
    assert len(answers.chunks) == SMALL.requests
    assert len(answers.waits) == SMALL.requests - SMALL.clients


def test_without_runs_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.scale.__main__.DOCS", tmp_path)
    assert stored_replicas() is None
    assert measured(None) == "Not measured yet."
    (tmp_path / "scale_replicas.json").write_text('{"runs": []}')
    assert stored_replicas() == {"runs": []}
