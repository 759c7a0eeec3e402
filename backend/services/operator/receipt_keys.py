"""Selects the key with which this installation signs receipts, from the configured one and the chain.

    configured key -- retired on the chain --> newest registered key in the key store that is not retired

Every process decides from the same chain view, so that a rotation needs no restart and no shared setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from backend.domain.ids import Account
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import SessionKeys, Signer


class NoReceiptKey(Unavailable):
    """Every receipt key that this installation holds is retired: it can sign no receipt."""


@dataclass(frozen=True, slots=True)
class ReceiptKeys:
    """`configured` opens the key that the settings name, `store` those that were created here."""

    own: Account
    configured: Callable[[], Signer]
    store: Callable[[], SessionKeys]

    def in_use(self, chain: ChainView) -> Signer:
        """The key that signs receipts. Errors: `NoReceiptKey`; those of `configured`."""
        known = chain.operator(self.own)
        configured = self.configured()
        if known is None or configured.account not in known.retired:
            return configured
        found = self.newest(chain, ())
        if found is None:
            raise NoReceiptKey(
                f"Receipt key {configured.account} is retired, and this installation holds no other that is "
                f"registered: `loraledger operator rotate-key {configured.account}` registers the next one.",
                details={"retired_key": configured.account},
            )
        return found

    def newest(self, chain: ChainView, without: Collection[Account]) -> Signer | None:
        """The newest registered key in the store that is neither retired nor in `without`; None if there is
        none.
        """
        known = chain.operator(self.own)
        for key in reversed(() if known is None else known.active_keys):
            if key not in without and (signer := self.store().signer(key)) is not None:
                return signer
        return None
