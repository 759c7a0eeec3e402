"""Log records as lines."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = "0x" + "ab" * 65
RAW = "0x02f8" + "9c" * 200
SECRETS = ("llk_" + "k" * 43, "lls_" + "s" * 43, "llr_" + "r" * 43, "llm_" + "m" * 43, SIGNATURE, RAW)
HASH = "0x" + "cd" * 32


@pytest.fixture(params=["text", "json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level, stream = root.handlers[:], root.level, io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root.handlers = []  # those of pytest are not ours to close
    logs.setup(request.param)
    with warnings.catch_warnings():  # pytest makes them errors
        warnings.simplefilter("always")
        yield stream
    logging.captureWarnings(capture=False)
    root.handlers = before
    root.setLevel(level)


def formatted(message: str, *args: object, **fields: Any) -> dict[str, Any]:
    record = logging.makeLogRecord({"msg": message, "args": args, "name": "x", "levelname": "INFO", **fields})
    line: dict[str, Any] = json.loads(logs.JsonFormatter().format(record))
    return line


def test_anything_with_the_format_of_a_secret_is_masked(written: io.StringIO) -> None:
    for secret in SECRETS:
        logging.getLogger("library").info("sent %s", {"token": secret})
        try:
            int(f"refused: {secret}")
        except ValueError:
            logging.getLogger("library").exception("failed", extra={"payload": secret})
    text = written.getvalue()
    assert not [secret for secret in SECRETS if secret[4:40] in text]
    assert "Traceback" in text


def test_hashes_and_addresses_stay_readable(written: io.StringIO) -> None:
    logging.getLogger("sender").warning("nothing of %s is known", HASH)
    assert HASH in written.getvalue()


def test_a_json_line_is_valid_for_every_record() -> None:
    line = formatted("two\nlines %s", "\ud800", seconds=1.5, route="/v1/models", odd=object())
    assert line["message"].startswith("two\nlines")
    assert (line["level"], line["logger"], line["seconds"], line["route"]) == ("INFO", "x", 1.5, "/v1/models")
    assert line["time"].endswith("+00:00")
    assert not {"request_id", "trace_id", "error", "args", "levelno"} & set(line)


def test_python_warnings_are_logged(written: io.StringIO) -> None:
    warnings.warn("something\nis odd", UserWarning, stacklevel=1)
    assert "something" in written.getvalue()
    assert "py.warnings" in written.getvalue()


def test_colours_for_terminals_stay_out_of_json() -> None:
    assert "color_message" not in formatted("up", color_message="\x1b[1mup")


def test_a_line_names_its_request_and_its_trace() -> None:
    marked = logs.request_id.set("req_1")
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        line = formatted("hello")
    text = logs.TextFormatter().format(logging.makeLogRecord({"msg": "hello"}))
    logs.request_id.reset(marked)
    assert (line["request_id"], line["trace_id"], line["span_id"]) == (
        "req_1",
        f"{0xABC:032x}",
        f"{0xDEF:016x}",
    )
    assert text.endswith("hello [req_1]")
