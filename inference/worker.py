"""The engine's own thread: one loop that takes jobs, steps, and hands outputs on."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from inference.engine import Engine, Failure
from inference.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.config import EngineConfig
    from inference.engine import Output

logger = logging.getLogger(__name__)

_MAX_JOBS_PER_STEP = 64  # so that a flood of questions cannot stop the answers


class EngineWorker:
    """Loads an engine and runs it. Jobs run between steps, in the order in which they were posted."""

    def __init__(self, config: EngineConfig) -> None:
        self._inbox: queue.SimpleQueue[Callable[[Engine], Sequence[Output]] | None] = queue.SimpleQueue()
        self.engine = Engine(config, on_loaded=lambda: self.post(_nothing))
        self._thread: threading.Thread | None = None

    def start(
        self, deliver: Callable[[Sequence[Output]], None], on_crash: Callable[[BaseException], None]
    ) -> None:
        """Both callbacks are called on the engine's thread; `on_crash` once, as the last one."""
        self._thread = threading.Thread(
            target=self._run, args=(deliver, on_crash), name="engine", daemon=True
        )
        self._thread.start()

    def post(self, job: Callable[[Engine], Sequence[Output]]) -> None:
        """Run `job` on the engine's thread; its outputs are delivered like those of a step."""
        self._inbox.put(job)

    def stop(self) -> None:
        """End after the step in progress, and wait for it."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()
        self.engine.close()

    def _run(
        self, deliver: Callable[[Sequence[Output]], None], on_crash: Callable[[BaseException], None]
    ) -> None:
        try:
            while self._take_jobs(deliver):
                if not self.engine.is_idle:
                    outputs = self.engine.step()
                    if outputs:
                        deliver(outputs)
        except BaseException as error:
            # State that a step left half done cannot be trusted; the process ends and is started anew. Of a
            # panic in Rust, which is no `Exception`, nobody else would ever hear.
            logger.exception("the engine failed")
            on_crash(error)

    def _take_jobs(self, deliver: Callable[[Sequence[Output]], None]) -> bool:
        """Run some of what is in the inbox, waiting if there is nothing else to do; False to end."""
        must_wait = self.engine.is_idle or self.engine.is_stalled
        for _ in range(_MAX_JOBS_PER_STEP):
            try:
                job = self._inbox.get(must_wait, self.engine.seconds_to_deadline if must_wait else None)
            except queue.Empty:
                return True
            if job is None:
                return False
            outputs = job(self.engine)
            if outputs:
                deliver(outputs)
            must_wait = False
        return True


def accept(request_id: str, add: Callable[[Engine], None]) -> Callable[[Engine], Sequence[Output]]:
    """A job that adds a request; a refusal becomes its `Failure`."""

    def job(engine: Engine) -> Sequence[Output]:
        try:
            add(engine)
        except InferenceError as error:
            return [Failure(request_id, error)]
        return []

    return job


def abort(request_id: str) -> Callable[[Engine], Sequence[Output]]:
    def job(engine: Engine) -> Sequence[Output]:
        chunk = engine.abort(request_id)
        return [] if chunk is None else [chunk]

    return job


def _nothing(_: Engine) -> Sequence[Output]:
    return []
