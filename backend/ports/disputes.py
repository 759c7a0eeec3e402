"""How the watcher acts on the chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import Call


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


class DisputeSender(Protocol):
    """Sends calls with one key, within limits of gas."""

    @property
    def account(self) -> Account: ...

    def units(self) -> int:
        """What the account holds of the payment token. Errors: `Unavailable`."""
        ...

    def approval(self, units: int) -> Call | None:
        """What lets `Disputes` take this many units of the payment token; None if it may already."""
        ...

    def reservation(self, call: Call) -> Hash32:
        """What `Disputes.reserve` is told before this call."""
        ...

    def refusal(self, call: Call) -> str:
        """Why the call would fail if it were sent now; empty if it would not. Errors: `Unavailable`."""
        ...

    def send(self, calls: Sequence[Call]) -> list[Sent]:
        """Each is tried on top of those before it and sent if it would go through; then all are waited for.

        A call that would revert or costs more than the limits allow is never sent. Errors: `Unavailable`.
        """
        ...
