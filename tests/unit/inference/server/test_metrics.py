"""The engine's Prometheus metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference.errors import DeadlineExceededError
from inference.outputs import Failure
from inference.protocol import Chunk, Status
from inference.server.metrics import MODEL, EngineMetrics
from tests.support.tracing import by_name, parent_of, recorded

if TYPE_CHECKING:
    from inference.protocol import FinishReason


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> EngineMetrics:
    return EngineMetrics("tiny", clock)


def status(**changes: int) -> Status:
    fixed = {"resident_bytes": 7, "num_running": 2, "num_waiting": 3, "kv_blocks_used": 5}
    fixed |= {"kv_blocks_total": 20, "num_preemptions": 1} | changes
    return Status("", "tiny", "digest", 100, ["a"], ["a", "b"], **fixed)  # type: ignore[arg-type]


def chunk(request_id: str, tokens: int, reason: FinishReason | None = None) -> Chunk:
    return Chunk(request_id, "x", [1] * tokens, 9, tokens, reason, queue_seconds=0.5)


def read(metrics: EngineMetrics, **changes: int) -> dict[str, float]:
    """Samples by name, and by their labels but the model's."""
    found = {}
    for family in text_string_to_metric_families(metrics.render(status(**changes))):
        for sample in family.samples:
            assert sample.labels.pop(MODEL) == "tiny"
            found[sample.name + "".join(f",{v}" for v in sample.labels.values())] = sample.value
    return found


def test_a_requests_tokens_are_timed_from_its_arrival_and_from_each_other(
    metrics: EngineMetrics, clock: Clock
) -> None:
    metrics.record_arrival("1")
    for seconds, tokens, reason in ((2.0, 1, None), (0.04, 1, None), (0.06, 1, "stop")):
        clock.now += seconds
        metrics.record_outputs([chunk("1", tokens, reason)])
    found = read(metrics)
    assert found["vllm:time_to_first_token_seconds_count"] == 1
    assert found["vllm:time_to_first_token_seconds_sum"] == pytest.approx(2.0)
    assert found["vllm:request_queue_time_seconds_count"] == 1
    assert found["vllm:request_queue_time_seconds_sum"] == 0.5
    assert found["vllm:inter_token_latency_seconds_count"] == 2
    assert found["vllm:inter_token_latency_seconds_sum"] == pytest.approx(0.1)
    assert found["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(2.1)
    assert (found["vllm:prompt_tokens_total"], found["vllm:generation_tokens_total"]) == (9, 3)
    assert found["vllm:request_success_total,stop"] == 1


def test_a_request_is_a_span_below_who_asked_for_it(metrics: EngineMetrics, clock: Clock) -> None:
    caller = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    with recorded() as spans:
        metrics.record_arrival("1")
        metrics.set_parent_span("1", caller)
        metrics.set_parent_span("gone", caller)
        clock.now += 2
        metrics.record_outputs([chunk("1", 1)])
        clock.now += 1
        metrics.record_outputs([chunk("1", 1, "length")])
    span = by_name(spans)["llm_request"]
    assert parent_of(span) == caller
    assert span.attributes is not None
    assert span.attributes["gen_ai.latency.time_to_first_token"] == 2
    assert span.attributes["gen_ai.latency.time_in_queue"] == 0.5
    assert span.attributes["gen_ai.usage.input_tokens"] == 9
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 3_000_000_000


def test_a_request_that_fails_is_counted_by_its_code(metrics: EngineMetrics) -> None:
    metrics.record_arrival("1")
    metrics.record_outputs([Failure("1", DeadlineExceededError(3))])
    found = read(metrics)
    assert found["loraledger_engine_failures_total,deadline_exceeded"] == 1
    assert found["vllm:e2e_request_latency_seconds_count"] == 0


def test_what_is_not_known_and_what_has_no_tokens_is_borne(metrics: EngineMetrics) -> None:
    metrics.record_arrival("1")
    metrics.record_outputs([chunk("unknown", 1), chunk("1", 0, "abort"), chunk("1", 1)])
    found = read(metrics)
    assert found["vllm:generation_tokens_total"] == 0
    assert found["vllm:request_success_total,abort"] == 1


def test_the_engines_own_counters_are_exported(metrics: EngineMetrics) -> None:
    found = read(metrics, adapter_loads=3, num_adapter_slots=8)
    assert found["loraledger_engine_adapter_slots"] == 8
    assert found["vllm:kv_cache_usage_perc"] == 0.25
    assert (found["vllm:num_requests_running"], found["vllm:num_requests_waiting"]) == (2, 3)
    assert (found["loraledger_engine_adapters_active"], found["loraledger_engine_adapters_resident"]) == (
        1,
        2,
    )
    assert read(metrics, adapter_loads=5)["loraledger_engine_adapter_loads_total"] == 5
