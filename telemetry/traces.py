"""Traces by OpenTelemetry, across all processes of an installation. Off unless the environment asks for them.

The standard variables say where they go: `OTEL_EXPORTER_OTLP_ENDPOINT`, or `OTEL_TRACES_EXPORTER` (`otlp`,
`console`, `none`), `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_SDK_DISABLED`. What goes from one process to another carries a `traceparent` of W3C's Trace Context.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Link, Span, Tracer, TracerProvider

PARENT = "traceparent"
MAX_PARENT_LENGTH = 55
_EXPORTERS = {"otlp": "otlp_proto_http", "console": "console"}
_OFF: AbstractContextManager[Span | None] = nullcontext(None)
_tracer: Tracer | None = None


class TracesMisconfigured(ValueError):
    """What the environment asks for cannot be had; says which variable, and what to do."""


def start(process: str) -> None:
    """Trace this process, if the environment asks for it. Raises `TracesMisconfigured`."""
    names = _wanted(os.environ)
    if not names:
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracesMisconfigured(
            "OTEL_* asks for traces, whose packages are not installed: pip install 'loraledger[telemetry]'"
        ) from error
    own = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"loraledger-{process}"}
    provider = TracerProvider(resource=Resource.create(own))
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    use(provider)


def use(provider: TracerProvider | None) -> None:
    """Record spans by this provider, or none."""
    global _tracer  # noqa: PLW0603 - a process has one, as OpenTelemetry has it
    _tracer = None if provider is None else provider.get_tracer("loraledger")
    if provider is not None:
        from opentelemetry import trace

        if trace.get_tracer_provider() is not provider:  # FastAPI's own spans go there too
            trace.set_tracer_provider(provider)


def is_on() -> bool:
    return _tracer is not None


def span(
    name: str, parent: str | None = None, links: Iterable[str] = (), **attributes: str | float
) -> AbstractContextManager[Span | None]:
    """A span around a block, the current one in it: below the current span, or below `parent`, a
    `traceparent`. None, and next to no time, while traces are off.

    `links`: such names of spans in other traces that it comes of. Dots of names of attributes are written as
    two underscores.
    """
    return _OFF if _tracer is None else _recorded(_tracer, name, parent, links, attributes)


def record(name: str, parent: str | None, seconds: float = 0.0, **attributes: str | float) -> None:
    """A span of that length that ends now."""
    if _tracer is None:
        return
    end = time.time_ns()
    made = _tracer.start_span(
        name, _extracted(parent), attributes=_dotted(attributes), start_time=end - int(seconds * 1e9)
    )
    made.end(end)


def note(made: Span | None, **attributes: str | float) -> None:
    """Add attributes to what `span` gave."""
    if made is not None:
        made.set_attributes(_dotted(attributes))


def parent() -> str | None:
    """The current span as a `traceparent`, for another process; None where nothing is recorded."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(PARENT)


@contextmanager
def _recorded(
    tracer: Tracer,
    name: str,
    parent: str | None,
    links: Iterable[str],
    attributes: Mapping[str, str | int | float],
) -> Iterator[Span]:
    # Of an error only its kind is kept: its text may quote what somebody asked.
    with tracer.start_as_current_span(
        name,
        _extracted(parent),
        attributes=_dotted(attributes),
        links=list(map(_link, links)),
        record_exception=False,
    ) as made:
        yield made


def _link(traceparent: str) -> Link:
    from opentelemetry.trace import Link, get_current_span

    return Link(get_current_span(_extracted(traceparent)).get_span_context())


def _extracted(parent: str | None) -> Context | None:
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({PARENT: parent})


def _dotted(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {name.replace("__", "."): value for name, value in attributes.items()}


def _wanted(environment: Mapping[str, str]) -> list[str]:
    """Names of exporters."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    has_endpoint = any(
        environment.get(name)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    text = environment.get("OTEL_TRACES_EXPORTER", "otlp" if has_endpoint else "none")
    return [name for name in map(str.strip, text.split(",")) if name not in {"", "none"}]


def _exporter(name: str) -> SpanExporter:
    from importlib.metadata import entry_points

    if name not in _EXPORTERS:
        raise TracesMisconfigured(
            f"OTEL_TRACES_EXPORTER is {name!r}; there are {', '.join(_EXPORTERS)}, none"
        )
    found = entry_points(group="opentelemetry_traces_exporter", name=_EXPORTERS[name])
    if not found:
        raise TracesMisconfigured(
            f"the exporter {name!r} is not installed: pip install 'loraledger[telemetry]'"
        )
    made: SpanExporter = next(iter(found)).load()()
    return made
