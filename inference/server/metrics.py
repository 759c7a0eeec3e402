"""Engine metrics in Prometheus' text format, under vLLM's names where the meaning is the same.

No metric has an adapter label, because there may be thousands of adapters. All methods except
`record_arrival` and `set_parent_span` run on the engine's thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inference.protocol import Chunk
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference.outputs import Output
    from inference.protocol import Status

MODEL = "model_name"
_LATENCY_BUCKETS = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 15.0, 60.0)
_TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 3.0)
_REQUEST_BUCKETS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0)

GAUGES: Mapping[str, tuple[str, Callable[[Status], float]]] = {
    "vllm:num_requests_running": ("Requests in the batch.", lambda s: s.num_running),
    "vllm:num_requests_waiting": ("Requests in the waiting queue.", lambda s: s.num_waiting),
    "vllm:kv_cache_usage_perc": (
        "Fraction of the kv_blocks that requests hold, 0 to 1.",
        lambda s: s.kv_blocks_used / max(s.kv_blocks_total, 1),
    ),
    "loraledger_engine_adapters_active": ("Adapters in device slots.", lambda s: len(s.active_adapters)),
    "loraledger_engine_adapter_slots": ("Device slots for adapters.", lambda s: s.num_adapter_slots),
    "loraledger_engine_adapters_resident": (
        "Adapters in the host cache.",
        lambda s: len(s.resident_adapters),
    ),
    "loraledger_engine_adapter_resident_bytes": (
        "Memory of the adapters in the host cache.",
        lambda s: s.resident_bytes,
    ),
}
"""Gauges that are read from the engine's status."""
COUNTERS: Mapping[str, tuple[str, Callable[[Status], float]]] = {
    "vllm:num_preemptions": (
        "Requests returned to the waiting queue for lack of kv_blocks.",
        lambda s: s.num_preemptions,
    ),
    "vllm:prefix_cache_queries": (
        "Prompt tokens looked up in the prefix cache.",
        lambda s: s.prefix_cache_queries,
    ),
    "vllm:prefix_cache_hits": ("Prompt tokens found in the prefix cache.", lambda s: s.prefix_cache_hits),
    "vllm:spec_decode_num_draft_tokens": (
        "Tokens proposed by prompt lookup.",
        lambda s: s.num_proposed_tokens,
    ),
    "vllm:spec_decode_num_accepted_tokens": (
        "Proposed tokens that were equal to the sampled ones.",
        lambda s: s.num_accepted_tokens,
    ),
    "loraledger_engine_adapter_device_hits": (
        "Requests whose adapter was in a device slot when they started.",
        lambda s: s.adapter_device_hits,
    ),
    "loraledger_engine_adapter_host_hits": (
        "Requests whose adapter was copied from the host cache when they started.",
        lambda s: s.adapter_host_hits,
    ),
    "loraledger_engine_adapter_loads": ("Adapters read from disk.", lambda s: s.adapter_loads),
}
"""Counters that are read from the engine's status."""


@dataclass(slots=True)
class _Timing:
    """Times of one request, in seconds of `perf_counter`; `first` and `latest` are 0 before its first
    token.
    """

    arrived_at: float
    first: float = 0.0
    latest: float = 0.0
    parent: str | None = None
    """The parent span in traces, see `telemetry.traces`."""


class EngineMetrics:
    """Records arrivals and outputs. Memory use is one dictionary entry per unfinished request."""

    def __init__(self, model: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self._timings: dict[str, _Timing] = {}
        self._registry = CollectorRegistry()
        self._gauges = {name: self._build(Gauge, name, text) for name, (text, _) in GAUGES.items()}
        self._counters = {name: self._build(Counter, name, text) for name, (text, _) in COUNTERS.items()}
        self._counted = dict.fromkeys(COUNTERS, 0.0)
        self._prompt_tokens = self._build(Counter, "vllm:prompt_tokens", "Tokens of prompts.")
        self._answer_tokens = self._build(Counter, "vllm:generation_tokens", "Tokens of answers.")
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            _LATENCY_BUCKETS,
        )
        self._queue_time = self._histogram(
            "vllm:request_queue_time_seconds",
            "From a request's arrival until it first ran.",
            _LATENCY_BUCKETS,
        )
        self._token_latency = self._histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a request.", _TOKEN_BUCKETS
        )
        self._request_latency = self._histogram(
            "vllm:e2e_request_latency_seconds", "From a request's arrival to its end.", _REQUEST_BUCKETS
        )
        self._ended = Counter(
            "vllm:request_success",
            "Requests that ended, by finish reason.",
            [MODEL, "finished_reason"],
            registry=self._registry,
        )
        self._failed = Counter(
            "loraledger_engine_failures",
            "Requests that ended with an error, by its code.",
            [MODEL, "code"],
            registry=self._registry,
        )

    def record_arrival(self, request_id: str) -> None:
        """A request has arrived. May be called on any thread."""
        self._timings[request_id] = _Timing(self._clock())

    def set_parent_span(self, request_id: str, parent: str | None) -> None:
        """Set the request's parent span, unless it has ended. May be called on any thread."""
        if parent and (timing := self._timings.get(request_id)):
            timing.parent = parent

    def record_outputs(self, outputs: Sequence[Output]) -> None:
        """Record the outputs of a step."""
        now = self._clock()
        for output in outputs:
            timing = self._timings.get(output.request_id)
            if timing is None:
                continue
            if not isinstance(output, Chunk):
                self._failed.labels(self._model, output.error.code).inc()
                del self._timings[output.request_id]
                continue
            if output.token_ids:
                self._record_token(output, timing, now)
            if output.finish_reason is not None:
                self._record_end(output, timing, now)

    def render(self, status: Status) -> str:
        """All metrics in Prometheus' text format, `status` included."""
        for name, (_, read) in GAUGES.items():
            self._gauges[name].set(read(status))
        for name, (_, read) in COUNTERS.items():
            total = read(status)
            self._counters[name].inc(total - self._counted[name])
            self._counted[name] = total
        return generate_latest(self._registry).decode()

    def _record_token(self, chunk: Chunk, timing: _Timing, now: float) -> None:
        self._answer_tokens.inc(len(chunk.token_ids))
        if timing.latest:
            self._token_latency.observe(now - timing.latest)
        else:
            self._prompt_tokens.inc(chunk.prompt_tokens)
            self._first_token.observe(now - timing.arrived_at)
            self._queue_time.observe(chunk.queue_seconds)
            timing.first = now
        timing.latest = now

    def _record_end(self, chunk: Chunk, timing: _Timing, now: float) -> None:
        self._request_latency.observe(now - timing.arrived_at)
        self._ended.labels(self._model, chunk.finish_reason).inc()
        traces.record_span(
            "llm_request",
            timing.parent,
            now - timing.arrived_at,
            gen_ai__request__model=self._model,
            gen_ai__usage__input_tokens=chunk.prompt_tokens,
            gen_ai__usage__output_tokens=chunk.completion_tokens,
            gen_ai__response__finish_reasons=chunk.finish_reason or "",
            gen_ai__latency__time_in_queue=chunk.queue_seconds,
            gen_ai__latency__time_to_first_token=max(0.0, timing.first - timing.arrived_at),
        )
        del self._timings[chunk.request_id]

    def _build(self, kind: Callable[..., Any], name: str, text: str) -> Any:
        return kind(name, text, [MODEL], registry=self._registry).labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(name, text, [MODEL], registry=self._registry, buckets=buckets)
        return histogram.labels(self._model)
