"""A fake engine process: `python -m benchmarks.api.engine SOCKET TOKENS_PER_SECOND [--lockstep]`.

It speaks `inference.protocol` on its socket like the real engine. The text of each token is the time at
which it is sent, in nanoseconds of the machine's monotonic clock, which all processes share. With
`--lockstep` all answers advance in the same step; otherwise each advances from the time of its own request.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from inference.protocol import Abort, Chunk, CountTokens, Generate, TokenCount
from inference.server.frames import decode_command, encode_frame, read_frame

if TYPE_CHECKING:
    from inference.protocol import Command, Event, FinishReason

PROMPT_TOKENS, MAX_CONTEXT = 16, 65_536


class FakeEngine:
    def __init__(self, tokens_per_second: float, *, is_lockstep: bool) -> None:
        self._period = 1 / tokens_per_second
        self._is_lockstep = is_lockstep
        self._tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        aborted: set[str] = set()
        while (body := await read_frame(reader)) is not None:
            command = decode_command(body)
            if isinstance(command, Abort):
                aborted.add(command.request_id)
            elif isinstance(command, Generate):
                task = asyncio.create_task(self._answer(command, writer, aborted))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                _send(writer, _reply(command))
        writer.close()

    async def _answer(self, request: Generate, writer: asyncio.StreamWriter, aborted: set[str]) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        if self._is_lockstep:
            due -= due % self._period
        for number in range(1, request.sampling.max_tokens + 1):
            due += self._period
            await asyncio.sleep(due - loop.time())
            is_aborted = request.request_id in aborted
            is_last = is_aborted or number == request.sampling.max_tokens
            reason: FinishReason | None = ("abort" if is_aborted else "length") if is_last else None
            text = f"{time.monotonic_ns()} "
            _send(writer, Chunk(request.request_id, text, [1], PROMPT_TOKENS, number, reason))
            if is_last:
                return


def _reply(command: Command) -> Event:
    if isinstance(command, CountTokens):
        return TokenCount(command.request_id, PROMPT_TOKENS, MAX_CONTEXT)
    raise ValueError(f"unsupported command {type(command).__name__}")


def _send(writer: asyncio.StreamWriter, event: Event) -> None:
    writer.write(encode_frame(event))


async def serve(path: Path, engine: FakeEngine) -> None:
    async with await asyncio.start_unix_server(engine.connected, path) as server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket", type=Path)
    parser.add_argument("tokens_per_second", type=float)
    parser.add_argument("--lockstep", action="store_true")
    options = parser.parse_args()
    asyncio.run(serve(options.socket, FakeEngine(options.tokens_per_second, is_lockstep=options.lockstep)))


if __name__ == "__main__":
    main()
