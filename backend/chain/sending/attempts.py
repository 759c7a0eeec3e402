"""Signs and broadcasts attempts at transactions: an attempt is one signed version, with fees of its own."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from backend.chain.contracts import encode_call
from backend.chain.rpc import RpcError
from backend.chain.transactions import UnsignedTransaction, sign
from backend.domain.transactions import TransactionAttempt
from backend.metrics import TRANSACTIONS
from telemetry import traces

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.chain.node import Fees
    from backend.domain.chain import BlockRef
    from backend.domain.ids import Account
    from backend.domain.transactions import ChainTransaction, OpenTransaction
    from backend.ports.keys import TransactionSigner

log = logging.getLogger(__name__)


class Attempts:
    """Attempts are returned to be stored, and are broadcast only then."""

    def __init__(self, client: ChainClient) -> None:
        self._client = client

    def sign_call(
        self,
        signer: TransactionSigner,
        transaction: ChainTransaction | OpenTransaction,
        nonce: int,
        gas: int,
        fees: Fees,
        head: BlockRef,
    ) -> TransactionAttempt:
        to = self._client.address(transaction.contract)
        call = to, call_data(transaction), transaction.value
        return self._sign(signer, call, nonce, gas, fees, head)

    def sign_filler(
        self, signer: TransactionSigner, nonce: int, gas: int, fees: Fees, head: BlockRef
    ) -> TransactionAttempt:
        """A transaction of the lane to itself, which only uses up its nonce."""
        return self._sign(signer, (signer.account, b"", 0), nonce, gas, fees, head)

    def _sign(
        self,
        signer: TransactionSigner,
        call: tuple[Account, bytes, int],
        nonce: int,
        gas: int,
        fees: Fees,
        head: BlockRef,
    ) -> TransactionAttempt:
        to, data, value = call
        signed = sign(signer, UnsignedTransaction(self._client.chain_id, nonce, to, data, gas, fees, value))
        return TransactionAttempt(signed.hash, signed.raw, fees.max_fee, fees.priority_fee, head.number)

    def broadcast(self, attempt: TransactionAttempt) -> bool:
        """Whether the pool has it now."""
        node = self._client.node
        try:
            node.broadcast(attempt.raw)
        except RpcError as error:
            if node.knows(attempt.tx_hash):
                return True
            log.info("the node rejected %s, it is sent again later: %s", attempt.tx_hash, error)
            return False
        return True


def call_data(transaction: ChainTransaction | OpenTransaction) -> bytes:
    return encode_call(transaction.contract, transaction.function, transaction.args)


def count(transaction: ChainTransaction | OpenTransaction, step: str) -> None:
    """Count the step, and record it in the trace of the request that queued the transaction."""
    TRANSACTIONS.labels(transaction.function, step).inc()
    traces.record_span(
        f"transaction {step}",
        transaction.trace,
        contract=transaction.contract,
        function=transaction.function,
        transaction__id=transaction.id,
    )
