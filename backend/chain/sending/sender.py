"""Sends queued transactions, with one sequence of nonces (a lane) per key.

Each signed transaction is stored before it is broadcast. After a crash at any point the database determines
what to do: stored transactions are broadcast again, queued ones are signed, and no nonce is assigned twice or
skipped.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from backend.chain.rpc import node_errors
from backend.chain.sending.attempts import Attempts, call_data, count
from backend.chain.sending.lanes import (
    BUDGET_SPENT,
    MAX_UNMINED,
    RelayBudget,
    fee_ceiling,
    is_given_up,
    is_relayed,
)
from backend.chain.sending.outcomes import Outcomes
from backend.chain.sending.pool import STUCK_BLOCKS, Pool
from backend.chain.sending.warn_once import WarnOnce
from backend.chain.transactions import NotRun, capped, error_fields
from backend.domain.errors import DomainError, Unavailable
from backend.metrics import ACCOUNT_WEI, GAS_PRICE_WEI

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from backend.chain.client import ChainClient
    from backend.chain.node import Fees
    from backend.chain.sending.lanes import OpenQueue
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction, TransactionAttempt
    from backend.ports.chain import SendQueue
    from backend.ports.keys import TransactionSigner

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
RELAYS_WAIT_SECONDS = 30.0
"""Interval between checks of the relay budget while relayed calls wait."""
GAS_METRICS_SECONDS = 30.0
"""Interval between updates of the metrics about gas."""


class Sender:
    """Several senders may run at once on one database.

    `signers` returns the signer of a lane, or None if another process has that key. Calls that are relayed
    for others wait while those of 24 hours could cost more than `relay_budget` wei; None: no limit. The
    balance of `account` is in the metrics also while it sends nothing. `account` is a function because a
    remote signer may have to name the account.
    """

    def __init__(
        self,
        client: ChainClient,
        queue: OpenQueue,
        signers: Callable[[Account], TransactionSigner | None],
        confirmations: int,
        stuck_blocks: int = STUCK_BLOCKS,
        relay_budget: int | None = None,
        account: Callable[[], Account | None] = lambda: None,
    ) -> None:
        self._client = client
        self._node = client.node
        self._queue = queue
        self._signers = signers
        self._confirmations = confirmations
        self._budget = RelayBudget(relay_budget)
        self._attempts = Attempts(client)
        self._outcomes = Outcomes(client, queue, confirmations)
        self._pool = Pool(client, queue, self._attempts, self._budget, stuck_blocks)
        self._account = account
        self._metrics_due_at = self._relays_due_at = 0.0
        self._warn_once = WarnOnce(log)

    @node_errors()
    def run_once(self) -> None:
        """Check on the transactions that were sent, then send the queued ones. Errors: `Unavailable`."""
        with self._queue() as queue:
            lanes = queue.lanes()
        signers = list(filter(None, map(self._signers, lanes)))
        for signer in signers:
            num_lost = self._check_sent(signer)
            self._send_queued(signer, num_lost)
        self._update_gas_metrics({signer.account for signer in signers})

    def run(self, stop: threading.Event, poll_seconds: float = POLL_SECONDS) -> None:
        """Run until `stop` is set; retry while the node is unavailable. Errors: `ChainReplaced`."""
        self._client.check()
        while not stop.is_set():
            try:
                self.run_once()
            except Unavailable as error:
                log.warning("sender waits for the node: %s", error)
            stop.wait(poll_seconds)

    def _update_gas_metrics(self, lanes: set[Account]) -> None:
        now = time.monotonic()
        if now < self._metrics_due_at:
            return
        self._metrics_due_at = now + GAS_METRICS_SECONDS
        for account in filter(None, lanes | {self._account()}):
            ACCOUNT_WEI.labels(account).set(self._node.balance(account))
        GAS_PRICE_WEI.set(self._node.fees().max_fee)

    def _check_sent(self, signer: TransactionSigner) -> int:
        """Returns the number of unmined transactions whose nonces are used by unknown ones."""
        lane, head = signer.account, self._node.head()
        confirmed_nonce = self._node.num_transactions(lane, max(head.number - self._confirmations, 0))
        with self._queue() as queue:
            transactions = queue.open(lane)
            ceiling = fee_ceiling([one.fee_ceiling for one in transactions] + queue.queued_ceilings(lane))
        unmined, num_lost = self._outcomes.record(lane, transactions, head, confirmed_nonce)
        self._pool.keep(signer, unmined, head, ceiling, confirmed_nonce)
        return num_lost

    def _send_queued(self, signer: TransactionSigner, num_lost: int) -> None:
        passed: list[int] = []
        """Calls with more value than the account has, and those behind that may depend on them."""
        while (queued := self._first_queued(signer.account, num_lost, passed)) is not None:
            transaction, has_unmined = queued
            try:
                gas = self._estimate(transaction)
            except NotRun as error:
                if transaction.value < self._node.balance(signer.account):
                    raise
                self._warn_once(
                    "transaction %d waits for %d wei: %s", transaction.id, transaction.value, error
                )
                passed.append(transaction.id)
                continue
            except Unavailable:
                raise
            except DomainError as error:
                if has_unmined:
                    return  # it may depend on an unmined transaction: estimate again afterwards
                if passed:
                    passed.append(transaction.id)
                    continue
                self._reject(signer, transaction, error)
                continue
            fees = capped(self._node.fees(), transaction.fee_ceiling)
            cost = gas * fees.max_fee
            if is_relayed(transaction) and not self._may_relay(signer.account, cost):
                return  # the operator's own calls come first in the queue
            attempt = self._sign_next(signer, transaction, gas, fees)
            if attempt is not None:
                self._attempts.broadcast(attempt)

    def _may_relay(self, lane: Account, cost: int) -> bool:
        with self._queue() as queue:
            if self._budget.covers(queue, lane, cost):
                return True
        log.warning("relayed transactions wait: %s", BUDGET_SPENT)
        self._relays_due_at = time.monotonic() + RELAYS_WAIT_SECONDS
        return False

    def _first_queued(
        self, lane: Account, num_lost: int, passed: Sequence[int]
    ) -> tuple[ChainTransaction, bool] | None:
        """The next transaction to send, and whether the lane has unmined ones."""
        with self._queue() as queue:
            queued = queue.first_queued(lane, passed)
            if queued is None or self._must_wait(queue, queued):
                return None
            num_unmined = queue.num_unmined(lane) - num_lost
        return None if num_unmined >= MAX_UNMINED else (queued, num_unmined > 0)

    def _must_wait(self, queue: SendQueue, queued: ChainTransaction) -> bool:
        """Whether it is a relayed call and waits for the budget, or for those before it, on which it may
        depend and which are still to be queued again.
        """
        if not is_relayed(queued):
            return False
        if time.monotonic() < self._relays_due_at:
            return True
        return any(not one.is_mined and is_given_up(one) for one in queue.open(queued.lane))

    def _estimate(self, transaction: ChainTransaction) -> int:
        data = call_data(transaction)
        call = transaction.contract, transaction.function, data, transaction.lane
        return self._client.estimate_gas(*call, transaction.value)

    def _sign_next(
        self, signer: TransactionSigner, transaction: ChainTransaction, gas: int, fees: Fees
    ) -> TransactionAttempt | None:
        """Assign the lane's next nonce, sign and store; None if another sender has changed the lane."""
        lane = signer.account
        on_chain, head = self._node.num_transactions(lane), self._node.head()
        with self._queue() as queue:
            queue.lock_lane(lane)
            if self._must_wait(queue, transaction):
                return None
            nonce = queue.assign_nonce(lane, transaction.id, on_chain, gas)
            if nonce is None:
                return None
            attempt = self._attempts.sign_call(signer, transaction, nonce, gas, fees, head)
            queue.add_attempt(transaction.id, attempt)
        count(transaction, "sent")
        return attempt

    def _reject(self, signer: TransactionSigner, transaction: ChainTransaction, error: DomainError) -> None:
        with self._queue() as queue:
            queue.lock_lane(signer.account)
            if queue.first_queued(signer.account) == transaction:
                log.warning("transaction %d is refused: %s", transaction.id, error)
                queue.mark_failed(transaction.id, error_fields(error))
                count(transaction, "refused")
