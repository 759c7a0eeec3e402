"""Clients that ask each model in turn without a pause, and keep the bill of each answer."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Self

from openai import APIConnectionError, APIError, APIStatusError, OpenAIError

from backend.cli.operator.demo.questions import Question, ask_all
from backend.client.errors import ApiError
from backend.domain.errors import DomainError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.cli.operator.demo.questions import Answer

PAUSE_SECONDS = 0.3
"""After a request that failed."""
MAX_TOKENS = 16


def reason_of(error: Exception) -> str:
    """What a client saw: status and code of the API's error, or that the connection failed."""
    if isinstance(error, APIStatusError):
        return f"{error.status_code} {error.code or 'without code'}"
    if isinstance(error, ApiError):
        return f"{error.details['status']} {error.details['code']}"
    if isinstance(error, APIConnectionError):
        return "no connection"
    if isinstance(error, APIError):
        return f"{error.code or 'an error'} in a stream"
    return type(error).__name__


@dataclass
class Traffic:
    """One thread for each of `keys`, while the context is open."""

    api_url: str
    models: Sequence[str]
    keys: Sequence[str]
    bills: list[Answer] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """Failed requests by `reason_of`."""
    durations: list[float] = field(default_factory=list)
    """Seconds of each answer since the context was opened."""
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def ask(self, key: str, model: str) -> bool:
        """Whether an answer of `model` came, with its bill. Any failure that a client may see counts as
        none.
        """
        question = Question(model, f"Count to five. ({next(self._numbers)})", MAX_TOKENS)
        began = time.monotonic()
        try:
            (answer,) = ask_all(self.api_url, key, [question])
        except (OpenAIError, DomainError, OSError) as error:
            with self._counting:
                self.reasons[reason_of(error)] += 1
            return False
        with self._counting:
            self.bills.append(answer)
            self.durations.append(time.monotonic() - began)
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
        for model in itertools.cycle(self.models):
            if self._stop.is_set():
                return
            if not self.ask(key, model):
                time.sleep(PAUSE_SECONDS)
