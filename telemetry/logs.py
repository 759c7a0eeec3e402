"""Log records as lines: for people, or as JSON for what collects them; with the request that they belong to.

What must not be seen in a log is not logged in the first place, which tests hold the code to. What has the
form of a secret is masked on its way out nevertheless: libraries log too.
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
"""Of the request that is being answered; `x-request-id` in its answer."""

_SECRETS = (
    (re.compile(r"\bll[a-z]_[A-Za-z0-9_-]{16,}"), "ll_***"),  # API keys, session tokens
    (re.compile(r"(?:0x)?[0-9a-fA-F]{128,}"), "0x***"),  # signatures, signed transactions
)
_GIVEN = {"message", "asctime", "taskName", "color_message"}
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | _GIVEN
"""Attributes of every record, and uvicorn's for terminals; what else one has was given to it by `extra`."""


def setup(form: Format = "text", level: int = logging.INFO) -> None:
    """Write what is logged to standard error, warnings of Python among it."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def mask(line: str) -> str:
    for pattern, substitute in _SECRETS:
        line = pattern.sub(substitute, line)
    return line


class Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        where = f" [{name}]" if (name := request_id.get()) else ""
        return mask(super().format(record) + where)


class JsonLines(logging.Formatter):
    """One object a line: `time` (UTC), `level`, `logger`, `message`; `request_id`, `trace_id` and `span_id`
    where there are any; `error` with the traceback; and whatever was given as `extra`.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": name} if (name := request_id.get()) else {}),
            **trace_ids(),
            **{key: value for key, value in record.__dict__.items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return mask(json.dumps(line, default=str))


def trace_ids() -> dict[str, str]:
    """Of the current span, as OpenTelemetry writes them; nothing where no span is recorded."""
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
