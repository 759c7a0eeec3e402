"""Our engine's side of the workloads, on a tiny model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from benchmarks.engine.adapters import num_weight_bytes
from benchmarks.engine.ours import OurEngine
from benchmarks.engine.workload import (
    Batch,
    Chat,
    ClosedLoop,
    Loads,
    Residents,
    Texts,
    prompts,
    zipf_requests,
)
from inference.config import EngineConfig
from inference.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ours(tiny_model: Path) -> Iterator[OurEngine]:
    config = EngineConfig(
        tiny_model,
        num_threads=1,
        kernels="portable",
        kv_budget_bytes=2**20,
        num_adapter_slots=2,
        num_adapter_rows=8,
        max_rank=4,
    )
    opened = OurEngine(config)
    yield opened
    opened.close()


def test_a_batch_yields_every_token_of_every_prompt(ours: OurEngine, adapters: list[str]) -> None:
    workload = Batch(prompts("x", 3), [None, adapters[0], adapters[1]], new_tokens=5)
    measured = ours.batch(**asdict(workload))
    assert measured.num_tokens == 15
    assert (len(measured.ttft_seconds), len(measured.itl_seconds)) == (3, 12)
    assert measured.seconds >= max(measured.ttft_seconds)


def test_texts_are_answered_with_the_engines_prompt_lookup(ours: OurEngine) -> None:
    measured = ours.texts(**asdict(Texts(["ABABABABABAB"] * 2, 0.0, new_tokens=40)))
    assert measured.num_tokens == 80
    assert 0 <= measured.extra["accepted_tokens"] <= measured.extra["proposed_tokens"] > 0


def test_a_chat_grows_by_question_and_answer(ours: OurEngine) -> None:
    ours.batch(**asdict(Batch(prompts("before", 1), [None])))
    measured = ours.chat(**asdict(Chat("x", num_chats=2, num_turns=3, question_tokens=20, new_tokens=4)))
    assert measured.num_tokens == 2 * 3 * 4
    # Each chat finds one block of 44 tokens, then two of 68.
    assert measured.extra["cached_share"] == (16 + 32) / (20 + 44 + 68)


def test_a_closed_loop_answers_every_request(ours: OurEngine, adapters: list[str]) -> None:
    workload = ClosedLoop(adapters, 20, seed=1, num_clients=3, shortest=1, longest=3)
    measured = ours.closed_loop(**asdict(workload))
    assert len(measured.ttft_seconds) == 20 - 3  # the clients' first requests start together
    assert measured.num_tokens == sum(new_tokens for _, _, new_tokens in zipf_requests(workload))


def test_a_closed_loop_measures_the_cost_of_adapters_per_request(
    ours: OurEngine, adapters: list[str]
) -> None:
    workload = ClosedLoop(adapters, 20, seed=1, num_clients=3, shortest=1, longest=3)
    first, again = (ours.closed_loop(**asdict(workload)) for _ in range(2))
    drawn = {folder for _, folder, _ in zipf_requests(workload)}
    assert first.extra["adapter_loads"] == len(drawn) / 20
    assert again.extra["adapter_loads"] == 0
    # Not zero: a loader may go back to sleep after the run that it worked for.
    assert first.extra["loading_cpu_ms"] > again.extra["loading_cpu_ms"] >= 0
    assert again.extra["slot_writes"] > 0  # two slots hold fewer than were drawn
    assert 1 < first.extra["adapters_in_flight"] <= 3
    assert first.extra["request_ms"] == pytest.approx(1000 * first.seconds / 20)


def test_loads_are_compared_with_answers_that_need_none(ours: OurEngine, adapters: list[str]) -> None:
    for from_disk in (False, True):
        workload = Loads(adapters[:3], f"loads {from_disk}", from_disk=from_disk)
        measured = ours.loads(**asdict(workload))
        assert len(measured.ttft_seconds) == 6
        cold, warm = measured.ttft_seconds[::2], measured.ttft_seconds[1::2]
        differences = sorted(1000 * (one - other) for one, other in zip(cold, warm, strict=True))
        assert measured.extra["cold_minus_warm_ms"] == pytest.approx(differences[1])


def test_growth_of_memory_is_a_part_of_the_weights(
    ours: OurEngine, adapters: list[str], tiny_model: Path
) -> None:
    workload = Residents(adapters[:4], adapters[4:], num_weight_bytes(tiny_model, rank=2))
    assert ours.residents(**asdict(workload)).extra["registry_overhead"] >= -1


def test_adapters_that_do_not_stay_resident_are_no_measurement(ours: OurEngine, adapters: list[str]) -> None:
    workload = Residents(adapters[:4], adapters[:4], 1)
    with pytest.raises(RuntimeError, match="0 of 4 adapters stayed"):
        ours.residents(**asdict(workload))


def test_a_refused_adapter_fails_the_run(ours: OurEngine, tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        ours.batch(**asdict(Batch(prompts("x", 1), [str(tmp_path)], new_tokens=1)))
