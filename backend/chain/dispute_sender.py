"""Sends calls of disputes with one key, within limits of gas and price.

It stores nothing. A call that waits in the pool makes a second identical call revert when that is estimated
on top of it, and mined calls are visible on the chain.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.chain.contracts import encode_call
from backend.chain.node import Fees
from backend.chain.rpc import RpcError
from backend.chain.transactions import UnsignedTransaction, current_gas_price, failure_of, raised, sign
from backend.domain.chain import Reverted
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.errors import Unavailable
from backend.domain.hashing import keccak, to_hash, words
from backend.domain.transactions import Call, CallResult

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.domain.ids import Account, Hash32
    from backend.ports.chain import Signer

POLL_SECONDS = 0.1
MINED_SECONDS = 120.0
"""Time after which an unmined call is left in the pool; a repeated call reverts while it is there."""
STUCK_BLOCKS = 5
"""Blocks without our transaction after which it is replaced with higher fees."""
NONCE_TRIES = 5
"""Attempts to find a free nonce, because another process may send with the same key."""


@dataclass(frozen=True, slots=True)
class GasLimits:
    """`gas` of one transaction; `price` in wei per gas, tip included."""

    gas: int
    price: int


class TooExpensive(Exception):
    """The call costs more than the limits allow."""


@dataclass
class _Pooled:
    call: Call
    nonce: int
    gas: int
    fees: Fees
    sent_at_block: int
    hashes: list[Hash32] = field(default_factory=list)


class ChainDisputeSender:
    """Implements `backend.ports.disputes.DisputeSender`. Setting `stop` ends all waiting."""

    def __init__(
        self, client: ChainClient, signer: Signer, limits: GasLimits, stop: threading.Event | None = None
    ) -> None:
        self._client, self._node, self._signer = client, client.node, signer
        self._limits, self._stop = limits, stop

    @property
    def account(self) -> Account:
        return self._signer.account

    def units(self) -> int:
        with node_errors():
            units: int = self._client.call(PAYMENT_TOKEN, "balanceOf", self.account)
        return units

    def approval(self, units: int) -> Call | None:
        disputes = self._client.address("Disputes")
        with node_errors():
            allowed = self._client.call(PAYMENT_TOKEN, "allowance", self.account, disputes)
        return None if allowed >= units else Call(PAYMENT_TOKEN, "approve", (disputes, units))

    def reservation(self, call: Call) -> Hash32:
        called = to_hash(keccak(_call_data(call)))
        return to_hash(keccak(words(self.account, called)))

    def refusal(self, call: Call) -> str:
        try:
            with node_errors():
                self._affordable_gas(call)
        except (Reverted, TooExpensive) as error:
            return str(error)
        return ""

    def send(self, calls: Sequence[Call]) -> list[CallResult]:
        if not calls:
            return []
        with node_errors():
            try:
                fees = self._affordable_fees()
            except TooExpensive as error:
                return [CallResult(call, None, str(error)) for call in calls]
            nonce, head = self._node.num_transactions(self.account), self._node.head().number
            pooled: list[_Pooled | CallResult] = []
            for call in calls:
                submitted = self._submit(call, nonce, fees, head)
                nonce = submitted.nonce + 1 if isinstance(submitted, _Pooled) else nonce
                pooled.append(submitted)
            return [p if isinstance(p, CallResult) else self._wait(p) for p in pooled]

    def _submit(self, call: Call, nonce: int, fees: Fees, head: int) -> _Pooled | CallResult:
        """Put the call into the pool, or return why it is not sent."""
        try:
            gas = self._affordable_gas(call)
        except Reverted as error:
            return CallResult(call, None, str(error), error.error or "Reverted")
        except TooExpensive as error:
            return CallResult(call, None, str(error))
        return self._broadcast(_Pooled(call, nonce, gas, fees, head))

    def _affordable_gas(self, call: Call) -> int:
        """Gas limit of the call. Errors: `Reverted` if it would fail now, `TooExpensive`."""
        gas = self._client.estimate_gas(call.contract, call.function, _call_data(call), self.account)
        if gas > self._limits.gas:
            raise TooExpensive(f"it needs {gas} gas, above the limit of {self._limits.gas}")
        return gas

    def _affordable_fees(self) -> Fees:
        """The node's suggestion, capped at the limit. Errors: `TooExpensive` if no block takes that now."""
        fees, limit = self._node.fees(), self._limits.price
        price = current_gas_price(fees)
        if price > limit:
            raise TooExpensive(f"gas costs {price} wei, above the limit of {limit}")
        return Fees(min(fees.max_fee, limit), fees.priority_fee)

    def _broadcast(self, pooled: _Pooled) -> _Pooled:
        for _ in range(NONCE_TRIES):
            if self._sign_and_send(pooled):
                return pooled
            self._pause()
            pooled.nonce = self._node.num_transactions(self.account)
        raise Unavailable(f"the node takes no transaction of {self.account}")

    def _sign_and_send(self, pooled: _Pooled) -> bool:
        """Returns False if the pool refuses the transaction."""
        signed = sign(
            self._signer,
            UnsignedTransaction(
                chain_id=self._client.chain_id,
                nonce=pooled.nonce,
                to=self._client.address(pooled.call.contract),
                data=_call_data(pooled.call),
                gas=pooled.gas,
                fees=pooled.fees,
            ),
        )
        try:
            self._node.broadcast(signed.raw)
        except RpcError:
            if not self._node.knows(signed.hash):
                return False
        pooled.hashes.append(signed.hash)
        return True

    def _wait(self, pooled: _Pooled) -> CallResult:
        until = time.monotonic() + MINED_SECONDS
        while (tx_receipt := self._find(pooled)) is None:
            if time.monotonic() > until or (self._stop is not None and self._stop.is_set()):
                return CallResult(pooled.call, pooled.hashes[-1], "it is not mined yet")
            self._replace_if_stuck(pooled)
            self._pause()
        if tx_receipt.is_success:
            return CallResult(pooled.call, tx_receipt.tx_hash)
        failure = self._failure(pooled, tx_receipt)
        return CallResult(pooled.call, tx_receipt.tx_hash, str(failure), failure.error or "Reverted")

    def _find(self, pooled: _Pooled) -> TxReceipt | None:
        return next(filter(None, map(self._node.tx_receipt, reversed(pooled.hashes))), None)

    def _replace_if_stuck(self, pooled: _Pooled) -> None:
        head, fees = self._node.head().number, raised(pooled.fees)
        if head - pooled.sent_at_block >= STUCK_BLOCKS and fees.max_fee <= self._limits.price:
            pooled.fees, pooled.sent_at_block = fees, head
            self._sign_and_send(pooled)

    def _failure(self, pooled: _Pooled, tx_receipt: TxReceipt) -> Reverted:
        call, data = pooled.call, _call_data(pooled.call)
        return failure_of(
            tx_receipt,
            pooled.gas,
            lambda block: self._client.simulate(
                call.contract, call.function, data, block, sender=self.account
            ),
        )

    def _pause(self) -> None:
        if self._stop is None:
            time.sleep(POLL_SECONDS)
        else:
            self._stop.wait(POLL_SECONDS)


@contextmanager
def node_errors() -> Iterator[None]:
    """Turn a node's `RpcError` into `Unavailable`, so that the caller retries."""
    try:
        yield
    except RpcError as error:
        raise Unavailable(f"the chain's node refuses: {error}") from error


def _call_data(call: Call) -> bytes:
    return encode_call(call.contract, call.function, call.args)
