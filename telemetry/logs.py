"""Formats log records as text or JSON lines, with the id of the request that they belong to.

Our own code never logs secrets, which tests verify. Anything with the format of a secret is masked
nevertheless, because libraries log too.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the current request, sent as `x-request-id` in its response."""

_SECRETS = (
    (re.compile(r"\bll[a-z]_[A-Za-z0-9_-]{16,}"), "ll_***"),  # API keys, session tokens
    (re.compile(r"(?:0x)?[0-9a-fA-F]{128,}"), "0x***"),  # signatures, signed transactions
)
_ADDED = {"message", "asctime", "taskName", "color_message"}
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | _ADDED
"""Attributes of every record, and uvicorn's for terminals. All others of a record come from `extra`."""


def setup(form: Format = "text", level: int = logging.INFO) -> None:
    """Write log records and Python warnings to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def mask(line: str) -> str:
    for pattern, substitute in _SECRETS:
        line = pattern.sub(substitute, line)
    return line


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        suffix = f" [{current}]" if (current := request_id.get()) else ""
        return mask(super().format(record) + suffix)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object a line: `time` (UTC), `level`, `logger`, `message`; `request_id`,
    `trace_id` and `span_id` if set; `error` with the traceback; and the fields of `extra`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": current} if (current := request_id.get()) else {}),
            **trace_ids(),
            **{key: value for key, value in record.__dict__.items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return mask(json.dumps(line, default=str))


def trace_ids() -> dict[str, str]:
    """Ids of the current span in OpenTelemetry's format; empty if no span is recorded."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }
