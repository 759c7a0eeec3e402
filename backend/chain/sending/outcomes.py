"""Records what has become of sent transactions: mined, confirmed, failed, or replaced by unknown ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from backend.chain.rpc import RpcError
from backend.chain.sending.attempts import call_data, count
from backend.chain.sending.lanes import attempt_of, hashes_of, locked
from backend.chain.sending.nonces import find_by_nonce
from backend.chain.sending.warn_once import WarnOnce
from backend.chain.transactions import error_fields, failure_of, is_filler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.chain.sending.lanes import OpenQueue
    from backend.domain.chain import BlockRef, Reverted
    from backend.domain.ids import Account
    from backend.domain.transactions import OpenTransaction

log = logging.getLogger(__name__)

NEW_BLOCKS = 32
"""A node that does not have the state of one of so many newest blocks is behind, and will have it; older ones
may be pruned.
"""


class Outcomes:
    """Of transactions that were sent, as the chain shows them; final after `confirmations` blocks."""

    def __init__(self, client: ChainClient, queue: OpenQueue, confirmations: int) -> None:
        self._client = client
        self._node = client.node
        self._queue = queue
        self._confirmations = confirmations
        self._warn_once = WarnOnce(log)

    def record(
        self, lane: Account, transactions: Sequence[OpenTransaction], head: BlockRef, confirmed_nonce: int
    ) -> tuple[list[OpenTransaction], int]:
        """Returns the unmined transactions, by rising nonce, and the number of those whose nonces are used by
        unknown transactions.
        """
        unmined: list[OpenTransaction] = []
        num_lost = 0
        for transaction in transactions:
            # Nothing after an unmined transaction can be mined, so only the next one is looked up.
            hashes = hashes_of(transaction) if not unmined or transaction.is_mined else []
            tx_receipt = next(filter(None, map(self._node.tx_receipt, hashes)), None)
            if tx_receipt is not None:
                self._record(lane, transaction, tx_receipt, head)
            elif transaction.nonce < confirmed_nonce:
                is_handled = self._handle_used_nonce(lane, transaction, head)
                num_lost += not (is_handled or transaction.is_mined)
            else:
                if transaction.is_mined:
                    self._mark_unmined(lane, transaction)
                unmined.append(transaction)
        return unmined, num_lost

    def _record(
        self, lane: Account, transaction: OpenTransaction, tx_receipt: TxReceipt, head: BlockRef
    ) -> None:
        is_confirmed = tx_receipt.block_number + self._confirmations <= head.number
        if transaction.is_mined and not is_confirmed:
            return
        if not transaction.is_filler and is_filler(attempt_of(transaction, tx_receipt.tx_hash).raw):
            if is_confirmed:
                self._requeue(lane, transaction)
            return
        failure = None if tx_receipt.is_success else self._failure(lane, transaction, tx_receipt, head)
        error = None if failure is None else error_fields(failure)
        place = tx_receipt.tx_hash, tx_receipt.block_number, tx_receipt.block_hash
        with locked(self._queue, lane, transaction) as queue:
            if queue is None:
                return
            queue.mark_mined(transaction.id, *place, error)
            if is_confirmed and error is not None:
                log.warning("transaction %d failed: %s", transaction.id, failure)
                queue.mark_failed(transaction.id, error)
            elif is_confirmed:
                queue.mark_confirmed(transaction.id)
        if is_confirmed:
            count(transaction, "confirmed" if failure is None else "failed")

    def _failure(
        self, lane: Account, transaction: OpenTransaction, tx_receipt: TxReceipt, head: BlockRef
    ) -> Reverted:
        contract, function, data = transaction.contract, transaction.function, call_data(transaction)
        return failure_of(
            tx_receipt,
            transaction.gas,
            lambda block: self._client.simulate(contract, function, data, block, lane, transaction.value),
            is_new=head.number - tx_receipt.block_number < NEW_BLOCKS,
        )

    def _handle_used_nonce(self, lane: Account, transaction: OpenTransaction, head: BlockRef) -> bool:
        """Requeue a transaction whose nonce another transaction has used. False if the node does not have the
        old states by which that is found: the transaction is left as it is, and others go on.

        A missing receipt alone is no proof: nodes behind one address may be at different blocks, and a
        requeued transaction would be sent twice. So the other transaction must be found on the chain.
        """
        near, last = transaction.attempts[0].sent_at_block, head.number - self._confirmations
        try:
            other = find_by_nonce(self._node, lane, transaction.nonce, near, last)
        except RpcError as error:
            if head.number - near < NEW_BLOCKS:
                raise
            text = "transaction %d: its nonce %d was used, and only an archive node can tell by which: %s"
            self._warn_once(text, transaction.id, transaction.nonce, error)
            return False
        if other is None or other in hashes_of(transaction):
            return True
        with locked(self._queue, lane, transaction) as queue:
            if queue is None:
                return True
            log.warning("nonce %d of transaction %d was used by %s", transaction.nonce, transaction.id, other)
            if transaction.is_filler:
                queue.mark_failed(transaction.id, {"error": "Filled", "message": f"by {other}", "args": {}})
            else:
                queue.requeue(transaction.id)
                count(transaction, "requeued")
        return True

    def _requeue(self, lane: Account, transaction: OpenTransaction) -> None:
        """Queue a relayed call again whose nonce we used up for the calls behind it."""
        with locked(self._queue, lane, transaction) as queue:
            if queue is not None:
                queue.requeue(transaction.id)
                count(transaction, "requeued")

    def _mark_unmined(self, lane: Account, transaction: OpenTransaction) -> None:
        with locked(self._queue, lane, transaction) as queue:
            if queue is not None:
                queue.mark_unmined(transaction.id)
