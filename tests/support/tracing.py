"""Spans in memory. OpenTelemetry permits one provider per process; each test starts without spans."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

_EXPORTER = InMemorySpanExporter()
_PROVIDER = TracerProvider()
_PROVIDER.add_span_processor(SimpleSpanProcessor(_EXPORTER))


@contextmanager
def recorded() -> Iterator[InMemorySpanExporter]:
    _EXPORTER.clear()
    traces.set_provider(_PROVIDER)
    try:
        yield _EXPORTER
    finally:
        traces.set_provider(None)


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def parent_of(span: ReadableSpan) -> str:
    """Hexadecimal ids, as in a `traceparent`."""
    assert span.parent is not None
    return f"00-{format_trace_id(span.parent.trace_id)}-{format_span_id(span.parent.span_id)}-01"


def name_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-01"
