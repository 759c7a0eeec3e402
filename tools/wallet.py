"""Signs and sends prepared transactions, as a user's wallet does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.chain.transactions import UnsignedTransaction, sign
from backend.client.waiting import wait_until
from backend.domain.chain import Reverted
from backend.domain.hashing import to_bytes

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.keys import TransactionSigner

MINED_SECONDS = 60.0


def send(chain: ChainClient, signer: TransactionSigner, prepared: PreparedTransaction) -> TxReceipt:
    """Sign, broadcast and wait until it is mined. `prepared` has its gas.

    Errors: `Reverted`; `Unavailable` after `MINED_SECONDS`.
    """
    unsigned = UnsignedTransaction(
        chain_id=prepared.chain_id,
        nonce=chain.node.num_transactions(signer.account),
        to=prepared.to,
        data=to_bytes(prepared.data),
        gas=prepared.gas or 0,
        fees=chain.node.fees(),
        value=prepared.value,
    )
    signed = sign(signer, unsigned)
    chain.node.broadcast(signed.raw)
    what = f"transaction {signed.hash} to be mined"
    tx_receipt = wait_until(lambda: chain.node.tx_receipt(signed.hash), what, MINED_SECONDS)
    if not tx_receipt.is_success:
        raise Reverted(f"transaction {signed.hash} was mined, but failed")
    return tx_receipt


def transact(
    chain: ChainClient, signer: TransactionSigner, contract: str, function: str, *args: Any, value: int = 0
) -> TxReceipt:
    """Prepare a call with `value` in wei, and send it. Errors: those of `send`."""
    return send(chain, signer, chain.prepare(contract, function, *args, sender=signer.account, value=value))
