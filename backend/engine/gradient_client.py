"""Async client of the process that attributes answers by gradients: implements `backend.ports.gradients`.

One connection carries any number of concurrent requests. Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from backend.domain.errors import Overloaded, Unavailable
from backend.ports.gradients import GradientScores
from inference.server.frames import (
    MAX_FRAME_BYTES,
    FrameTooLargeError,
    encode_frame,
    find_request_id,
    read_frame,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from backend.ports.gradients import GradientRequest

_decoder = msgspec.json.Decoder(GradientScores)


class GradientClient:
    """Connects on first use, and again after the process restarts."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._results: dict[str, asyncio.Future[GradientScores]] = {}
        self._is_closed = False

    async def scores(self, request: GradientRequest) -> Sequence[Mapping[int, float]]:
        """As `Gradients.scores`."""
        try:
            frame = encode_frame(request)
        except FrameTooLargeError as error:
            raise Unavailable(str(error)) from error
        writer = await self._connected()
        if writer.transport.get_write_buffer_size() > MAX_FRAME_BYTES:
            raise Overloaded("the process that computes gradients has too many unread requests")
        result = asyncio.get_running_loop().create_future()
        self._results[request.request_id] = result
        try:
            writer.write(frame)
            found: GradientScores = await result
        finally:
            del self._results[request.request_id]
        if found.error:
            raise Unavailable(found.error)
        return [dict(scores) for scores in found.scores]

    async def close(self) -> None:
        self._is_closed = True
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._is_closed:
                raise _unavailable("it is not used any more")
            if self._writer is None:
                try:
                    reader, self._writer = await asyncio.open_unix_connection(self._socket_path)
                except OSError as error:
                    raise _unavailable(f"nothing answers on {self._socket_path}") from error
                self._listener = asyncio.create_task(self._listen(reader, self._writer))
            return self._writer

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (body := await read_frame(reader)) is not None:
                self._receive(body)
        except (msgspec.MsgspecError, FrameTooLargeError):
            pass  # not the process that we know: the connection is given up
        finally:
            self._writer = None
            writer.close()
            for result in self._results.values():
                if not result.done():
                    result.set_exception(_unavailable("it stopped"))

    def _receive(self, body: bytes) -> None:
        """A message that cannot be decoded fails its own request only. Errors: `msgspec.MsgspecError` if it
        names none.
        """
        try:
            found = _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            result = self._results.get(find_request_id(body))
            if result is None:
                raise msgspec.MsgspecError("a message of no request") from error
            if not result.done():
                result.set_exception(_unavailable("its scores cannot be decoded"))
            return
        result = self._results.get(found.request_id)
        if result is not None and not result.done():
            result.set_result(found)


def _unavailable(reason: str) -> Unavailable:
    return Unavailable(f"The process that computes gradients is unavailable: {reason}.")
