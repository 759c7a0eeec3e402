"""An OTLP trace collector on a loopback port, for the processes of a stack."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.answering import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Sent:
    """A received span; ids in hex. `links` holds the ids of linked traces."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]


class Collector:
    """Receives OTLP over HTTP at `url`."""

    def __init__(self) -> None:
        self.spans: list[Sent] = []
        collector = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of processes that export to this collector soon after a span ends."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "500"}

    def trace(self, trace: str) -> dict[str, Sent]:
        """The spans of a trace, by name."""
        return {span.name: span for span in self.spans if span.trace == trace}

    @contextmanager
    def running(self) -> Iterator[Collector]:
        with running(self._server):
            yield self


def _spans(request: ExportTraceServiceRequest) -> Iterator[Sent]:
    for sender in request.resource_spans:
        names = {a.key: a.value.string_value for a in sender.resource.attributes}
        for span in (span for scope in sender.scope_spans for span in scope.spans):
            yield Sent(
                names["service.name"],
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                tuple(link.trace_id.hex() for link in span.links),
            )
