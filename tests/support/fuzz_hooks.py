"""Hooks with which Schemathesis fuzzes the API; imported through SCHEMATHESIS_HOOKS."""

from __future__ import annotations

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")  # of tus
