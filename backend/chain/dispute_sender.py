"""Sends disputes' calls with one key: tried first, priced within limits, several in the pool at once.

Nothing is stored: what was sent shows on the chain, and a call that waits in the pool makes its twin revert
when that is tried on top of it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.chain.contracts import interface
from backend.chain.keys import sign_transaction
from backend.chain.node import Fees
from backend.chain.rpc import RpcError
from backend.domain.chain import Reverted
from backend.domain.deployment import PAYMENT_TOKEN
from backend.domain.errors import Unavailable
from backend.domain.hashing import keccak, to_hash, words
from backend.domain.transactions import Call
from backend.ports.disputes import Sent

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from backend.chain.client import ChainClient
    from backend.chain.node import TxReceipt
    from backend.domain.ids import Account, Hash32
    from backend.ports.chain import Signer

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 120.0
"""A call that is not mined by then is left to the pool; its twin, tried later, reverts while it waits."""
STUCK_BLOCKS = 5
"""Blocks that pass without our transaction before it is sent again with higher fees."""
NONCE_TRIES = 5
"""Another process may send with the same key: whoever comes second takes the next nonce."""


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
    """Implements `backend.ports.disputes.DisputeSender`. Set `stop` to end all waiting."""

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
        called = to_hash(keccak(_data(call)))
        return to_hash(keccak(words(self.account, called)))

    def refusal(self, call: Call) -> str:
        try:
            with node_errors():
                self._affordable_gas(call)
        except (Reverted, TooExpensive) as refused:
            return str(refused)
        return ""

    def send(self, calls: Sequence[Call]) -> list[Sent]:
        if not calls:
            return []
        with node_errors():
            try:
                fees = self._affordable_fees()
            except TooExpensive as refused:
                return [Sent(call, None, str(refused)) for call in calls]
            nonce, head = self._node.num_transactions(self.account), self._node.head().number
            pooled: list[_Pooled | Sent] = []
            for call in calls:
                put = self._put(call, nonce, fees, head)
                nonce = put.nonce + 1 if isinstance(put, _Pooled) else nonce
                pooled.append(put)
            return [p if isinstance(p, Sent) else self._wait(p) for p in pooled]

    def _put(self, call: Call, nonce: int, fees: Fees, head: int) -> _Pooled | Sent:
        """Into the pool, or why not."""
        try:
            gas = self._affordable_gas(call)
        except Reverted as refused:
            return Sent(call, None, str(refused), refused.error or "Reverted")
        except TooExpensive as refused:
            return Sent(call, None, str(refused))
        return self._broadcast(_Pooled(call, nonce, gas, fees, head))

    def _affordable_gas(self, call: Call) -> int:
        """`Reverted` if the call would fail now; `TooExpensive`."""
        gas = self._client.estimate_gas(call.contract, call.function, _data(call), self.account)
        if gas > self._limits.gas:
            raise TooExpensive(f"it needs {gas} gas, above the limit of {self._limits.gas}")
        return gas

    def _affordable_fees(self) -> Fees:
        """The node's suggestion, cut to the limit. `TooExpensive` if no block takes that now."""
        fees, limit = self._node.fees(), self._limits.price
        base = (fees.max_fee - fees.priority_fee) // 2
        if base + fees.priority_fee > limit:
            raise TooExpensive(f"gas costs {base + fees.priority_fee} wei, above the limit of {limit}")
        return Fees(min(fees.max_fee, limit), fees.priority_fee)

    def _broadcast(self, pooled: _Pooled) -> _Pooled:
        for _ in range(NONCE_TRIES):
            if self._sign_and_send(pooled):
                return pooled
            self._pause()
            pooled.nonce = self._node.num_transactions(self.account)
        raise Unavailable(f"the node takes no transaction of {self.account}")

    def _sign_and_send(self, pooled: _Pooled) -> bool:
        """False if the pool would not have it."""
        raw, tx_hash = sign_transaction(
            self._signer,
            {
                "chainId": self._client.chain_id,
                "nonce": pooled.nonce,
                "to": self._client.address(pooled.call.contract),
                "value": 0,
                "data": "0x" + _data(pooled.call).hex(),
                "gas": pooled.gas,
                "maxFeePerGas": pooled.fees.max_fee,
                "maxPriorityFeePerGas": pooled.fees.priority_fee,
            },
        )
        try:
            self._node.broadcast(raw)
        except RpcError:
            if not self._node.knows(tx_hash):
                return False
        pooled.hashes.append(tx_hash)
        return True

    def _wait(self, pooled: _Pooled) -> Sent:
        until = time.monotonic() + PATIENCE_SECONDS
        while (found := self._find(pooled)) is None:
            if time.monotonic() > until or (self._stop is not None and self._stop.is_set()):
                return Sent(pooled.call, pooled.hashes[-1], "it is not mined yet")
            self._raise_fees(pooled)
            self._pause()
        if found.is_success:
            return Sent(pooled.call, found.tx_hash)
        return self._failed(pooled.call, found)

    def _find(self, pooled: _Pooled) -> TxReceipt | None:
        return next(filter(None, map(self._node.tx_receipt, reversed(pooled.hashes))), None)

    def _raise_fees(self, pooled: _Pooled) -> None:
        """Where blocks pass it by: the same with both fees an eighth higher, the least that pools accept."""
        head = self._node.head().number
        raised = Fees(*(fee + -(-fee // 8) for fee in (pooled.fees.max_fee, pooled.fees.priority_fee)))
        if head - pooled.sent_at_block >= STUCK_BLOCKS and raised.max_fee <= self._limits.price:
            pooled.fees, pooled.sent_at_block = raised, head
            self._sign_and_send(pooled)

    def _failed(self, call: Call, found: TxReceipt) -> Sent:
        """Why a mined call failed, by running it once more."""
        try:
            self._client.simulate(
                call.contract, call.function, _data(call), found.block_number, sender=self.account
            )
        except Reverted as refused:
            return Sent(call, found.tx_hash, str(refused), refused.error or "Reverted")
        return Sent(call, found.tx_hash, "it failed for a reason that is gone now")

    def _pause(self) -> None:
        if self._stop is None:
            time.sleep(POLL_SECONDS)
        else:
            self._stop.wait(POLL_SECONDS)


@contextmanager
def node_errors() -> Iterator[None]:
    """A node's refusals as `Unavailable`: whoever asked may ask again."""
    try:
        yield
    except RpcError as error:
        raise Unavailable(f"the chain's node refuses: {error}") from error


def _data(call: Call) -> bytes:
    return interface(call.contract).function(call.function, call.args).encode(call.args)
