"""Texts for people, on pages, in commands and in files."""

from __future__ import annotations

import time


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`, for nouns with the plural in -s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """Without control characters, which PostgreSQL does not store and terminals obey."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def instant(unix_seconds: int) -> str:
    """`2026-01-31 23:59:59 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_seconds))
