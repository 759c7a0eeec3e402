"""What the watcher asks of the chain beside the view of events: who demanded, who answered, and to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.domain.chain import ChainEvent
    from backend.domain.ids import Account, Hash32


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the deployment's contracts."""

    contract: str
    function: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a call."""

    call: Call
    tx_hash: Hash32 | None
    """None where nothing was sent."""
    error: str = ""
    """Why it was not sent, why it failed, or that it is not mined yet; empty once it is done."""
    reverted: str = ""
    """Name of the custom error, where a contract refuses the call."""

    @property
    def is_done(self) -> bool:
        return not self.error


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a demand, as it was sent."""

    index: int
    """Which of the demand's keys."""
    function: str
    """`answer` or `answerReceipt`."""
    args: Mapping[str, Any]


class DisputeEvents(Protocol):
    """The events of `Disputes` on the chain as it is now, the newest block included."""

    def catch_up(self) -> None:
        """Read what is new. Errors: `Unavailable`; `ChainReplaced`."""
        ...

    def demands(self) -> Sequence[ChainEvent]:
        """All `Demanded`, oldest first."""
        ...

    def answers(self, demand: Hash32) -> Sequence[Answer]:
        """To this demand, oldest first."""
        ...


class Accuser(Protocol):
    """Sends calls with one key, within limits of gas."""

    @property
    def account(self) -> Account: ...

    def reservation(self, call: Call) -> Hash32:
        """What `Disputes.reserve` is told before this call."""
        ...

    def send(self, calls: Sequence[Call]) -> list[Sent]:
        """Each is tried on top of those before it and sent if it would go through; then all are waited for.

        A call that would revert or costs more than the limits allow is never sent. Errors: `Unavailable`.
        """
        ...
