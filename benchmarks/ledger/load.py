"""Closed-loop clients of one API, timed from request to first and last token."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.api.figures import percentile
from benchmarks.engine.machine import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.api.market import ApiPayer


@dataclass(slots=True)
class Load:
    """Measurements of one run. Times are in seconds. `first_after`: times to the first token, without the
    first question of each payer, which all ask at once.
    """

    wall_seconds: float = 0.0
    num_tokens: int = 0
    first_after: list[float] = field(default_factory=list)
    other_cpu: float = 0.0
    """CPU share of processes other than API, engine and this one."""

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.wall_seconds

    def ttft_ms(self, percent: int) -> float:
        return percentile(self.first_after, percent) * 1e3


@dataclass(frozen=True, slots=True)
class Question:
    """A request. `number` begins the prompt, so that no two prompts share a prefix."""

    model: str
    number: int
    max_tokens: int

    @property
    def body(self) -> str:
        text = f"{self.number:08} is the number of this question. What should one know about such a number?"
        body: dict[str, Any] = {"model": self.model, "stream": True, "max_tokens": self.max_tokens}
        return json.dumps(body | {"temperature": 0, "messages": [{"role": "user", "content": text}]})


def run_load(
    port: int, pids: Sequence[int], payers: Sequence[ApiPayer], questions: Sequence[Question]
) -> Load:
    """Run the questions, one at a time per payer. `pids` are the process ids of API and engine."""
    load, remaining = Load(), iter(questions)
    before, others = Usage.now(os.getpid()), [Usage.now(pid) for pid in pids]
    asyncio.run(_run_clients(port, payers, remaining, load))
    after = Usage.now(os.getpid())
    load.wall_seconds = after.at - before.at
    measured_seconds = sum(
        Usage.now(pid).process_seconds - was.process_seconds for pid, was in zip(pids, others, strict=True)
    )
    capacity = load.wall_seconds * (os.cpu_count() or 1)
    load.other_cpu = max(after.other_share_since(before) - measured_seconds / capacity, 0.0)
    return load


async def _run_clients(
    port: int, payers: Sequence[ApiPayer], remaining: Iterator[Question], load: Load
) -> None:
    async def client(payer: ApiPayer) -> None:
        is_first = True
        for question in remaining:
            first_after = await _ask(port, payer, question, load)
            if not is_first:
                load.first_after.append(first_after)
            is_first = False

    async with asyncio.TaskGroup() as tasks:
        for payer in payers:
            tasks.create_task(client(payer))


async def _ask(port: int, payer: ApiPayer, question: Question, load: Load) -> float:
    """Count the answer's tokens in `load`. Returns the time to its first one."""
    asked_at, first_at = time.perf_counter(), None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = question.body
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {payer.secret}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    usage: dict[str, Any] | None = None
    event = b""
    try:
        while b"[DONE]" not in event:
            event = await reader.readuntil(b"\n\n")
            if first_at is None and b'"content":' in event:
                first_at = time.perf_counter()
            if b'"usage":{' in event:
                usage = json.loads(event[event.index(b"{") :])["usage"]
    except asyncio.IncompleteReadError as error:
        raise AssertionError(f"an answer was cut off: {event!r} {error.partial!r}") from error
    finally:
        writer.close()
    if usage is None or first_at is None:
        raise AssertionError(f"an answer has no tokens or no usage: {event!r}")
    load.num_tokens += usage["completion_tokens"]
    return first_at - asked_at
