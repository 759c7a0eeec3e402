"""What the demo shows while it works: numbered steps with their time, live bars, tables."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator


class Screen:
    """Numbers the steps and remembers how long each took."""

    def __init__(self, num_steps: int) -> None:
        self.console = Console(highlight=False)
        self.seconds: dict[str, float] = {}
        self._num_steps = num_steps

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        self.console.print(f"\n[bold]{len(self.seconds) + 1}/{self._num_steps}  {title}[/bold]")
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.console.print(f"     [dim]{self.seconds[name]:.1f} s[/dim]")

    def say(self, text: str) -> None:
        self.console.print(f"     {text}")

    def bars(self) -> Progress:
        """A live bar a task; where there is no terminal, only the last state is printed."""
        return Progress(
            TextColumn("     {task.description:<24}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self.console,
        )
