"""Days in UTC, numbered since 1970-01-01."""

from __future__ import annotations

from datetime import date

DAY_SECONDS = 86_400
EPOCH = date(1970, 1, 1)
