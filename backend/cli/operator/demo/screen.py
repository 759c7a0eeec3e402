"""Terminal output of the demo: numbered, timed steps and progress bars."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Screen:
    """Prints numbered steps and records how long each took."""

    def __init__(self, num_steps: int) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = 110  # a pipe has no width; the tables need this much
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

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[[int, int, str], None]]:
        """Yield `show(done, total, state)`, which moves a progress bar, or without a terminal prints a line
        for each quarter.
        """
        if not self.console.is_terminal:
            yield _quarters(lambda text: self.say(f"{name}: {text}"))
            return
        columns = (TextColumn("     {task.description:<16}"), BarColumn(bar_width=32))
        with Progress(
            *columns, TextColumn("{task.fields[state]}"), TimeElapsedColumn(), console=self.console
        ) as bars:
            bar = bars.add_task(name, total=None, state="")
            yield lambda done, total, state: bars.update(bar, completed=done, total=total, state=state)


def _quarters(say: Callable[[str], None]) -> Callable[[int, int, str], None]:
    last = -1

    def show(done: int, total: int, state: str) -> None:
        nonlocal last
        quarter = 4 * done // max(total, 1)
        if quarter != last:
            last = quarter
            say(f"{done}/{total}  {state}")

    return show
