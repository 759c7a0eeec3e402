"""An account without stake becomes an operator, and leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.chain.sending.sender import Sender
from backend.domain.errors import Conflict
from backend.domain.hashing import TypedDomain
from backend.domain.transactions import TransactionState
from backend.services.operator.membership import Membership
from backend.services.operator.receipt_keys import ReceiptKeys
from tests.support.deployment import fund, key
from tests.support.fakes import FakeHeldKeys

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database
    from backend.domain.transactions import ChainTransaction

HOLDER, OPERATOR, RECEIPT_KEY = local_account(3), key("a new operator"), key("its receipt key")
DOLLAR, UNIT = 10**6, 10**6


class MembershipHarness:
    def __init__(self, chain: ChainClient, database: Database) -> None:
        self.chain, self.database = chain, database
        signers = {one.account: one for one in (HOLDER, OPERATOR)}
        self._sender = Sender(chain, database.send_queue, signers.get, 0)
        self._indexer = Indexer(chain, database.event_log, chain.deployment, 0)
        self.membership = self.member(OPERATOR)

    def member(self, operator: Any) -> Membership:
        domain = TypedDomain(self.chain.chain_id, self.chain.address("OperatorRegistry"))
        keys = ReceiptKeys(operator.account, lambda: RECEIPT_KEY, FakeHeldKeys)
        return Membership(self.database, self.chain, operator.account, keys, domain)

    def give(self, units: int) -> None:
        with self.database.begin() as tx:
            args = [OPERATOR.account, str(units)]
            tx.transactions.enqueue(HOLDER.account, "TestUSD", "transfer", args, "gift")
        self.pump()

    def pump(self, queued: list[ChainTransaction] | None = None) -> None:
        """Send, mine and index everything queued; assert that nothing failed."""
        for _ in range(6):
            self._sender.run_once()
        self._indexer.catch_up()
        with self.database.read() as tx:
            for one in queued or ():
                found = tx.transactions.get(one.id)
                assert found.state == TransactionState.CONFIRMED, found.error

    def held(self) -> int:
        found: int = self.chain.call("TestUSD", "balanceOf", OPERATOR.account)
        return found


def test_an_operator_joins_is_found_and_takes_its_stake_back(
    chain: ChainClient, sqlite_database: Database
) -> None:
    harness = MembershipHarness(chain, sqlite_database)
    membership = harness.membership
    assert len(membership.status().obstacles) == 3
    with pytest.raises(Conflict, match="has only 0 dollars"):
        membership.join(1_000 * DOLLAR)
    harness.give(1_500 * DOLLAR)
    with pytest.raises(Conflict, match="no coin to pay for gas"):
        membership.join(1_000 * DOLLAR)
    fund(chain.node, OPERATOR.account)
    harness.pump(membership.join(1_000 * DOLLAR))
    assert membership.join(1_000 * DOLLAR) == []
    harness.pump([membership.announce("https://market.example")])
    found = membership.status()
    assert found.obstacles == ()
    assert (found.endpoint, found.keys) == ("https://market.example", (RECEIPT_KEY.account,))
    assert (found.stake, found.cover, found.unstaking) == (1_000 * DOLLAR * UNIT,) * 2 + (None,)

    with pytest.raises(Conflict, match=f"bound to operator {OPERATOR.account}"):
        harness.member(HOLDER).join(DOLLAR)

    harness.pump(membership.unstake(400 * DOLLAR * UNIT))
    unstaking = membership.status().unstaking
    assert unstaking is not None
    assert (unstaking.amount, unstaking.locked_by) == (400 * DOLLAR * UNIT, None)
    harness.pump(membership.withdraw())
    assert harness.held() == 900 * DOLLAR
    assert membership.status().stake == 600 * DOLLAR * UNIT
    with pytest.raises(Conflict, match="No part of the stake"):
        membership.withdraw()
    harness.pump(membership.join(1_000 * DOLLAR))  # and it comes back
    assert membership.status().stake == 1_000 * DOLLAR * UNIT
