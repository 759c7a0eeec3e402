"""The engine's own thread: one loop that takes jobs, steps, and hands outputs on."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from inference.engine import Engine, Failure
from inference.errors import InferenceError, OverloadedError
from inference.line import Line
from inference.meter import Meter
from inference.model.sources import model_name
from inference.threads import compute_with

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.config import EngineConfig
    from inference.engine import Output

logger = logging.getLogger(__name__)

_MAX_JOBS_PER_STEP = 64  # so that a flood of questions cannot stop the answers


class Entrance:
    """Bounds what is on its way to the engine's thread, which may be deep in a long step."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        """Of one payer; all together may be twice as much."""
        self._line = Line(2 * max_requests, 2 * max_tokens)
        self._lock = threading.Lock()

    def enter(self, payer: str, num_tokens: int) -> None:
        """Raises `OverloadedError`."""
        with self._lock:
            if not self._line.has_room_for(payer, num_tokens):
                raise OverloadedError(self._line.num_requests, self._line.num_tokens)
            self._line.enter(payer, num_tokens)

    def leave(self, payer: str, num_tokens: int) -> None:
        with self._lock:
            self._line.leave(payer, num_tokens)


class EngineWorker:
    """Loads an engine and runs it. Jobs run between steps, in the order in which they were posted."""

    def __init__(self, config: EngineConfig) -> None:
        self._inbox: queue.SimpleQueue[Callable[[Engine], Sequence[Output]] | None] = queue.SimpleQueue()
        self.engine = Engine(config, on_loaded=lambda: self.post(_nothing))
        self.meter = Meter(model_name(config.model_path))
        self._entrance = Entrance(config.max_waiting, config.max_waiting_tokens)
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
        """Run `job` on the engine's thread; its outputs are delivered like those of a step.

        Nothing bounds how many wait: callers post what answers something else that is bounded.
        """
        self._inbox.put(job)

    def submit(self, request_id: str, payer: str, num_tokens: int, add: Callable[[Engine], None]) -> None:
        """Post a request of a prompt of `num_tokens`; if the engine refuses it, that is its `Failure`.

        Raises `OverloadedError` at once when too much is on its way already.
        """
        self._entrance.enter(payer, num_tokens)
        self.meter.accepted(request_id)

        def job(engine: Engine) -> Sequence[Output]:
            self._entrance.leave(payer, num_tokens)
            try:
                add(engine)
            except InferenceError as error:
                return [Failure(request_id, error)]
            return []

        self.post(job)

    def stop(self) -> None:
        """End after the step in progress, and wait for it."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()
        self.engine.close()

    def _run(
        self, deliver: Callable[[Sequence[Output]], None], on_crash: Callable[[BaseException], None]
    ) -> None:
        def send(outputs: Sequence[Output]) -> None:
            self.meter.sent(outputs)
            deliver(outputs)

        compute_with(self.engine.config.num_threads)
        try:
            while self._take_jobs(send):
                if not self.engine.is_idle:
                    outputs = self.engine.step()
                    if outputs:
                        send(outputs)
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


def abort(request_id: str) -> Callable[[Engine], Sequence[Output]]:
    def job(engine: Engine) -> Sequence[Output]:
        chunk = engine.abort(request_id)
        return [] if chunk is None else [chunk]

    return job


def _nothing(_: Engine) -> Sequence[Output]:
    return []
