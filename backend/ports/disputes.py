"""Port through which the watcher sends calls to `Disputes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import Call, CallResult


class DisputeSender(Protocol):
    """Sends calls with one key, within limits of gas and price."""

    @property
    def account(self) -> Account: ...

    def units(self) -> int:
        """The account's balance of the payment token, in token units. Errors: `Unavailable`."""
        ...

    def approval(self, units: int) -> Call | None:
        """The call that allows `Disputes` to take this many token units; None if it is allowed already."""
        ...

    def reservation(self, call: Call) -> Hash32:
        """The argument of `Disputes.reserve` for this call, which protects it from front-running."""
        ...

    def refusal(self, call: Call) -> str:
        """Why the call would fail now; empty if it would succeed. Errors: `Unavailable`."""
        ...

    def send(self, calls: Sequence[Call]) -> list[CallResult]:
        """Send the calls that succeed when estimated on top of the earlier ones, and wait for all of them.

        A call that would revert or costs more than the limits is not sent. Errors: `Unavailable`.
        """
        ...
