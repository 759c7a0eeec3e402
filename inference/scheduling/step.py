"""A step: its limits, the tokens that are scheduled, and those that have been computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inference.request import Request


@dataclass(frozen=True, slots=True)
class StepLimits:
    """How much a step may hold, and how its time depends on its tokens."""

    max_running: int  # requests
    max_tokens: int
    num_adapter_rows: int  # of the arena
    fixed_rows: int  # see `inference.kernels.interface.Kernels.fixed_rows`


@dataclass(slots=True)
class ScheduledRequest:
    """A request of which `num_tokens` pending tokens are computed in this step, and after them the tokens of
    `proposal`, which are predicted to follow.
    """

    request: Request
    num_tokens: int
    proposal: list[int] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Tokens computed for the request."""
        return self.num_tokens + len(self.proposal)


class ComputedTokens(NamedTuple):
    """The next tokens of a request, computed: `rows` of the step's states, in order."""

    request: Request
    rows: range


@dataclass(slots=True)
class Step:
    """The requests of one step."""

    scheduled: list[ScheduledRequest] = field(default_factory=list)
    long: ScheduledRequest | None = None  # the last one of a prompt that was too long for the step
    fresh_blocks: list[int] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)  # those of `scheduled` that start with this step
    refused: list[Request] = field(
        default_factory=list
    )  # waiting; their prompts lack the invocation of their adapters

    @property
    def num_tokens(self) -> int:
        return sum(entry.num_rows for entry in self.scheduled)

    def schedule(self, request: Request, num_tokens: int) -> None:
        """Add the request with `num_tokens`, for which the step has room. If more are pending, it begins with
        half of them: others may take the other half until `fill`.
        """
        entry = ScheduledRequest(request, num_tokens)
        self.scheduled.append(entry)
        if num_tokens < request.num_pending:
            entry.num_tokens -= num_tokens // 2
            self.long = entry

    def fill(self, max_tokens: int) -> None:
        """Give the long prompt what others have left."""
        if self.long is not None:
            self.long.num_tokens += max_tokens - self.num_tokens
