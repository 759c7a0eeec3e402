"""Sends queued transactions, with one sequence of nonces (a lane) per key.

Each signed transaction is stored before it is broadcast. After a crash at any point the database determines
what to do: stored transactions are broadcast again, queued ones are signed, and no nonce is assigned twice or
skipped.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from backend.chain.contracts import encode_call
from backend.chain.lanes import (
    attempt_of,
    fee_ceiling,
    fees_of,
    hashes_of,
    is_given_up,
    is_own_call_waiting,
    offered,
    relayed_behind,
)
from backend.chain.node import Fees
from backend.chain.nonces import find_by_nonce
from backend.chain.rpc import RpcError, node_errors
from backend.chain.transactions import (
    NotRun,
    UnsignedTransaction,
    capped,
    error_fields,
    failure_of,
    is_filler,
    next_fees,
    replacement_fees,
    sign,
    suffices,
)
from backend.domain.errors import DomainError, Unavailable
from backend.domain.transactions import RELAY_PERIOD, RELAYED_CALLS, TransactionAttempt
from backend.metrics import ACCOUNT_WEI, GAS_PRICE_WEI, TRANSACTIONS
from telemetry import traces

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.domain.chain import BlockRef, Reverted
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction, OpenTransaction
    from backend.ports.chain import SendQueue
    from backend.ports.keys import TransactionSigner

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
STUCK_BLOCKS = 5
"""Blocks without our transaction after which it is broadcast again, with other fees if they are the cause."""
MAX_UNMINED = 64
"""Unmined transactions per lane; pools drop those beyond their limit per account."""
NEW_BLOCKS = 32
"""A node that does not have the state of one of so many newest blocks is behind, and will have it; older ones
may be pruned.
"""
RELAYS_WAIT_SECONDS = 30.0
"""Interval between checks of the relay budget while relayed calls wait."""
_SPENT = "what those of 24 hours can cost has reached LORALEDGER_RELAY_BUDGET"
_STUCK = (
    "transaction %d of %s is not mined, and higher fees do not help or are not allowed: a new one offers "
    "%d wei per gas now, this one %d, and at most %d. Check the account's coin and the RPC"
)
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
        queue: Callable[[], AbstractContextManager[SendQueue]],
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
        self._stuck_blocks = stuck_blocks
        self._relay_budget = relay_budget
        self._account = account
        self._metrics_due_at = self._relays_due_at = 0.0
        self._checked: dict[Account, tuple[int, int]] = {}
        """Lane -> its next transaction and the block at which its fees were checked last."""
        self._warned: set[tuple[str, int]] = set()

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

    # --- sent transactions ---

    def _check_sent(self, signer: TransactionSigner) -> int:
        """Returns the number of unmined transactions whose nonces are used by unknown ones."""
        lane, head = signer.account, self._node.head()
        confirmed_nonce = self._node.num_transactions(lane, max(head.number - self._confirmations, 0))
        with self._queue() as queue:
            transactions = queue.open(lane)
            ceiling = fee_ceiling([one.fee_ceiling for one in transactions] + queue.queued_ceilings(lane))
        unmined: list[OpenTransaction] = []
        num_lost = 0
        for transaction in transactions:
            # Nothing after an unmined transaction can be mined, so only the next one is looked up.
            hashes = hashes_of(transaction) if not unmined or transaction.is_mined else []
            tx_receipt = next(filter(None, map(self._node.tx_receipt, hashes)), None)
            if tx_receipt is not None:
                self._record(signer, transaction, tx_receipt, head)
            elif transaction.nonce < confirmed_nonce:
                is_handled = self._handle_used_nonce(signer, transaction, head)
                num_lost += not (is_handled or transaction.is_mined)
            else:
                if transaction.is_mined:
                    self._mark_unmined(signer, transaction)
                unmined.append(transaction)
        self._keep_pooled(signer, unmined, head, ceiling, confirmed_nonce)
        return num_lost

    @contextmanager
    def _locked(self, signer: TransactionSigner, transaction: OpenTransaction) -> Iterator[SendQueue | None]:
        """The queue with the lane locked; None if another sender has changed the transaction since."""
        with self._queue() as queue:
            queue.lock_lane(signer.account)
            yield queue if queue.is_unchanged(transaction) else None

    def _record(
        self, signer: TransactionSigner, transaction: OpenTransaction, tx_receipt: TxReceipt, head: BlockRef
    ) -> None:
        is_confirmed = tx_receipt.block_number + self._confirmations <= head.number
        if transaction.is_mined and not is_confirmed:
            return
        if not transaction.is_filler and is_filler(attempt_of(transaction, tx_receipt.tx_hash).raw):
            if is_confirmed:
                self._requeue(signer, transaction)
            return
        failure = None if tx_receipt.is_success else self._failure(signer, transaction, tx_receipt, head)
        error = None if failure is None else error_fields(failure)
        place = tx_receipt.tx_hash, tx_receipt.block_number, tx_receipt.block_hash
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return
            queue.mark_mined(transaction.id, *place, error)
            if is_confirmed and error is not None:
                log.warning("transaction %d failed: %s", transaction.id, failure)
                queue.mark_failed(transaction.id, error)
            elif is_confirmed:
                queue.mark_confirmed(transaction.id)
        if is_confirmed:
            _count(transaction, "confirmed" if failure is None else "failed")

    def _handle_used_nonce(
        self, signer: TransactionSigner, transaction: OpenTransaction, head: BlockRef
    ) -> bool:
        """Requeue a transaction whose nonce another transaction has used. False if the node does not have the
        old states by which that is found: the transaction is left as it is, and others go on.

        A missing receipt alone is no proof: nodes behind one address may be at different blocks, and a
        requeued transaction would be sent twice. So the other transaction must be found on the chain.
        """
        near, last = transaction.attempts[0].sent_at_block, head.number - self._confirmations
        try:
            other = find_by_nonce(self._node, signer.account, transaction.nonce, near, last)
        except RpcError as error:
            if head.number - near < NEW_BLOCKS:
                raise
            text = "transaction %d: its nonce %d was used, and only an archive node can tell by which: %s"
            self._warn_once(text, transaction.id, transaction.nonce, error)
            return False
        if other is None or other in hashes_of(transaction):
            return True
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return True
            log.warning("nonce %d of transaction %d was used by %s", transaction.nonce, transaction.id, other)
            if transaction.is_filler:
                queue.mark_failed(transaction.id, {"error": "Filled", "message": f"by {other}", "args": {}})
            else:
                queue.requeue(transaction.id)
                _count(transaction, "requeued")
        return True

    def _requeue(self, signer: TransactionSigner, transaction: OpenTransaction) -> None:
        """Queue a relayed call again whose nonce we used up for the calls behind it."""
        with self._locked(signer, transaction) as queue:
            if queue is not None:
                queue.requeue(transaction.id)
                _count(transaction, "requeued")

    def _keep_pooled(
        self,
        signer: TransactionSigner,
        unmined: Sequence[OpenTransaction],
        head: BlockRef,
        ceiling: int,
        confirmed_nonce: int,
    ) -> None:
        """Keep unmined transactions in the pool, up to the first that it refuses: those behind it cannot be
        mined before it. The lane's next one is replaced when it is stuck, at `ceiling` at most.
        """
        fees = cache(self._node.fees)
        given_up = [one for one in unmined[1:] if is_given_up(one)]
        # An earlier nonce that is used up must not let a later one's call be mined, so the last is first.
        for transaction in reversed(given_up):
            self._push(transaction, fees)
        for transaction in unmined:
            is_next = transaction is unmined[0] and not transaction.is_mined
            if is_next and self._is_stuck(signer.account, transaction, head):
                self._fill_gap(signer, transaction, head, fees(), confirmed_nonce)
                is_pooled = self._replace(signer, transaction, head, ceiling, fees())
            else:
                is_pooled = transaction in given_up or self._push(transaction, fees)
            if not is_pooled:
                return

    def _push(self, transaction: OpenTransaction, fees: Callable[[], Fees]) -> bool:
        """Broadcast a transaction that the pool does not have. Whether it has it now."""
        if any(self._node.knows(one.tx_hash) for one in offered(transaction)):
            return True
        return self._offer(transaction, fees()) is not None

    def _mark_unmined(self, signer: TransactionSigner, transaction: OpenTransaction) -> None:
        with self._locked(signer, transaction) as queue:
            if queue is not None:
                queue.mark_unmined(transaction.id)

    def _is_stuck(self, lane: Account, transaction: OpenTransaction, head: BlockRef) -> bool:
        """Whether it is time to check the fees of the lane's next transaction."""
        checked, at_block = self._checked.get(lane, (None, 0))
        sent_at = transaction.attempts[-1].sent_at_block
        since = max(sent_at, at_block) if checked == transaction.id else sent_at
        if head.number - since < self._stuck_blocks:
            return False
        self._checked[lane] = (transaction.id, head.number)
        return True

    def _offer(self, transaction: OpenTransaction, present: Fees) -> TransactionAttempt | None:
        """Broadcast the cheapest attempt whose fees suffice or, if none does or the pool refuses it, the
        dearest. Returns the one that the pool has, if any.
        """
        attempts = offered(transaction)
        dearest = attempts[-1]
        cheapest = next((one for one in attempts if suffices(fees_of(one), present)), dearest)
        for one in dict.fromkeys((cheapest, dearest)):
            if self._broadcast(one):
                return one
        return next((one for one in reversed(transaction.attempts) if self._node.knows(one.tx_hash)), None)

    def _fill_gap(
        self,
        signer: TransactionSigner,
        transaction: OpenTransaction,
        head: BlockRef,
        fees: Fees,
        confirmed_nonce: int,
    ) -> None:
        """Use the nonces from the confirmed one to the transaction's that no pooled transaction uses."""
        lane = signer.account
        first = max(self._node.num_transactions(lane), confirmed_nonce)
        missing = range(first, transaction.nonce)[:MAX_UNMINED]
        gas = self._client.filler_gas(lane) if missing else 0
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return
            for nonce in missing:
                filler = queue.fill_nonce(lane, nonce, gas)
                what = "sent with a filler" if filler else "reopened"
                log.warning("nonce %d of %s is missing and is %s", nonce, lane, what)
                if filler is not None:
                    unsigned = self._unsigned((lane, b"", 0), nonce, gas, fees)
                    queue.add_attempt(filler, _signed(signer, unsigned, head))

    def _replace(
        self,
        signer: TransactionSigner,
        transaction: OpenTransaction,
        head: BlockRef,
        ceiling: int,
        suggested: Fees,
    ) -> bool:
        """Broadcast a stuck transaction again, and sign its call with other fees if that can help.

        Returns whether the pool has it now.
        """
        present = self._present_fees(suggested)
        pooled = self._offer(transaction, present)
        is_pooled = pooled is not None
        signed = list(map(fees_of, offered(transaction)))
        fees = next_fees(signed, None if pooled is None else fees_of(pooled), present, ceiling)
        if fees is None:
            log.warning(_STUCK, transaction.id, signer.account, present.max_fee, signed[-1].max_fee, ceiling)
            return is_pooled
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return is_pooled
            attempts = self._sign_again(queue, signer, transaction, head, fees)
        for attempt in attempts:  # the last one is the transaction's
            is_pooled = self._broadcast(attempt)
        return is_pooled or pooled is not None

    def _sign_again(
        self,
        queue: SendQueue,
        signer: TransactionSigner,
        transaction: OpenTransaction,
        head: BlockRef,
        fees: Fees,
    ) -> list[TransactionAttempt]:
        """Sign and store what is to be broadcast for the transaction's nonce at these fees, in this order.

        A relayed call that would exceed the budget gives its nonce up if the operator's own calls wait for
        it, and is queued again; else nothing is signed. The relayed calls behind it, which may depend on it,
        give theirs up with it, so that they are sent again after it. The last nonce is broadcast first: after
        a crash, too, no call behind can be mined once an earlier nonce is used up.
        """
        lane = signer.account
        if not transaction.is_filler and not is_given_up(transaction):
            added = transaction.gas * max(fees.max_fee - transaction.attempts[-1].max_fee, 0)
            if transaction.function not in RELAYED_CALLS or self._is_within_budget(queue, lane, added):
                unsigned = self._unsigned(self._call(transaction), transaction.nonce, transaction.gas, fees)
                return [_store(queue, transaction, _signed(signer, unsigned, head))]
            if not is_own_call_waiting(queue, lane):
                log.warning(
                    "relayed transaction %d waits for a lower price of gas: %s", transaction.id, _SPENT
                )
                return []
        gas, attempts = self._client.filler_gas(lane), []
        for one in [*reversed(relayed_behind(queue, lane, transaction)), transaction]:
            its_fees = fees if one is transaction else replacement_fees(fees_of(one.attempts[-1]), fees)
            unsigned = self._unsigned((lane, b"", 0), one.nonce, gas, its_fees)
            attempts.append(_store(queue, one, _signed(signer, unsigned, head)))
        return attempts

    def _present_fees(self, suggested: Fees) -> Fees:
        """Those of a new transaction, with the tip that blocks take if the node suggests less."""
        try:
            tip = max(self._node.paid_tip(self._stuck_blocks), suggested.priority_fee)
        except (RpcError, Unavailable) as error:
            log.warning("the node suggests a tip, but does not say what blocks take: %s", error)
            return suggested
        return Fees(suggested.max_fee - suggested.priority_fee + tip, tip)

    # --- queued transactions ---

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
            if transaction.function in RELAYED_CALLS and not self._may_relay(signer.account, cost):
                return  # the operator's own calls come first in the queue
            attempt = self._sign_next(signer, transaction, gas, fees)
            if attempt is not None:
                self._broadcast(attempt)

    def _may_relay(self, lane: Account, cost: int) -> bool:
        with self._queue() as queue:
            if self._is_within_budget(queue, lane, cost):
                return True
        log.warning("relayed transactions wait: %s", _SPENT)
        self._relays_due_at = time.monotonic() + RELAYS_WAIT_SECONDS
        return False

    def _is_within_budget(self, queue: SendQueue, lane: Account, added: int) -> bool:
        """Whether relayed calls may cost this many wei more."""
        if self._relay_budget is None:
            return True
        spent = queue.relay_cost(lane, datetime.now(UTC) - RELAY_PERIOD)
        return spent + added <= self._relay_budget

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
        if queued.function not in RELAYED_CALLS:
            return False
        if time.monotonic() < self._relays_due_at:
            return True
        return any(not one.is_mined and is_given_up(one) for one in queue.open(queued.lane))

    def _estimate(self, transaction: ChainTransaction) -> int:
        data = _call_data(transaction)
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
            unsigned = self._unsigned(self._call(transaction), nonce, gas, fees)
            attempt = _signed(signer, unsigned, head)
            queue.add_attempt(transaction.id, attempt)
        _count(transaction, "sent")
        return attempt

    def _reject(self, signer: TransactionSigner, transaction: ChainTransaction, error: DomainError) -> None:
        with self._queue() as queue:
            queue.lock_lane(signer.account)
            if queue.first_queued(signer.account) == transaction:
                log.warning("transaction %d is refused: %s", transaction.id, error)
                queue.mark_failed(transaction.id, error_fields(error))
                _count(transaction, "refused")

    # --- both ---

    def _warn_once(self, text: str, transaction: int, *args: object) -> None:
        """Log a warning about a transaction once, and not four times a second."""
        if (text, transaction) not in self._warned:
            self._warned.add((text, transaction))
            log.warning(text, transaction, *args)

    def _call(self, transaction: ChainTransaction | OpenTransaction) -> tuple[Account, bytes, int]:
        """Receiver, call data and value."""
        return self._client.address(transaction.contract), _call_data(transaction), transaction.value

    def _unsigned(
        self, call: tuple[Account, bytes, int], nonce: int, gas: int, fees: Fees
    ) -> UnsignedTransaction:
        to, data, value = call
        return UnsignedTransaction(self._client.chain_id, nonce, to, data, gas, fees, value)

    def _broadcast(self, attempt: TransactionAttempt) -> bool:
        """Whether the pool has it now."""
        try:
            self._node.broadcast(attempt.raw)
        except RpcError as error:
            if self._node.knows(attempt.tx_hash):
                return True
            log.info("the node rejected %s, it is sent again later: %s", attempt.tx_hash, error)
            return False
        return True

    def _failure(
        self, signer: TransactionSigner, transaction: OpenTransaction, tx_receipt: TxReceipt, head: BlockRef
    ) -> Reverted:
        contract, function, data = transaction.contract, transaction.function, _call_data(transaction)
        return failure_of(
            tx_receipt,
            transaction.gas,
            lambda block: self._client.simulate(
                contract, function, data, block, signer.account, transaction.value
            ),
            is_new=head.number - tx_receipt.block_number < NEW_BLOCKS,
        )


def _store(queue: SendQueue, transaction: OpenTransaction, attempt: TransactionAttempt) -> TransactionAttempt:
    has_call = transaction.is_filler or not is_filler(attempt.raw)
    queue.add_attempt(transaction.id, attempt, has_call=has_call)
    _count(transaction, "replaced")
    return attempt


def _call_data(transaction: ChainTransaction | OpenTransaction) -> bytes:
    return encode_call(transaction.contract, transaction.function, transaction.args)


def _signed(signer: TransactionSigner, unsigned: UnsignedTransaction, head: BlockRef) -> TransactionAttempt:
    signed, fees = sign(signer, unsigned), unsigned.fees
    return TransactionAttempt(signed.hash, signed.raw, fees.max_fee, fees.priority_fee, head.number)


def _count(transaction: ChainTransaction | OpenTransaction, step: str) -> None:
    """Count the step, and record it in the trace of the request that queued the transaction."""
    TRANSACTIONS.labels(transaction.function, step).inc()
    traces.record_span(
        f"transaction {step}",
        transaction.trace,
        contract=transaction.contract,
        function=transaction.function,
        transaction__id=transaction.id,
    )
