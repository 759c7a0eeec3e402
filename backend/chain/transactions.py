"""Signs, prices and decodes EIP-1559 transactions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rlp

from backend.chain.contracts import decode_revert
from backend.chain.node import Fees
from backend.domain.chain import Reverted
from backend.domain.errors import Unavailable
from backend.domain.hashing import keccak, to_bytes, to_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.chain.node import TxReceipt
    from backend.chain.rpc import RpcError
    from backend.domain.errors import DomainError
    from backend.domain.ids import Account, Hash32
    from backend.ports.keys import TransactionSigner


TX_GAS_CAP = 1 << 24
"""Highest gas limit of a transaction (EIP-7825), except on Arbitrum's chains."""
REPLACEMENT_LIMIT = 2
"""Highest maximum fee of a replacement, as a multiple of that of a new transaction at the time."""
OUT_OF_GAS = "gas required exceeds"
"""What geth, and nodes that follow it, say of a call for which no gas limit is enough."""


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """The fields that a key signs."""

    chain_id: int
    nonce: int
    to: Account | None
    """None creates a contract."""
    data: bytes
    gas: int
    fees: Fees
    value: int = 0  # wei


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction in the form that `eth_sendRawTransaction` takes, as 0x-hex."""

    raw: str
    hash: Hash32


def sign(signer: TransactionSigner, transaction: UnsignedTransaction) -> SignedTransaction:
    """Sign with a key that may be remote. Source: EIP-1559. Errors: `Unavailable`."""
    fields: list[Any] = [
        transaction.chain_id,
        transaction.nonce,
        transaction.fees.priority_fee,
        transaction.fees.max_fee,
        transaction.gas,
        b"" if transaction.to is None else to_bytes(transaction.to),
        transaction.value,
        transaction.data,
        [],  # access list
    ]
    signature = bytes.fromhex(signer.sign_message(_encode(fields))[2:])
    r, s = (int.from_bytes(signature[i : i + 32], "big") for i in (0, 32))
    raw = _encode([*fields, signature[64] - 27, r, s])
    return SignedTransaction("0x" + raw.hex(), to_hash(keccak(raw)))


def _encode(fields: list[Any]) -> bytes:
    return b"\x02" + bytes(rlp.encode(fields))


def is_filler(raw: str) -> bool:
    """Whether a signed transaction carries no call, and so only uses up its nonce."""
    data: bytes = rlp.decode(to_bytes(raw)[1:])[7]
    return not data


# --- fees, wei per gas ---


def current_gas_price(suggested: Fees) -> int:
    """The price of gas in the newest block, base fee plus tip. `suggested` is `Node.fees()`."""
    return _base_fee(suggested) + suggested.priority_fee


def suffices(offered: Fees, present: Fees) -> bool:
    """Whether the price keeps no block from taking the offer: the tip that its maximum leaves above the base
    fee is at least the present one.
    """
    return min(offered.priority_fee, offered.max_fee - _base_fee(present)) >= present.priority_fee


def raised(fees: Fees) -> Fees:
    """Both fees raised by an eighth, rounded up, and by a wei at least: pools accept a replacement if both
    fees are higher, by a tenth or more.
    """
    return Fees(*(fee + max(-(-fee // 8), 1) for fee in (fees.max_fee, fees.priority_fee)))


def replacement_fees(previous: Fees, suggested: Fees) -> Fees:
    """The fees of a replacement that pools accept and that covers the present gas price."""
    least = raised(previous)
    return Fees(
        max_fee=max(least.max_fee, suggested.max_fee),
        priority_fee=max(least.priority_fee, suggested.priority_fee),
    )


def capped(fees: Fees, ceiling: int | None) -> Fees:
    """Both fees limited to `ceiling`; None limits nothing."""
    if ceiling is None:
        return fees
    return Fees(min(fees.max_fee, ceiling), min(fees.priority_fee, ceiling))


def next_fees(signed: Sequence[Fees], pooled: Fees | None, present: Fees, ceiling: int) -> Fees | None:
    """Fees for another attempt of a transaction that is stuck; None if other fees do not help.

    `signed` are those of its attempts by rising maximum, and `pooled` those of the one that the pool has. The
    pool refuses dearer ones if the account or the node's own fee cap does not cover their gas limit times
    their maximum.
    """
    sufficient = [fees for fees in signed if suffices(fees, present)]
    if pooled in sufficient:
        return None
    limit = min(ceiling, REPLACEMENT_LIMIT * present.max_fee)
    if sufficient:  # the pool refuses them for their cost: by how much is not known
        limit = min(limit, sufficient[0].max_fee * 8 // 9)
    wanted = _least_fees(present) if sufficient else present
    previous = pooled or signed[-1]
    fees = capped(replacement_fees(previous, wanted), limit)
    if fees.max_fee < raised(previous).max_fee:
        if pooled is not None:
            return None
        fees = wanted  # the pool has nothing that they would have to exceed
    return None if fees.max_fee > limit or fees in signed else fees


def _least_fees(present: Fees) -> Fees:
    """What the next block takes: its base fee is at most an eighth higher (EIP-1559)."""
    base_fee = _base_fee(present)
    return Fees(base_fee + -(-base_fee // 8) + present.priority_fee, present.priority_fee)


def _base_fee(present: Fees) -> int:
    return (present.max_fee - present.priority_fee) // 2


# --- failures ---


class NotRun(Unavailable):
    """The node is reachable and cannot run a call: it does not have the state of the block, for example."""

    code = "unavailable"


def call_error(contract: str, function: str, error: RpcError) -> Reverted | NotRun:
    """The domain error of a call that the node refused."""
    if OUT_OF_GAS in error.message.lower():
        return Reverted(f"{contract}.{function} cannot run: {error.message}")
    if error.is_revert:
        return decode_revert(contract, function, error.revert_data, error.message)
    return NotRun(f"the node cannot run {contract}.{function}: {error.message}")


def failure_of(
    tx_receipt: TxReceipt, gas: int, simulate: Callable[[int], object], *, is_new: bool = False
) -> Reverted:
    """Find out why a mined transaction with this gas limit failed, by running its call again.

    `simulate` runs the call on top of the given block and raises `Reverted` if it fails. The failed
    transaction changed nothing, so the state after its block is the state that it met plus the effects of
    later transactions of the block; the state before the block lacks those of earlier ones.

    Nodes keep the states of the newest blocks only; without them the reason stays unknown. Errors: `NotRun`
    if the node does not have those of a block that `is_new`, which it will have soon.
    """
    unknown = "the transaction failed, but its call succeeds now"
    for block in (tx_receipt.block_number, tx_receipt.block_number - 1):
        try:
            simulate(block)
        except Reverted as error:
            return error
        except NotRun as error:
            if is_new:
                raise
            unknown = f"the transaction failed, and why is not known: {error.message}"
    if tx_receipt.gas_used >= gas:
        return Reverted(f"all of {gas} gas was used", error="OutOfGas")
    return Reverted(unknown)


def error_fields(error: DomainError) -> dict[str, Any]:
    """The form in which a failed transaction stores its error: `error`, `message` and `args`."""
    if isinstance(error, Reverted):
        return {"error": error.error or "Reverted", "message": error.message, "args": error.args_by_name}
    return {"error": type(error).__name__, "message": error.message, "args": error.details}
