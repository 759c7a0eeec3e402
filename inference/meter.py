"""What the engine counts and times, in Prometheus' text format: by vLLM's names where they mean the same.

No label names an adapter: there may be thousands. All methods but `accepted` run on the engine's thread.
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

    from inference.engine import Output
    from inference.protocol import Status

MODEL = "model_name"
_FIRST_TOKEN = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 15.0, 60.0)
_BETWEEN_TOKENS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 3.0)
_WHOLE = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0)

GAUGES: Mapping[str, tuple[str, Callable[[Status], float]]] = {
    "vllm:num_requests_running": ("Requests in the batch.", lambda s: s.num_running),
    "vllm:num_requests_waiting": ("Requests in line.", lambda s: s.num_waiting),
    "vllm:kv_cache_usage_perc": (
        "Part of the kv_blocks that requests hold, 0 to 1.",
        lambda s: s.kv_blocks_used / max(s.kv_blocks_total, 1),
    ),
    "loraledger_engine_adapters_active": ("Adapters in device slots.", lambda s: len(s.active_adapters)),
    "loraledger_engine_adapters_resident": (
        "Adapters in the host cache.",
        lambda s: len(s.resident_adapters),
    ),
    "loraledger_engine_adapter_resident_bytes": ("Memory that they take.", lambda s: s.resident_bytes),
}
COUNTERS: Mapping[str, tuple[str, Callable[[Status], float]]] = {
    "vllm:num_preemptions": ("Requests put back in line for want of kv_blocks.", lambda s: s.num_preemptions),
    "vllm:prefix_cache_queries": (
        "Tokens of prompts that were looked up in the prefix cache.",
        lambda s: s.prefix_cache_queries,
    ),
    "vllm:prefix_cache_hits": ("Those that were found there.", lambda s: s.prefix_cache_hits),
    "loraledger_engine_adapter_device_hits": (
        "Requests whose adapter was in a device slot when they began.",
        lambda s: s.adapter_device_hits,
    ),
    "loraledger_engine_adapter_host_hits": (
        "Requests whose adapter was copied from the host cache when they began.",
        lambda s: s.adapter_host_hits,
    ),
    "loraledger_engine_adapter_loads": ("Adapters read from disk.", lambda s: s.adapter_loads),
}
"""What the engine counts anyway."""


@dataclass(slots=True)
class _Timing:
    """Instants of one request, in seconds of `perf_counter`; 0 before its first token."""

    accepted: float
    first: float = 0.0
    latest: float = 0.0
    parent: str | None = None
    """The span that it is recorded below, see `telemetry.traces`."""


class Meter:
    """Sees what comes in and what goes out; a request costs it a dictionary's entry while it lives."""

    def __init__(self, model: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self._timings: dict[str, _Timing] = {}
        self._registry = CollectorRegistry()
        self._gauges = {name: self._made(Gauge, name, text) for name, (text, _) in GAUGES.items()}
        self._counters = {name: self._made(Counter, name, text) for name, (text, _) in COUNTERS.items()}
        self._counted = dict.fromkeys(COUNTERS, 0.0)
        self._prompt_tokens = self._made(Counter, "vllm:prompt_tokens", "Tokens of prompts.")
        self._answer_tokens = self._made(Counter, "vllm:generation_tokens", "Tokens of answers.")
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From a request's arrival to its first token.", _FIRST_TOKEN
        )
        self._queue = self._histogram(
            "vllm:request_queue_time_seconds", "From a request's arrival until it first ran.", _FIRST_TOKEN
        )
        self._between = self._histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a request.", _BETWEEN_TOKENS
        )
        self._whole = self._histogram(
            "vllm:e2e_request_latency_seconds", "From a request's arrival to its end.", _WHOLE
        )
        self._ended = Counter(
            "vllm:request_success",
            "Requests that ended, by how.",
            [MODEL, "finished_reason"],
            registry=self._registry,
        )
        self._failed = Counter(
            "loraledger_engine_failures",
            "Requests that ended by an error, by its code.",
            [MODEL, "code"],
            registry=self._registry,
        )

    def accepted(self, request_id: str) -> None:
        """A request has arrived; on whichever thread."""
        self._timings[request_id] = _Timing(self._clock())

    def belongs_to(self, request_id: str, parent: str | None) -> None:
        """It may be over already."""
        if parent and (timing := self._timings.get(request_id)):
            timing.parent = parent

    def sent(self, outputs: Sequence[Output]) -> None:
        """What a step has brought."""
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
                self._token(output, timing, now)
            if output.finish_reason is not None:
                self._end(output, timing, now)

    def exposition(self, status: Status) -> str:
        """All of it as text, beside what the engine is doing now."""
        for name, (_, read) in GAUGES.items():
            self._gauges[name].set(read(status))
        for name, (_, read) in COUNTERS.items():
            total = read(status)
            self._counters[name].inc(total - self._counted[name])
            self._counted[name] = total
        return generate_latest(self._registry).decode()

    def _token(self, chunk: Chunk, timing: _Timing, now: float) -> None:
        self._answer_tokens.inc(len(chunk.token_ids))
        if timing.latest:
            self._between.observe(now - timing.latest)
        else:
            self._prompt_tokens.inc(chunk.prompt_tokens)
            self._first_token.observe(now - timing.accepted)
            self._queue.observe(chunk.queue_seconds)
            timing.first = now
        timing.latest = now

    def _end(self, chunk: Chunk, timing: _Timing, now: float) -> None:
        self._whole.observe(now - timing.accepted)
        self._ended.labels(self._model, chunk.finish_reason).inc()
        traces.record_span(
            "llm_request",
            timing.parent,
            now - timing.accepted,
            gen_ai__request__model=self._model,
            gen_ai__usage__input_tokens=chunk.prompt_tokens,
            gen_ai__usage__output_tokens=chunk.completion_tokens,
            gen_ai__response__finish_reasons=chunk.finish_reason or "",
            gen_ai__latency__time_in_queue=chunk.queue_seconds,
            gen_ai__latency__time_to_first_token=max(0.0, timing.first - timing.accepted),
        )
        del self._timings[chunk.request_id]

    def _made(self, kind: Callable[..., Any], name: str, text: str) -> Any:
        return kind(name, text, [MODEL], registry=self._registry).labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        made = Histogram(name, text, [MODEL], registry=self._registry, buckets=buckets)
        return made.labels(self._model)
