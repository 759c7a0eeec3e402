"""What commands print: lines, JSON, notes about empty lists, counts and times."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sized

_UNSAFE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def echo(line: str = "", *, err: bool = False) -> None:
    """Print one line. Texts of a market must neither move the terminal's cursor nor begin other lines."""
    typer.echo(printable(line), err=err)


def echo_part(text: str) -> None:
    """Print a part of a text of several lines."""
    typer.echo(printable(text, kept="\n\r\t"), nl=False)


def printable(text: str, kept: str = "") -> str:
    """The text with `?` for control characters, line separators and those that reverse the direction of
    others, except those `kept`.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in kept else "?", text)


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def note_if_empty(found: Sized, note: str) -> None:
    """Say on standard error that there is nothing to list; standard output stays empty for programs."""
    if not found:
        echo(note, err=True)


def in_utc(unix_seconds: int | str) -> str:
    """A time as the UTC date and time. Contracts accept times after the year 9999."""
    seconds = int(unix_seconds)
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # beyond year 9999, `time_t`, C's years
        return "after the year 9999"
