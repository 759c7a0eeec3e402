"""A node whose pool has geth's rules, for tests of the sender's fees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rlp

from backend.chain.node import Fees, TxReceipt
from backend.chain.rpc import RpcError
from backend.domain.chain import BlockRef
from backend.domain.hashing import keccak, to_bytes, to_hash
from backend.domain.money import COIN, GWEI
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.domain.ids import Account, Hash32

CALL_GAS, FILLER_GAS = 1_000_000, 26_250


@dataclass(frozen=True, slots=True)
class Pooled:
    """The fields of a signed transaction that the pool's rules depend on."""

    hash: Hash32
    nonce: int
    fees: Fees
    gas: int
    value: int
    data: bytes

    @classmethod
    def decoded(cls, raw: str) -> Pooled:
        encoded = to_bytes(raw)
        _, nonce, tip, max_fee, gas, _, value, data, *_ = rlp.decode(encoded[1:])
        number = int.from_bytes
        fees = Fees(number(max_fee), number(tip))
        return cls(to_hash(keccak(encoded)), number(nonce), fees, number(gas), number(value), data)


class FakeNode:
    """One account's view of a chain. Blocks take what pays `base_fee` and `least_tip`, and nothing while
    `is_forwarding` is False.
    """

    def __init__(self, base_fee: int = GWEI, tip: int = GWEI // 10) -> None:
        self.base_fee, self.tip, self.least_tip = base_fee, tip, 0
        self.coin, self.fee_cap = 100 * COIN, COIN
        self.is_forwarding = True
        self.number = 100
        self.pool: dict[int, Pooled] = {}
        self.mined: dict[Hash32, tuple[Pooled, int]] = {}

    def head(self) -> BlockRef:
        return BlockRef(
            self.number, some_hash(f"{self.number}"), some_hash(f"{self.number - 1}"), self.number
        )

    def fees(self) -> Fees:
        return Fees(2 * self.base_fee + self.tip, self.tip)

    def paid_tip(self, _blocks: int) -> int:
        return self.least_tip

    def balance(self, _account: Account) -> int:
        return self.coin

    def num_transactions(self, _account: Account, block: int | None = None) -> int:
        if block is not None:
            return sum(at <= block for _, at in self.mined.values())
        nonce = len(self.mined)
        while nonce in self.pool:
            nonce += 1
        return nonce

    def broadcast(self, raw: str) -> None:
        sent = Pooled.decoded(raw)
        if (why := self._refusal(sent)) is not None:
            raise RpcError("eth_sendRawTransaction", {"message": why})
        self.pool[sent.nonce] = sent

    def knows(self, tx_hash: Hash32) -> bool:
        return tx_hash in self.mined or any(one.hash == tx_hash for one in self.pool.values())

    def tx_receipt(self, tx_hash: Hash32) -> TxReceipt | None:
        if tx_hash not in self.mined:
            return None
        found, block = self.mined[tx_hash]
        return TxReceipt(tx_hash, block, some_hash(f"{block}"), True, None, found.gas)

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self.number += 1
            while self._is_next_taken():
                taken = self.pool.pop(len(self.mined))
                self.mined[taken.hash] = (taken, self.number)

    def _is_next_taken(self) -> bool:
        waiting = self.pool.get(len(self.mined))
        if waiting is None or not self.is_forwarding:
            return False
        fees = waiting.fees
        return min(fees.priority_fee, fees.max_fee - self.base_fee) >= self.least_tip

    def _refusal(self, sent: Pooled) -> str | None:
        cost = sent.gas * sent.fees.max_fee
        if self.knows(sent.hash):
            return "already known"
        if sent.nonce < len(self.mined):
            return "nonce too low"
        if cost > self.fee_cap:
            return "tx fee exceeds the configured cap"
        if cost + sent.value > self.coin:
            return "insufficient funds for gas * price + value"
        before = self.pool.get(sent.nonce)
        if before is not None and not _is_bumped(before.fees, sent.fees):
            return "replacement transaction underpriced"
        return None


class FakeClient:
    """The part of `ChainClient` that the sender uses. Every call needs `CALL_GAS`."""

    chain_id = 31337

    def __init__(self, node: FakeNode) -> None:
        self.node = node

    def address(self, contract: str) -> Account:
        return some_account(contract)

    def estimate_gas(self, *_: Any) -> int:
        return CALL_GAS

    def filler_gas(self, _account: Account) -> int:
        return FILLER_GAS


def _is_bumped(before: Fees, after: Fees) -> bool:
    """Both fees are higher, and by a tenth or more."""
    pairs = ((before.max_fee, after.max_fee), (before.priority_fee, after.priority_fee))
    return all(new > old and new * 100 >= old * 110 for old, new in pairs)
