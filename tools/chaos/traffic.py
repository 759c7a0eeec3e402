"""Clients that ask without a pause, and keep the bill of each answer."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Self

from openai import OpenAIError

from backend.cli.operator.demo.questions import Question, ask_all
from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.cli.operator.demo.questions import Answer

PAUSE_SECONDS = 0.3
"""After a request that failed."""
MAX_TOKENS = 16


@dataclass(slots=True)
class Counts:
    answers: int = 0
    failures: int = 0


@dataclass
class Traffic:
    """One thread for each of `keys`, while the context is open."""

    api_url: str
    model: str
    keys: Sequence[str]
    bills: list[Answer] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    durations: list[float] = field(default_factory=list)
    """Seconds of each answer since the context was opened."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def ask(self, key: str) -> bool:
        """One answer. Whether it came, with its bill; any failure that a client may see counts as none."""
        question = Question(self.model, f"Count to five. ({next(self._numbers)})", MAX_TOKENS)
        began = time.monotonic()
        try:
            (answer,) = ask_all(self.api_url, key, [question])
        except (OpenAIError, DomainError, OSError):
            self.counts.failures += 1
            return False
        self.bills.append(answer)
        self.durations.append(time.monotonic() - began)
        self.counts.answers += 1
        return True

    @property
    def usual_seconds(self) -> float | None:
        """Median of an answer's duration since the context was opened; None before the first answer."""
        return median(self.durations) if self.durations else None

    def __enter__(self) -> Self:
        self._stop.clear()
        self.durations = []
        self._threads = [threading.Thread(target=self._run, args=[key], daemon=True) for key in self.keys]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, key: str) -> None:
        while not self._stop.is_set():
            if not self.ask(key):
                time.sleep(PAUSE_SECONDS)
