"""Checks that every accepted request ends exactly once and as expected."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from inference.errors import OverloadedError
from inference.outputs import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.soak.traffic import Planned
    from inference.outputs import Output
    from inference.protocol import Chunk

_MAX_PROBLEMS = 20


class RequestLedger:
    """Open requests, counts of the outcomes of ended ones, and the first `problems`."""

    def __init__(self) -> None:
        self._open: dict[str, Planned] = {}
        self._num_tokens: Counter[str] = Counter()
        self._shed: set[str] = set()  # no longer known to the engine; the next step reports the outcome
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    @property
    def num_open(self) -> int:
        return len(self._open)

    def accept(self, planned: Planned) -> None:
        self.counts["accepted"] += 1
        self._open[planned.command.request_id] = planned

    def refuse(self) -> None:
        """Count a request that the engine refused at once, because its queue was full."""
        self.counts["refused"] += 1

    def requests_to_abort(self) -> Iterator[str]:
        """Open requests that their clients abort now."""
        for request_id, planned in list(self._open.items()):
            limit = planned.abort_after
            if request_id in self._shed:
                continue
            if limit is not None and self._num_tokens[request_id] >= limit:
                yield request_id

    def aborted(self, request_id: str, chunk: Chunk | None) -> None:
        """Record the engine's answer to an abort. None means that the request was shed; it stays open until
        the engine reports that.
        """
        if chunk is None:
            self._shed.add(request_id)
            return
        if chunk.finish_reason != "abort":
            self._problem(f"{request_id}: aborted while open, but the engine returned {chunk}")
        self._close(request_id, "aborted")

    def record(self, output: Output) -> None:
        """Record an output of the engine."""
        planned = self._open.get(output.request_id)
        if planned is None:
            self._problem(f"{output.request_id}: output for a request that is not open: {output}")
        elif isinstance(output, Failure) and isinstance(output.error, OverloadedError):
            self._close(output.request_id, "shed")  # in favour of another payer
        elif isinstance(output, Failure):
            if output.error.code != planned.expected_code:
                found = f"{output.error.code} ({output.error})"
                self._problem(f"{output.request_id}: {found}, expected {planned.expected_code}")
            self._close(output.request_id, "failed")
            self.counts[f"failed: {output.error.code}"] += 1
        elif output.request_id in self._shed:
            self._problem(f"{output.request_id}: output after the engine reported it as unknown: {output}")
        else:
            self._record_tokens(planned, output)

    def _record_tokens(self, planned: Planned, chunk: Chunk) -> None:
        self._num_tokens[chunk.request_id] += len(chunk.token_ids)
        self.counts["tokens"] += len(chunk.token_ids)
        if chunk.finish_reason is None:
            return
        wanted, found = planned.command.sampling.max_tokens, self._num_tokens[chunk.request_id]
        if planned.expected_code is not None:
            self._problem(f"{chunk.request_id}: answered, expected {planned.expected_code}")
        elif chunk.finish_reason != "length" or not found == chunk.completion_tokens == wanted:
            self._problem(f"{chunk.request_id}: {found} of {wanted} tokens, {chunk.finish_reason}")
        self._close(chunk.request_id, "answered")

    def _close(self, request_id: str, how: str) -> None:
        del self._open[request_id]
        self._shed.discard(request_id)
        self._num_tokens.pop(request_id, None)
        self.counts[how] += 1

    def _problem(self, text: str) -> None:
        self.counts["problems"] += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(text)
