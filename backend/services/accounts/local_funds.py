"""Test dollars and coin for new accounts of the local network, as `loraledger wallet fund` gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.deployment import LOCAL_CHAIN_ID, LOCAL_TOKEN
from backend.domain.errors import Forbidden
from backend.domain.money import COIN
from backend.services.transactions.retry import enqueue_with_retry, newest_attempt

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.ports.chain import Chain

UNITS = 1_000 * 10**6
"""Token units that an account gets: a thousand dollars."""
WEI = COIN // 10
"""For gas; the operator of the local network can pay it a hundred thousand times."""


class LocalFunds:
    """Gives each account dollars and coin once, by a transaction of `lane`, which pays the coin."""

    def __init__(self, db: Database, chain: Chain, lane: Account) -> None:
        self._db, self._chain, self._lane = db, chain, lane

    def are_open(self, account: Account) -> bool:
        """Whether this is the local network, and the account neither has its funds nor waits for them."""
        if self._chain.chain_id != LOCAL_CHAIN_ID:
            return False
        with self._db.read() as tx:
            _, known = newest_attempt(tx, _key(account), seen=None)
        return known is None

    def request(self, account: Account) -> int:
        """Queue the transaction; returns its id. Repeated, it is the same one, unless that failed.

        Errors: `Forbidden` on any chain but the local one; `Reverted`, and nothing is queued, if the account
        is a contract that takes no coin.
        """
        if self._chain.chain_id != LOCAL_CHAIN_ID:
            raise Forbidden(
                f"Test dollars exist on chain {LOCAL_CHAIN_ID} only, not {self._chain.chain_id}: send the "
                "account the market's payment token."
            )
        call, args = (LOCAL_TOKEN, "fund"), [account, str(UNITS)]
        if self.are_open(account):  # refuse what would revert, before the operator pays for it
            self._chain.prepare(*call, *args, sender=self._lane, value=WEI)
        with self._db.begin() as tx:
            queued = enqueue_with_retry(tx, self._lane, call, args, _key(account), value=WEI)
            tx.transactions.record_request(account, queued)
            return queued


def _key(account: Account) -> str:
    return f"local-funds:{account}"
