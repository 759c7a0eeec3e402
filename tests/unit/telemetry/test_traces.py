"""Traces are off by default; a configured exporter works or is rejected."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from telemetry import traces
from tests.support.tracing import by_name, name_of, parent_of, recorded

if TYPE_CHECKING:
    from collections.abc import Mapping

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_off_costs_no_span_and_names_no_parent() -> None:
    with traces.span("anything", CALLER, some__name=1) as span:
        assert span is None
        assert traces.current_traceparent() is None
        traces.set_attributes(span, more=2)
    traces.record_span("anything", CALLER, 1.0)
    assert traces.span("one") is traces.span("two")


def test_spans_have_the_current_span_or_a_traceparent_as_parent() -> None:
    with recorded() as spans, traces.span("outer", CALLER) as outer, traces.span("inner", gen_ai__model="m"):
        passed_on = traces.current_traceparent()
        traces.set_attributes(outer, receipt__id="0x1")
    found = by_name(spans)
    assert parent_of(found["outer"]) == CALLER
    assert parent_of(found["inner"]) == name_of(found["outer"])
    assert passed_on == name_of(found["inner"])
    assert found["inner"].attributes == {"gen_ai.model": "m"}
    assert found["outer"].attributes == {"receipt.id": "0x1"}


def test_a_past_span_is_recorded_with_its_duration() -> None:
    with recorded() as spans:
        traces.record_span("over", CALLER, 1.5, tokens=3)
    span = by_name(spans)["over"]
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time == 1_500_000_000
    assert parent_of(span) == CALLER


def test_an_error_is_recorded_without_its_message() -> None:
    with recorded() as spans, pytest.raises(ValueError, match="secret"), traces.span("failing"):
        raise ValueError("secret prompt")
    span = by_name(spans)["failing"]
    assert not span.status.is_ok
    assert span.status.description is None
    assert not span.events


def test_an_invalid_parent_starts_a_new_trace() -> None:
    with recorded() as spans:
        traces.record_span("first", "nonsense")
    assert by_name(spans)["first"].parent is None


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, []),
        ({ENDPOINT: "http://127.0.0.1:4318"}, ["otlp"]),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({ENDPOINT: "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, []),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
    ],
)
def test_the_standard_variables_configure_the_exporters(
    environment: Mapping[str, str], exporters: list[str]
) -> None:
    assert traces._exporter_names(environment) == exporters


def test_an_unknown_exporter_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "jaeger")
    with pytest.raises(traces.TracesMisconfigured, match="'jaeger'; set it to one of otlp, console, none"):
        traces.setup("api")


def test_enabling_traces_without_the_extra_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(traces.TracesMisconfigured, match=r"loraledger\[telemetry\]"):
        traces.setup("api")


def test_a_process_exports_its_spans_before_it_exits() -> None:
    code = "from telemetry import traces; traces.setup('worker'); traces.record_span('done', None)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OTEL_TRACES_EXPORTER": "console"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert '"name": "done"' in done.stdout
    assert "loraledger-worker" in done.stdout
