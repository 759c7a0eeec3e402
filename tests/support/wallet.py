"""Signs and sends prepared transactions, as a user's wallet does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.chain.transactions import UnsignedTransaction, sign
from backend.domain.hashing import to_bytes

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Signer


def send(chain: ChainClient, signer: Signer, prepared: PreparedTransaction) -> TxReceipt:
    """Sign and broadcast; the node mines at once."""
    assert prepared.gas is not None
    unsigned = UnsignedTransaction(
        chain_id=prepared.chain_id,
        nonce=chain.node.num_transactions(signer.account),
        to=prepared.to,
        data=to_bytes(prepared.data),
        gas=prepared.gas,
        fees=chain.node.fees(),
        value=prepared.value,
    )
    signed = sign(signer, unsigned)
    chain.node.broadcast(signed.raw)
    tx_receipt = chain.node.tx_receipt(signed.hash)
    assert tx_receipt is not None
    assert tx_receipt.is_success
    return tx_receipt


def transact(chain: ChainClient, signer: Signer, contract: str, function: str, *args: Any) -> TxReceipt:
    return send(chain, signer, chain.prepare(contract, function, *args, sender=signer.account))
