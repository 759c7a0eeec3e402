"""What commands print: JSON, notes about empty lists, counts and times."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sized

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def note_if_empty(found: Sized, note: str) -> None:
    """Say on standard error that there is nothing to list; standard output stays empty for programs."""
    if not found:
        typer.echo(note, err=True)


def counted(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`, for nouns with the plural in -s."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def in_utc(unix_seconds: int | str) -> str:
    """A time as the UTC date and time."""
    return datetime.fromtimestamp(int(unix_seconds), UTC).isoformat(timespec="seconds")
