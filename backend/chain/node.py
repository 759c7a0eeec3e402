"""Typed client of one EVM node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from backend.chain.rpc import Rpc, RpcError
from backend.domain.chain import BlockRef
from backend.domain.errors import Unavailable
from backend.domain.ids import ZERO_ACCOUNT, Account, Hash32

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

UNKNOWN_BLOCK = Hash32("0x" + 32 * "5a")
"""A hash that no block has."""


@dataclass(frozen=True, slots=True)
class Log:
    """One raw log of the canonical chain."""

    address: Account
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: Hash32
    log_index: int
    tx_hash: Hash32
    timestamp: int


@dataclass(frozen=True, slots=True)
class TxReceipt:
    """Receipt of a mined transaction."""

    tx_hash: Hash32
    block_number: int
    block_hash: Hash32
    is_success: bool
    contract_address: Account | None
    gas_used: int


@dataclass(frozen=True, slots=True)
class Fees:
    """EIP-1559 fees, wei per gas."""

    max_fee: int
    priority_fee: int


class Node:
    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self._block_timestamp = lru_cache(maxsize=1024)(self._ask_timestamp)

    @classmethod
    def connect(cls, url: str) -> Self:
        return cls(Rpc(url))

    @cached_property
    def chain_id(self) -> int:
        return int(self.rpc.request("eth_chainId"), 16)

    def head(self) -> BlockRef:
        block = self._block("latest")
        if block is None:
            raise Unavailable(f"the node at {self.rpc.name} has no blocks")
        return block

    def block(self, number: int) -> BlockRef | None:
        return self._block(hex(number))

    def blocks(self, first: int, last: int) -> list[BlockRef]:
        """Blocks `first` to `last`. Errors: `RpcError` if the node does not have one of them."""
        method, numbers = "eth_getBlockByNumber", range(first, last + 1)
        found = self.rpc.batch(method, [(hex(number), False) for number in numbers])
        if None in found:
            raise RpcError(method, {"message": f"the node does not have block {first + found.index(None)}"})
        return list(map(_block_ref, found))

    def logs(self, addresses: Iterable[Account], first: int, last: int) -> list[Log]:
        """Logs of these contracts in blocks `first` to `last`, by block and log index.

        A node may leave out the blocks that it does not have yet, without an error.
        """
        query = {"address": list(addresses), "fromBlock": hex(first), "toBlock": hex(last)}
        found = self.rpc.request("eth_getLogs", query)
        return _sorted(_log(raw, self._timestamp(raw)) for raw in found if not raw.get("removed"))

    def block_logs(self, addresses: Iterable[Account], blocks: Sequence[BlockRef]) -> list[list[Log]]:
        """Logs of these contracts in each of the blocks, by log index. Source: EIP-234.

        Errors: `RpcError` if the node does not have one of the blocks.
        """
        wanted = list(addresses)
        queries = [({"address": wanted, "blockHash": block.hash},) for block in blocks]
        found = zip(blocks, self.rpc.batch("eth_getLogs", queries), strict=True)
        return [_sorted(_log(raw, block.timestamp) for raw in logs) for block, logs in found]

    def hides_missing_blocks(self, addresses: Iterable[Account]) -> bool:
        """Whether the node answers for logs of a block that it does not have. EIP-234 requires an error."""
        try:
            found = self.rpc.request("eth_getLogs", {"address": list(addresses), "blockHash": UNKNOWN_BLOCK})
        except RpcError:
            return False
        return found is not None

    def call(
        self,
        to: Account,
        data: bytes,
        block: int | None = None,
        sender: Account | None = None,
        value: int = 0,
    ) -> bytes:
        tag = "latest" if block is None else hex(block)
        return _bytes(self.rpc.request("eth_call", _call(to, data, sender, value), tag))

    def estimate_gas(self, to: Account, data: bytes, sender: Account, value: int, cap: int | None) -> int:
        """Gas that the call needs, on the state after the pending transactions. Errors: `RpcError`, also for
        a call that needs more than `cap`, which the node does not run further; None: the node's own limit.
        """
        call = _call(to, data, sender, value) | ({} if cap is None else {"gas": hex(cap)})
        return int(self.rpc.request("eth_estimateGas", call, "pending"), 16)

    def num_block_transactions(self, block: int) -> int:
        """Number of transactions in a block."""
        return int(self.rpc.request("eth_getBlockTransactionCountByNumber", hex(block)), 16)

    def code(self, account: Account) -> str:
        """Contract code as 0x-hex; "0x" for an account without code."""
        text: str = self.rpc.request("eth_getCode", account, "latest")
        return text

    def balance(self, account: Account) -> int:
        """Balance of the chain's own coin, in wei."""
        return int(self.rpc.request("eth_getBalance", account, "latest"), 16)

    def num_transactions(self, account: Account, block: int | None = None) -> int:
        """The account's next nonce, pending transactions included, or its nonce after a block."""
        tag = "pending" if block is None else hex(block)
        return int(self.rpc.request("eth_getTransactionCount", account, tag), 16)

    def fees(self) -> Fees:
        """The node's suggested tip, and a maximum of twice the base fee plus the tip.

        The base fee doubles in six full blocks (EIP-1559).
        """
        tip = int(self.rpc.request("eth_maxPriorityFeePerGas"), 16)
        base = int(self.rpc.request("eth_getBlockByNumber", "latest", False).get("baseFeePerGas", "0x0"), 16)
        return Fees(max_fee=2 * base + tip, priority_fee=tip)

    def paid_tip(self, blocks: int) -> int:
        """The tip that half of the gas of each of the newest blocks paid, or more; 0 if one of them is empty.

        Errors: `RpcError` or `Unavailable` if the node does not keep the history of fees.
        """
        history = self.rpc.request("eth_feeHistory", hex(blocks), "latest", [50])
        try:
            return min((int(median, 16) for (median,) in history.get("reward") or ()), default=0)
        except (AttributeError, TypeError, ValueError) as error:
            raise Unavailable(f"the node at {self.rpc.name} answers eth_feeHistory without tips") from error

    def broadcast(self, raw: str) -> None:
        """Send a signed transaction. Errors: `RpcError` if the pool refuses it or already has it."""
        self.rpc.request("eth_sendRawTransaction", raw)

    def knows(self, tx_hash: Hash32) -> bool:
        """Whether the node has the transaction, mined or pending."""
        return self.rpc.request("eth_getTransactionByHash", tx_hash) is not None

    def transaction(self, tx_hash: Hash32) -> tuple[Account, str] | None:
        """Receiver (the zero account for a contract creation) and call data; None if it is unknown."""
        raw = self.rpc.request("eth_getTransactionByHash", tx_hash)
        return None if raw is None else (Account((raw["to"] or ZERO_ACCOUNT).lower()), raw["input"])

    def sent_in(self, block: int, account: Account, nonce: int) -> Hash32 | None:
        """Hash of the account's transaction with this nonce in a block, if any."""
        raw = self.rpc.request("eth_getBlockByNumber", hex(block), True)
        sent = (one["hash"] for one in (raw or {}).get("transactions", ()) if _is_by(one, account, nonce))
        return next(map(Hash32, sent), None)

    def tx_receipt(self, tx_hash: Hash32) -> TxReceipt | None:
        """None until it is mined."""
        raw = self.rpc.request("eth_getTransactionReceipt", tx_hash)
        if raw is None or raw["blockHash"] is None:
            return None
        created = raw.get("contractAddress")
        return TxReceipt(
            tx_hash=tx_hash,
            block_number=int(raw["blockNumber"], 16),
            block_hash=Hash32(raw["blockHash"]),
            is_success=int(raw["status"], 16) == 1,
            contract_address=None if created is None else Account(created.lower()),
            gas_used=int(raw["gasUsed"], 16),
        )

    def close(self) -> None:
        self.rpc.close()

    def _timestamp(self, log: dict[str, Any]) -> int:
        # Newer nodes include it in the log; for others the block is read once.
        if "blockTimestamp" in log:
            return int(log["blockTimestamp"], 16)
        return self._block_timestamp(Hash32(log["blockHash"]))

    def _ask_timestamp(self, block_hash: Hash32) -> int:
        block = self._block(block_hash, "eth_getBlockByHash")
        if block is None:
            raise Unavailable(f"the node at {self.rpc.name} does not have block {block_hash}")
        return block.timestamp

    def _block(self, block: str, method: str = "eth_getBlockByNumber") -> BlockRef | None:
        raw = self.rpc.request(method, block, False)
        return None if raw is None else _block_ref(raw)


def _block_ref(raw: dict[str, Any]) -> BlockRef:
    return BlockRef(
        number=int(raw["number"], 16),
        hash=Hash32(raw["hash"]),
        parent_hash=Hash32(raw["parentHash"]),
        timestamp=int(raw["timestamp"], 16),
    )


def _call(to: Account, data: bytes, sender: Account | None, value: int = 0) -> dict[str, Any]:
    call = {"to": to, "data": "0x" + data.hex(), "value": hex(value)}
    return call if sender is None else call | {"from": sender}


def _is_by(transaction: dict[str, Any], account: Account, nonce: int) -> bool:
    return transaction["from"].lower() == account and int(transaction["nonce"], 16) == nonce


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _sorted(logs: Iterable[Log]) -> list[Log]:
    return sorted(logs, key=lambda log: (log.block_number, log.log_index))


def _log(raw: dict[str, Any], timestamp: int) -> Log:
    return Log(
        address=Account(raw["address"].lower()),
        topics=tuple(_bytes(topic) for topic in raw["topics"]),
        data=_bytes(raw["data"]),
        block_number=int(raw["blockNumber"], 16),
        block_hash=Hash32(raw["blockHash"]),
        log_index=int(raw["logIndex"], 16),
        tx_hash=Hash32(raw["transactionHash"]),
        timestamp=timestamp,
    )
