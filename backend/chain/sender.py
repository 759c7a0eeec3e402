"""Sends our transactions: one nonce lane per key, each signed transaction stored before it is broadcast.

Whatever is killed where, the database says what to do next: a stored transaction is broadcast again, a queued
one is signed, and no nonce is ever given twice or left out.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.chain.keys import sign_transaction
from backend.chain.node import Fees
from backend.chain.nonces import user_of
from backend.chain.rpc import RpcError
from backend.domain.chain import Reverted
from backend.domain.errors import DomainError, Unavailable
from backend.domain.transactions import TransactionAttempt
from backend.metrics import GAS_PRICE_WEI, OPERATOR_WEI, TRANSACTIONS
from telemetry import traces

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.domain.chain import BlockRef
    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import ChainTransaction, OpenTransaction
    from backend.ports.chain import SendQueue, Signer

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
STUCK_BLOCKS = 5
"""Blocks that pass without our transaction before it is sent again with higher fees."""
MOST_WAITING = 64
"""Transactions of a lane that are sent before the first of them is mined: pools drop what is too many."""
FILLER_GAS = 21_000
FEE_CEILING = 1_000 * 10**9
"""Wei per gas that a replacement never exceeds."""
GAS_SECONDS = 30.0
"""Between two looks at what is left for gas."""


class Sender:
    """Several may run at once. `signers` gives the key of a lane, None for lanes of another process."""

    def __init__(
        self,
        client: ChainClient,
        queue: Callable[[], AbstractContextManager[SendQueue]],
        signers: Callable[[Account], Signer | None],
        confirmations: int,
        stuck_blocks: int = STUCK_BLOCKS,
    ) -> None:
        self._client = client
        self._node = client.node
        self._queue = queue
        self._signers = signers
        self._confirmations = confirmations
        self._stuck_blocks = stuck_blocks
        self._next_look = 0.0

    def run_once(self) -> None:
        """Look after what is under way, then send all that is queued. Errors: `Unavailable`."""
        with self._queue() as queue:
            lanes = queue.lanes()
        for signer in filter(None, map(self._signers, lanes)):
            self._watch(signer)
            self._send_queued(signer)
            self._look_at_gas(signer)

    def run(self, stop: threading.Event, poll_seconds: float = POLL_SECONDS) -> None:
        """Until `stop` is set. A node that is away or unwell is waited for."""
        self._client.check()
        while not stop.is_set():
            try:
                self.run_once()
            except (Unavailable, RpcError) as error:
                log.warning("sender waits: %s", error)
            stop.wait(poll_seconds)

    def _look_at_gas(self, signer: Signer) -> None:
        if (now := time.monotonic()) >= self._next_look:
            self._next_look = now + GAS_SECONDS
            OPERATOR_WEI.set(self._node.balance(signer.account))
            GAS_PRICE_WEI.set(self._node.fees().max_fee)

    # --- what is under way ---

    def _watch(self, signer: Signer) -> None:
        lane, head = signer.account, self._node.head()
        used_up = self._node.num_transactions(lane, max(head.number - self._confirmations, 0))
        with self._queue() as queue:
            under_way = queue.open(lane)
        is_next = True
        for transaction in under_way:
            # What comes after one that is not mined cannot be mined either, and may only be unknown.
            hashes = _hashes(transaction) if is_next or transaction.is_mined else []
            found = next(filter(None, map(self._node.tx_receipt, hashes)), None)
            if found is not None:
                self._record(signer, transaction, found, head)
            elif transaction.nonce < used_up:
                self._look_for(signer, transaction, head)
            else:
                self._push(signer, transaction, head, is_next=is_next)
                is_next = False

    @contextmanager
    def _locked(self, signer: Signer, transaction: OpenTransaction) -> Iterator[SendQueue | None]:
        """The queue with the lane locked; None if another sender changed the transaction meanwhile."""
        with self._queue() as queue:
            queue.lock_lane(signer.account)
            yield queue if queue.is_as_seen(transaction) else None

    def _record(self, signer: Signer, transaction: OpenTransaction, found: TxReceipt, head: BlockRef) -> None:
        is_deep = found.block_number + self._confirmations <= head.number
        if transaction.is_mined and not is_deep:
            return
        error = self._failure(signer, transaction, found) if is_deep and not found.is_success else None
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return
            queue.mined(transaction.id, found.tx_hash, found.block_number, found.block_hash)
            if error is not None:
                log.warning("transaction %d failed: %s", transaction.id, error["message"])
                queue.failed(transaction.id, error)
            elif is_deep:
                queue.confirmed(transaction.id)
        if is_deep:
            _count(transaction, "confirmed" if error is None else "failed")

    def _look_for(self, signer: Signer, transaction: OpenTransaction, head: BlockRef) -> None:
        """Its nonce is used up, yet the node has no receipt of it. It goes anew only if another one is seen
        to have the nonce: a node whose parts are not equally far would else have it sent twice.
        """
        near, last = transaction.attempts[0].sent_at_block, head.number - self._confirmations
        user = user_of(self._node, signer.account, transaction.nonce, near, last)
        if user is None or user in _hashes(transaction):
            return
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return
            log.warning("%s used nonce %d of transaction %d", user, transaction.nonce, transaction.id)
            if transaction.is_filler:
                queue.failed(transaction.id, {"error": "Filled", "message": f"by {user}", "args": {}})
            else:
                queue.requeue(transaction.id)
                _count(transaction, "requeued")

    def _push(self, signer: Signer, transaction: OpenTransaction, head: BlockRef, *, is_next: bool) -> None:
        """Make sure that the node has it; pay more if it is what the lane waits for."""
        latest = transaction.attempts[-1]
        if transaction.is_mined:
            with self._locked(signer, transaction) as queue:
                if queue is not None:
                    queue.unmined(transaction.id)
        elif is_next and head.number - latest.sent_at_block >= self._stuck_blocks:
            self._fill(signer, transaction, head)
            latest = self._replace(signer, transaction, head) or latest
        if not self._node.knows(latest.tx_hash):
            self._broadcast(latest)

    def _fill(self, signer: Signer, transaction: OpenTransaction, head: BlockRef) -> None:
        """Have the nonces used up that the transaction waits for, and that nothing in the pool will use."""
        lane, fees = signer.account, self._node.fees()
        missing = range(self._node.num_transactions(lane), transaction.nonce)[:MOST_WAITING]
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return
            for nonce in missing:
                filler = queue.fill(lane, nonce, FILLER_GAS)
                log.warning("nonce %d of %s is %s", nonce, lane, "filled" if filler else "used again")
                if filler is not None:
                    attempt = self._signed(signer, (lane, b""), nonce, FILLER_GAS, fees, head)
                    queue.add_attempt(filler, attempt)

    def _replace(
        self, signer: Signer, transaction: OpenTransaction, head: BlockRef
    ) -> TransactionAttempt | None:
        """The same call with both fees an eighth higher, the least that pools accept."""
        old, now = transaction.attempts[-1], self._node.fees()
        fees = Fees(
            max_fee=max(_raised(old.max_fee), now.max_fee),
            priority_fee=max(_raised(old.priority_fee), now.priority_fee),
        )
        if fees.max_fee > FEE_CEILING:
            log.warning("transaction %d is stuck at the fee ceiling", transaction.id)
            return None
        with self._locked(signer, transaction) as queue:
            if queue is None:
                return None
            call = (signer.account, b"") if transaction.is_filler else self._call(transaction)
            attempt = self._signed(signer, call, transaction.nonce, transaction.gas, fees, head)
            queue.add_attempt(transaction.id, attempt)
        _count(transaction, "replaced")
        return attempt

    # --- what is queued ---

    def _send_queued(self, signer: Signer) -> None:
        while (queued := self._first_queued(signer.account)) is not None:
            transaction, is_blocked = queued
            try:
                gas = self._estimate(transaction)
            except Unavailable:
                raise
            except DomainError as error:
                if is_blocked:
                    return  # what is under way may be what it needs: judge it again afterwards
                self._refuse(signer, transaction, error)
                continue
            attempt = self._sign_next(signer, transaction, gas)
            if attempt is not None:
                self._broadcast(attempt)

    def _first_queued(self, lane: Account) -> tuple[ChainTransaction, bool] | None:
        """The next one that may be sent, and whether others of its lane are still to be mined."""
        with self._queue() as queue:
            queued = queue.first_queued(lane)
            num_waiting = queue.num_waiting(lane)
        return None if queued is None or num_waiting >= MOST_WAITING else (queued, num_waiting > 0)

    def _estimate(self, transaction: ChainTransaction) -> int:
        data = self._data(transaction)
        return self._client.estimate_gas(transaction.contract, transaction.function, data, transaction.lane)

    def _sign_next(
        self, signer: Signer, transaction: ChainTransaction, gas: int
    ) -> TransactionAttempt | None:
        """Give it the lane's next nonce, sign and store it; None if another sender was faster."""
        lane = signer.account
        on_chain, fees, head = self._node.num_transactions(lane), self._node.fees(), self._node.head()
        with self._queue() as queue:
            queue.lock_lane(lane)
            nonce = queue.take_nonce(lane, transaction.id, on_chain, gas)
            if nonce is None:
                return None
            attempt = self._signed(signer, self._call(transaction), nonce, gas, fees, head)
            queue.add_attempt(transaction.id, attempt)
        _count(transaction, "sent")
        return attempt

    def _refuse(self, signer: Signer, transaction: ChainTransaction, error: DomainError) -> None:
        with self._queue() as queue:
            queue.lock_lane(signer.account)
            if queue.first_queued(signer.account) == transaction:
                log.warning("transaction %d is refused: %s", transaction.id, error)
                queue.failed(transaction.id, _described(error))
                _count(transaction, "refused")

    # --- both ---

    def _call(self, transaction: ChainTransaction | OpenTransaction) -> tuple[Account, bytes]:
        return self._client.address(transaction.contract), self._data(transaction)

    def _data(self, transaction: ChainTransaction | OpenTransaction) -> bytes:
        args = transaction.args
        return interface(transaction.contract).function(transaction.function, args).encode(args)

    def _signed(
        self,
        signer: Signer,
        call: tuple[Account, bytes],
        nonce: int,
        gas: int,
        fees: Fees,
        head: BlockRef,
    ) -> TransactionAttempt:
        to, data = call
        fields = {
            "chainId": self._client.chain_id,
            "nonce": nonce,
            "to": to,
            "value": 0,
            "data": "0x" + data.hex(),
            "gas": gas,
            "maxFeePerGas": fees.max_fee,
            "maxPriorityFeePerGas": fees.priority_fee,
        }
        raw, tx_hash = sign_transaction(signer, fields)
        return TransactionAttempt(tx_hash, raw, fees.max_fee, fees.priority_fee, sent_at_block=head.number)

    def _broadcast(self, attempt: TransactionAttempt) -> None:
        try:
            self._node.broadcast(attempt.raw)
        except RpcError as error:
            log.info("node refuses %s for now: %s", attempt.tx_hash, error)

    def _failure(self, signer: Signer, transaction: OpenTransaction, found: TxReceipt) -> dict[str, Any]:
        """Why a mined transaction failed, by running it once more."""
        data = self._data(transaction)
        # It changed nothing, so after its block stands what it met, and what came later; before it, less.
        for block in (found.block_number, found.block_number - 1):
            try:
                self._client.simulate(
                    transaction.contract, transaction.function, data, block, sender=signer.account
                )
            except Reverted as error:
                return _described(error)
        if found.gas_used >= transaction.gas:
            return {"error": "OutOfGas", "message": f"all of {transaction.gas} gas was used", "args": {}}
        return {"error": "Reverted", "message": "failed for a reason that is gone now", "args": {}}


def _hashes(transaction: OpenTransaction) -> list[Hash32]:
    return [attempt.tx_hash for attempt in reversed(transaction.attempts)]


def _count(transaction: ChainTransaction | OpenTransaction, step: str) -> None:
    """And tell the trace of who wished for it."""
    TRANSACTIONS.labels(transaction.function, step).inc()
    traces.record_span(
        f"transaction {step}",
        transaction.trace,
        contract=transaction.contract,
        function=transaction.function,
        transaction__id=transaction.id,
    )


def _raised(fee: int) -> int:
    return fee + -(-fee // 8)


def _described(error: DomainError) -> dict[str, Any]:
    if isinstance(error, Reverted):
        return {"error": error.error or "Reverted", "message": error.message, "args": error.args_by_name}
    return {"error": type(error).__name__, "message": error.message, "args": error.details}
