"""Keeps unmined transactions in the node's pool, and replaces the one on which a lane is stuck."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from backend.chain.node import Fees
from backend.chain.rpc import RpcError
from backend.chain.sending.attempts import count
from backend.chain.sending.lanes import (
    BUDGET_SPENT,
    MAX_UNMINED,
    fees_of,
    is_given_up,
    is_own_call_waiting,
    is_relayed,
    locked,
    offered,
    relayed_behind,
)
from backend.chain.transactions import is_filler, next_fees, replacement_fees, suffices
from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.chain.client import ChainClient
    from backend.chain.sending.attempts import Attempts
    from backend.chain.sending.lanes import OpenQueue, RelayBudget
    from backend.domain.chain import BlockRef
    from backend.domain.ids import Account
    from backend.domain.transactions import OpenTransaction, TransactionAttempt
    from backend.ports.chain import SendQueue
    from backend.ports.keys import TransactionSigner

log = logging.getLogger(__name__)

STUCK_BLOCKS = 5
"""Blocks without our transaction after which it is broadcast again, with other fees if they are the cause."""
_STUCK = (
    "transaction %d of %s is not mined, and higher fees do not help or are not allowed: a new one offers "
    "%d wei per gas now, this one %d, and at most %d. Check the account's coin and the RPC"
)


class Pool:
    """The node's pool, as far as it has our transactions."""

    def __init__(
        self,
        client: ChainClient,
        queue: OpenQueue,
        attempts: Attempts,
        budget: RelayBudget,
        stuck_blocks: int = STUCK_BLOCKS,
    ) -> None:
        self._client = client
        self._node = client.node
        self._queue = queue
        self._attempts = attempts
        self._budget = budget
        self._stuck_blocks = stuck_blocks
        self._checked: dict[Account, tuple[int, int]] = {}
        """Lane -> its next transaction and the block at which its fees were checked last."""

    def keep(
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

    def _offer(self, transaction: OpenTransaction, present: Fees) -> TransactionAttempt | None:
        """Broadcast the cheapest attempt whose fees suffice or, if none does or the pool refuses it, the
        dearest. Returns the one that the pool has, if any.
        """
        attempts = offered(transaction)
        dearest = attempts[-1]
        cheapest = next((one for one in attempts if suffices(fees_of(one), present)), dearest)
        for one in dict.fromkeys((cheapest, dearest)):
            if self._attempts.broadcast(one):
                return one
        return next((one for one in reversed(transaction.attempts) if self._node.knows(one.tx_hash)), None)

    # --- stuck transactions ---

    def _is_stuck(self, lane: Account, transaction: OpenTransaction, head: BlockRef) -> bool:
        """Whether it is time to check the fees of the lane's next transaction."""
        checked, at_block = self._checked.get(lane, (None, 0))
        sent_at = transaction.attempts[-1].sent_at_block
        since = max(sent_at, at_block) if checked == transaction.id else sent_at
        if head.number - since < self._stuck_blocks:
            return False
        self._checked[lane] = (transaction.id, head.number)
        return True

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
        with locked(self._queue, lane, transaction) as queue:
            if queue is None:
                return
            for nonce in missing:
                filler = queue.fill_nonce(lane, nonce, gas)
                what = "sent with a filler" if filler else "reopened"
                log.warning("nonce %d of %s is missing and is %s", nonce, lane, what)
                if filler is not None:
                    queue.add_attempt(filler, self._attempts.sign_filler(signer, nonce, gas, fees, head))

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
        with locked(self._queue, signer.account, transaction) as queue:
            if queue is None:
                return is_pooled
            attempts = self._sign_again(queue, signer, transaction, head, fees)
        for attempt in attempts:  # the last one is the transaction's
            is_pooled = self._attempts.broadcast(attempt)
        return is_pooled or pooled is not None

    def _present_fees(self, suggested: Fees) -> Fees:
        """Those of a new transaction, with the tip that blocks take if the node suggests less."""
        try:
            tip = max(self._node.paid_tip(self._stuck_blocks), suggested.priority_fee)
        except (RpcError, Unavailable) as error:
            log.warning("the node suggests a tip, but does not say what blocks take: %s", error)
            return suggested
        return Fees(suggested.max_fee - suggested.priority_fee + tip, tip)

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
            if not is_relayed(transaction) or self._budget.covers(queue, lane, added):
                place = transaction.nonce, transaction.gas
                attempt = self._attempts.sign_call(signer, transaction, *place, fees, head)
                return [_store(queue, transaction, attempt)]
            if not is_own_call_waiting(queue, lane):
                log.warning(
                    "relayed transaction %d waits for a lower price of gas: %s", transaction.id, BUDGET_SPENT
                )
                return []
        gas, attempts = self._client.filler_gas(lane), []
        for one in [*reversed(relayed_behind(queue, lane, transaction)), transaction]:
            its_fees = fees if one is transaction else replacement_fees(fees_of(one.attempts[-1]), fees)
            filler = self._attempts.sign_filler(signer, one.nonce, gas, its_fees, head)
            attempts.append(_store(queue, one, filler))
        return attempts


def _store(queue: SendQueue, transaction: OpenTransaction, attempt: TransactionAttempt) -> TransactionAttempt:
    has_call = transaction.is_filler or not is_filler(attempt.raw)
    queue.add_attempt(transaction.id, attempt, has_call=has_call)
    count(transaction, "replaced")
    return attempt
