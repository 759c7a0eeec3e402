"""Serves gradient requests on a Unix socket, grouped by adapter. Nothing of a request is written to disk."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from backend.domain.errors import InvalidInput
from backend.ports.gradients import MAX_TOKENS, GradientRequest, GradientScores
from inference.server.frames import FrameTooLargeError, encode_frame, read_frame
from inference.server.process import listen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workers.gradients.scorer import Answer, Scorer

MAX_WAITING = 1024
"""Requests of all clients that wait; further ones are refused."""
MAX_GROUP = 16
"""Answers of one adapter that are computed together: its checkpoint is loaded once for them."""
MAX_GROUP_TOKENS = 4 * MAX_TOKENS
"""Their tokens: results leave, and the next group begins, once all of a group are computed."""

log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(GradientRequest)


@dataclass(eq=False, slots=True)
class _Waiting:
    """A request, and the scores by folder that it has so far."""

    request: GradientRequest
    writer: asyncio.StreamWriter
    ends_at: float
    scores: dict[str, Mapping[int, float]] = field(default_factory=dict)

    def is_useless(self, now: float) -> bool:
        return now >= self.ends_at or self.writer.is_closing()

    @property
    def next_folder(self) -> str | None:
        return next((folder for folder in self.request.folders if folder not in self.scores), None)

    def goes_with(self, first: _Waiting) -> bool:
        """Whether it may be computed in one group with `first`."""
        is_background = self.request.is_background == first.request.is_background
        return is_background and self.next_folder == first.next_folder


class GradientServer:
    """Serves one `Scorer`, which computes in a thread of its own."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._waiting: deque[_Waiting] = deque()
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_waiting = asyncio.Event()
        self._stopped = asyncio.Event()

    async def serve(self, socket_path: Path) -> None:
        """Serve until `stop`. The caller holds the socket's lock."""
        server = await listen(socket_path, self._handle_connection)
        log.info("gradients ready on %s", socket_path)
        async with server:
            computing = asyncio.create_task(self._compute())
            stopped = asyncio.create_task(self._stopped.wait())
            await asyncio.wait({computing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            computing.cancel()
            await asyncio.to_thread(socket_path.unlink, missing_ok=True)
            for writer in set(self._writers):
                writer.close()
        if computing.done() and not computing.cancelled():
            computing.result()

    def stop(self) -> None:
        """Close all connections; their clients fall back."""
        self._stopped.set()

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        self._writers.add(writer)
        try:
            while (body := await read_frame(reader)) is not None:
                request = _decoder.decode(body)
                waiting = _Waiting(request, writer, loop.time() + request.seconds)
                if len(self._waiting) >= MAX_WAITING:
                    _answer(waiting, error=f"{MAX_WAITING} answers wait already")
                    continue
                self._waiting.append(waiting)
                self._is_waiting.set()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, FrameTooLargeError) as error:
            log.warning("closing a connection: %s", error)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _compute(self) -> None:
        """Compute one group after another: the request that waits longest, those in the background last, and
        others of its adapter.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._is_waiting.wait()
            now = loop.time()
            self._waiting = deque(each for each in self._waiting if not each.is_useless(now))
            if not self._waiting:
                self._is_waiting.clear()
                continue
            group = self._next_group()
            for each in group:
                self._waiting.remove(each)
            await self._compute_group(str(group[0].next_folder), group)

    def _next_group(self) -> list[_Waiting]:
        first = min(self._waiting, key=lambda each: each.request.is_background)
        fitting = [each for each in self._waiting if each.goes_with(first)][:MAX_GROUP]
        num_tokens = list(accumulate(each.request.num_tokens for each in fitting))
        return fitting[: max(1, bisect_right(num_tokens, MAX_GROUP_TOKENS))]

    async def _compute_group(self, folder: str, group: Sequence[_Waiting]) -> None:
        try:
            found = await asyncio.to_thread(self._scores, Path(folder), [each.request for each in group])
        except InvalidInput as error:
            found = [error] * len(group)
        except MemoryError:
            raise  # a new process has memory again
        except Exception:
            # Folders are untrusted: one must not end the process, and with it all other answers.
            log.exception("the gradients of %s cannot be computed", folder)
            found = [InvalidInput("the gradients of this adapter cannot be computed")] * len(group)
        for each, scores in zip(group, found, strict=True):
            if isinstance(scores, InvalidInput):
                _answer(each, error=scores.message)
                continue
            each.scores[folder] = scores
            if each.next_folder is None:
                _answer(each)
            else:
                self._waiting.appendleft(each)

    def _scores(
        self, folder: Path, requests: Sequence[GradientRequest]
    ) -> list[Mapping[int, float] | InvalidInput]:
        """Scores, or an error for a prompt that cannot be rendered, which does not fail the others."""
        answers: list[Answer | InvalidInput] = []
        for request in requests:
            try:
                answers.append(self._scorer.answer(request))
            except InvalidInput as error:
                answers.append(error)
        usable = [each for each in answers if not isinstance(each, InvalidInput)]
        scores = iter(self._scorer.scores(folder, usable) if usable else ())
        return [each if isinstance(each, InvalidInput) else next(scores) for each in answers]


def _answer(waiting: _Waiting, error: str = "") -> None:
    """Answer a request, whose client may be gone."""
    request = waiting.request
    scores = () if error else tuple(tuple(waiting.scores[folder].items()) for folder in request.folders)
    if not waiting.writer.is_closing():
        waiting.writer.write(encode_frame(GradientScores(request.request_id, scores, error)))
