"""Progress events of long stages, by which the worker sees that the training process is alive."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Emit = Callable[[str, Mapping[str, Any]], None]

INTERVAL_SECONDS = 30.0
"""Far below `workers.training.supervise.SILENCE_SECONDS`, after which the worker kills the process."""


class ProgressReporter:
    """Emits `working` (stage, done, total) at most once per `INTERVAL_SECONDS`."""

    def __init__(self, emit: Emit, stage: str, total: int, done: int = 0) -> None:
        self._emit = emit
        self._stage = stage
        self._total = total
        self._done = done
        self._emitted_at = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count `count` more items of `total` as done."""
        self._done += count
        self.still_working()

    def still_working(self) -> None:
        """To be called in the midst of an item, which may take longer than the worker waits."""
        now = time.monotonic()
        if now - self._emitted_at >= INTERVAL_SECONDS:
            self._emitted_at = now
            self._emit("working", {"stage": self._stage, "done": self._done, "total": self._total})


@contextmanager
def after_each_layer(model: Any, call: Callable[[], None]) -> Iterator[None]:
    """Call `call` after each decoder layer of a PEFT model, in forward and backward passes.

    A layer is the largest unit that is short for any model: a single row may have 8,192 tokens.
    """

    def hook(_layer: Any, _inputs: Any, output: Any) -> None:
        call()
        if output.requires_grad:
            output.register_hook(lambda _gradient: call())

    handles = [layer.register_forward_hook(hook) for layer in model.get_base_model().base_model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
