"""The engine's thread: a loop that runs jobs, steps the engine, and delivers outputs."""

from __future__ import annotations

import logging
import queue
import threading
from typing import TYPE_CHECKING

from inference.engine import Engine
from inference.errors import DrainingError, InferenceError, OverloadedError
from inference.kernels.threads import set_num_threads
from inference.model.sources import model_name
from inference.outputs import Failure
from inference.scheduling.queue_limits import QueueLimits
from inference.server.metrics import EngineMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inference.config import EngineConfig
    from inference.outputs import Output

logger = logging.getLogger(__name__)

_MAX_JOBS_PER_STEP = 64  # so that a flood of commands cannot delay steps without limit


class SubmissionLimit:
    """Limits the requests submitted to the engine's thread, which cannot accept them during a long step."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        """The limits apply to one payer; all payers together may submit twice as much."""
        self._limits = QueueLimits(2 * max_requests, 2 * max_tokens)
        self._lock = threading.Lock()

    def enter(self, payer: str, num_tokens: int) -> None:
        """Raises `OverloadedError`."""
        with self._lock:
            if not self._limits.has_room_for(payer, num_tokens):
                raise OverloadedError(self._limits.num_requests, self._limits.num_tokens)
            self._limits.enter(payer, num_tokens)

    def leave(self, payer: str, num_tokens: int) -> None:
        with self._lock:
            self._limits.leave(payer, num_tokens)


class EngineThread:
    """Loads an engine and runs it. Jobs run between steps, in the order in which they were posted."""

    def __init__(self, config: EngineConfig) -> None:
        self._inbox: queue.SimpleQueue[Callable[[Engine], Sequence[Output]] | None] = queue.SimpleQueue()
        self.engine = Engine(config, on_loaded=lambda: self.post(_wake_up))
        self.metrics = EngineMetrics(model_name(config.model_path))
        self._submission_limit = SubmissionLimit(config.max_waiting, config.max_waiting_tokens)
        self._thread: threading.Thread | None = None
        self.is_draining = False
        """Whether further requests are refused."""

    def start(
        self, deliver: Callable[[Sequence[Output]], None], on_crash: Callable[[BaseException], None]
    ) -> None:
        """Both callbacks run on the engine's thread; `on_crash` runs once, as the last call."""
        self._thread = threading.Thread(
            target=self._run, args=(deliver, on_crash), name="engine", daemon=True
        )
        self._thread.start()

    def post(self, job: Callable[[Engine], Sequence[Output]]) -> None:
        """Run `job` on the engine's thread; its outputs are delivered like those of a step.

        The inbox is unbounded: callers limit the number of jobs that they post.
        """
        self._inbox.put(job)

    def submit(self, request_id: str, payer: str, num_tokens: int, add: Callable[[Engine], None]) -> None:
        """Post a request with a prompt of `num_tokens`. An error raised by `add` is delivered as a `Failure`.

        Raises `OverloadedError` immediately when too many requests are submitted already, and
        `DrainingError`.
        """
        if self.is_draining:
            raise DrainingError
        self._submission_limit.enter(payer, num_tokens)
        self.metrics.record_arrival(request_id)

        def job(engine: Engine) -> Sequence[Output]:
            self._submission_limit.leave(payer, num_tokens)
            try:
                add(engine)
            except InferenceError as error:
                return [Failure(request_id, error)]
            return []

        self.post(job)

    def stop(self) -> None:
        """Stop after the step in progress, and wait for it."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()
        self.engine.close()

    def _run(
        self, deliver: Callable[[Sequence[Output]], None], on_crash: Callable[[BaseException], None]
    ) -> None:
        def send(outputs: Sequence[Output]) -> None:
            self.metrics.record_outputs(outputs)
            deliver(outputs)

        set_num_threads(self.engine.config.num_threads)
        try:
            while self._run_jobs(send):
                if not self.engine.is_idle:
                    outputs = self.engine.step()
                    if outputs:
                        send(outputs)
        except BaseException as error:
            # The state after an interrupted step cannot be trusted: the process ends and is restarted.
            # `BaseException` includes panics in Rust code, which would otherwise end this thread silently.
            logger.exception("the engine failed")
            on_crash(error)

    def _run_jobs(self, deliver: Callable[[Sequence[Output]], None]) -> bool:
        """Run posted jobs, and wait for one if the engine has nothing to do. False after `stop`."""
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


def abort_job(request_id: str) -> Callable[[Engine], Sequence[Output]]:
    """A job that aborts a request and delivers its last chunk."""

    def job(engine: Engine) -> Sequence[Output]:
        chunk = engine.abort(request_id)
        return [] if chunk is None else [chunk]

    return job


def _wake_up(_: Engine) -> Sequence[Output]:
    """A job without effect, which ends the wait for a job."""
    return []
