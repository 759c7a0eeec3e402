"""What a user's wallet does with a prepared transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.chain.keys import sign_transaction

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.domain.transactions import PreparedTransaction
    from backend.ports.chain import Signer


def send(chain: ChainClient, signer: Signer, prepared: PreparedTransaction) -> TxReceipt:
    """Sign and broadcast; the node mines at once."""
    assert prepared.gas is not None
    fees = chain.node.fees()
    fields = {
        "chainId": prepared.chain_id,
        "nonce": chain.node.num_transactions(signer.account),
        "to": prepared.to,
        "value": prepared.value,
        "data": prepared.data,
        "gas": prepared.gas,
        "maxFeePerGas": fees.max_fee,
        "maxPriorityFeePerGas": fees.priority_fee,
    }
    raw, tx_hash = sign_transaction(signer, fields)
    chain.node.broadcast(raw)
    tx_receipt = chain.node.tx_receipt(tx_hash)
    assert tx_receipt is not None
    assert tx_receipt.is_success
    return tx_receipt


def transact(chain: ChainClient, signer: Signer, contract: str, function: str, *args: Any) -> TxReceipt:
    return send(chain, signer, chain.prepare(contract, function, *args, sender=signer.account))
