"""OpenTelemetry traces across the processes of an installation. Off unless the environment enables them.

Configured by the standard variables: `OTEL_EXPORTER_OTLP_ENDPOINT`, or `OTEL_TRACES_EXPORTER` (`otlp`,
`console`, `none`), `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
`OTEL_SDK_DISABLED`. Messages between processes carry a W3C Trace Context `traceparent`.
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

TRACEPARENT = "traceparent"
_EXPORTERS = {"otlp": "otlp_proto_http", "console": "console"}
_OFF: AbstractContextManager[Span | None] = nullcontext(None)
_tracer: Tracer | None = None


class TracesMisconfigured(ValueError):
    """The environment asks for traces that cannot be exported; names the variable and the remedy."""


def setup(process: str) -> None:
    """Trace this process if the environment enables it. Errors: `TracesMisconfigured`."""
    names = _exporter_names(os.environ)
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
    attributes = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": f"loraledger-{process}"}
    provider = TracerProvider(resource=Resource.create(attributes))
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_load_exporter(name)))
    set_provider(provider)


def set_provider(provider: TracerProvider | None) -> None:
    """Record spans with this provider; None turns traces off."""
    global _tracer  # noqa: PLW0603 - one for each process, as in OpenTelemetry
    _tracer = None if provider is None else provider.get_tracer("loraledger")
    if provider is not None:
        from opentelemetry import trace

        if trace.get_tracer_provider() is not provider:  # FastAPI's own spans use the global provider
            trace.set_tracer_provider(provider)


def is_on() -> bool:
    return _tracer is not None


def span(
    name: str, parent: str | None = None, links: Iterable[str] = (), **attributes: str | float
) -> AbstractContextManager[Span | None]:
    """Context manager of a span that is current within its block. While traces are off, it yields None and
    costs next to nothing.

    `parent`: `traceparent` of the parent, by default the current span. `links`: `traceparent`s of spans in
    other traces that caused this one. Dots in attribute names are written as two underscores.
    """
    return _OFF if _tracer is None else _record_block(_tracer, name, parent, links, attributes)


def record_span(name: str, parent: str | None, seconds: float = 0.0, **attributes: str | float) -> None:
    """Record a span of `seconds` that ends now."""
    if _tracer is None:
        return
    end = time.time_ns()
    recorded = _tracer.start_span(
        name, _extract(parent), attributes=_dotted(attributes), start_time=end - int(seconds * 1e9)
    )
    recorded.end(end)


def set_attributes(current: Span | None, **attributes: str | float) -> None:
    """Add attributes to a span returned by `span`."""
    if current is not None:
        current.set_attributes(_dotted(attributes))


def current_traceparent() -> str | None:
    """The current span as a `traceparent`, for another process; None if no span is recorded."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(TRACEPARENT)


@contextmanager
def _record_block(
    tracer: Tracer,
    name: str,
    parent: str | None,
    links: Iterable[str],
    attributes: Mapping[str, str | int | float],
) -> Iterator[Span]:
    from opentelemetry.trace import StatusCode

    # Exceptions are not recorded: their text may quote a user's prompt.
    with tracer.start_as_current_span(
        name,
        _extract(parent),
        attributes=_dotted(attributes),
        links=list(map(_link, links)),
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception:
            current.set_status(StatusCode.ERROR)
            raise


def _link(traceparent: str) -> Link:
    from opentelemetry.trace import Link, get_current_span

    return Link(get_current_span(_extract(traceparent)).get_span_context())


def _extract(parent: str | None) -> Context | None:
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({TRACEPARENT: parent})


def _dotted(attributes: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {name.replace("__", "."): value for name, value in attributes.items()}


def _exporter_names(environment: Mapping[str, str]) -> list[str]:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    has_endpoint = any(
        environment.get(name)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )
    text = environment.get("OTEL_TRACES_EXPORTER", "otlp" if has_endpoint else "none")
    return [name for name in map(str.strip, text.split(",")) if name not in {"", "none"}]


def _load_exporter(name: str) -> SpanExporter:
    from importlib.metadata import entry_points

    if name not in _EXPORTERS:
        raise TracesMisconfigured(
            f"OTEL_TRACES_EXPORTER is {name!r}; set it to one of {', '.join(_EXPORTERS)}, none"
        )
    found = entry_points(group="opentelemetry_traces_exporter", name=_EXPORTERS[name])
    if not found:
        raise TracesMisconfigured(
            f"the exporter {name!r} is not installed: pip install 'loraledger[telemetry]'"
        )
    exporter: SpanExporter = next(iter(found)).load()()
    return exporter
