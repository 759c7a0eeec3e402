"""Client of the contracts of one deployment: reads them and prepares transactions."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.chain.node import Node
from backend.chain.rpc import RpcError, node_errors
from backend.chain.transactions import TX_GAS_CAP, call_error, current_gas_price
from backend.domain.chain import ChainEvent, ChainReplaced, Reverted
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import Unavailable
from backend.domain.transactions import SIGNED_CALL_GAS_CAP, SIGNED_CALLS, PreparedTransaction, as_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from backend.chain.node import Log
    from backend.domain.chain import BlockRef
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account, Hash32

GAS_MARGIN_PERCENT = 25
"""Added to gas estimates: state may change before mining, and each inner call withholds 1/64 (EIP-150)."""
ARBITRUM_PROFILE = 3
"""`Profile.Arbitrum` of `IParameters.sol`."""


INDEXED = (
    "DatasetRegistry",
    "AdapterRegistry",
    "PaymentVault",
    "Parameters",
    "OperatorRegistry",
    "Settlement",
    "Disputes",
    "MarketGovernor",
)
"""Contracts whose events are indexed. Tokens are not: their balances are read from the chain."""
IGNORED_EVENTS = {
    ("Disputes", "Reserved"),
    ("Disputes", "CreditChanged"),
    ("Disputes", "CreditWithdrawn"),
}
"""Events without effect on any projection. Ignoring them keeps spam out of the database."""


class ChainClient:
    """Implements `backend.ports.chain.Chain`. Safe to share between threads.

    Errors of each method: `Unavailable` if the node does not answer or refuses; where it says so, `RpcError`
    for a refusal.
    """

    def __init__(self, node: Node, deployment: Deployment) -> None:
        self.node = node
        self.deployment = deployment

    @classmethod
    def connect(cls, url: str, deployment: Deployment) -> Self:
        return cls(Node.connect(url), deployment)

    @property
    def chain_id(self) -> int:
        return self.deployment.chain_id

    def address(self, contract: str) -> Account:
        return self.deployment.address(contract)

    @node_errors()
    def head(self) -> BlockRef:
        return self.node.head()

    @node_errors()
    def block(self, number: int) -> BlockRef | None:
        return self.node.block(number)

    def blocks(self, first: int, last: int) -> list[BlockRef]:
        """Blocks `first` to `last`. Errors: `RpcError` if the node does not have one of them."""
        return self.node.blocks(first, last)

    @node_errors()
    def balance(self, account: Account) -> int:
        return self.node.balance(account)

    @node_errors()
    def gas_price(self) -> int:
        return current_gas_price(self.node.fees())

    @node_errors()
    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        entry = interface(contract).function(function, args)
        result = self.simulate(contract, function, entry.encode(args), block)
        if not result and entry.outputs:
            self.check()
            if self.node.code(self.address(contract)) != "0x":
                raise Reverted(f"{contract} at {self.address(contract)} has no {function}")
            raise self._replaced(f"there is no {contract} at {self.address(contract)}")
        return entry.decode_result(result)

    def simulate(
        self,
        contract: str,
        function: str,
        data: bytes,
        block: int | None = None,
        sender: Account | None = None,
        value: int = 0,
    ) -> bytes:
        """Result of the call on the state after a block, the latest by default. Errors: `Reverted`."""
        try:
            return self.node.call(self.address(contract), data, block, sender, value)
        except RpcError as error:
            raise call_error(contract, function, error) from error

    def events(self, first: int, last: int) -> list[ChainEvent]:
        """Decoded events of the deployment in blocks `first` to `last`, by block and log index.

        A node may leave out the blocks that it does not have yet, without an error. Errors: `RpcError` if it
        refuses the range.
        """
        return self._decoded(self.node.logs(self._indexed, first, last))

    def block_events(self, blocks: Sequence[BlockRef]) -> list[list[ChainEvent]]:
        """Decoded events of the deployment in each of the blocks, by log index. Errors: `RpcError` if the
        node does not have one of the blocks, as long as it passes `check_block_logs`.
        """
        return list(map(self._decoded, self.node.block_logs(self._indexed, blocks)))

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None, value: int = 0
    ) -> PreparedTransaction:
        entry = interface(contract).function(function, args)
        data = entry.encode(args)
        gas = None if sender is None else self.estimate_gas(contract, function, data, sender, value)
        return PreparedTransaction(
            chain_id=self.chain_id,
            to=self.address(contract),
            data="0x" + data.hex(),
            value=value,
            decoded={"contract": contract, "function": entry.name, "args": as_json(entry.plain_args(args))},
            gas=gas,
        )

    def decode(self, to: Account, data: str) -> Mapping[str, Any]:
        names = {address: name for name, address in self.deployment.addresses.items()}
        call = interface(names[to]).decode_call(bytes.fromhex(data[2:])) if to in names else None
        if call is None:
            return {"to": to, "data": data}
        function, args = call
        return {"contract": names[to], "function": function, "args": as_json(args)}

    @node_errors()
    def called(self, tx_hash: Hash32) -> Mapping[str, Any] | None:
        call = self.node.transaction(tx_hash)
        return None if call is None else self.decode(*call)

    @node_errors()
    def outcome(self, tx_hash: Hash32) -> tuple[int, bool] | None:
        mined = self.node.tx_receipt(tx_hash)
        return None if mined is None else (mined.block_number, mined.is_success)

    def estimate_gas(self, contract: str, function: str, data: bytes, sender: Account, value: int = 0) -> int:
        """Gas limit with a margin, on the state after the pending transactions.

        Errors: `Reverted`, also for a call that needs more than it may have: more than a transaction may have
        would use up a nonce and never be mined.
        """
        cap = SIGNED_CALL_GAS_CAP if function in SIGNED_CALLS else self._gas_cap
        try:
            gas = self.node.estimate_gas(self.address(contract), data, sender, value, cap)
        except RpcError as error:
            raise call_error(contract, function, error) from error
        if cap is not None and gas > cap:
            raise Reverted(f"{contract}.{function} needs {gas} gas; its transaction may have {cap}")
        return _with_margin(gas, cap)

    def filler_gas(self, account: Account) -> int:
        """Gas limit of a transaction of `account` to itself that only uses up a nonce. Errors: `RpcError`."""
        return _with_margin(self.node.estimate_gas(account, b"", account, 0, self._gas_cap), self._gas_cap)

    @cached_property
    def _gas_cap(self) -> int | None:
        """Highest gas limit of a transaction. None on Arbitrum's chains, where the gas includes the fee of
        the data and only the node knows the limit of the rest.
        """
        return None if self.call("Parameters", "profile") == ARBITRUM_PROFILE else TX_GAS_CAP

    @node_errors()
    def check(self) -> None:
        """Errors: `ChainReplaced` if the node is on another chain than the deployment."""
        expected = self.deployment
        if (chain_id := self.node.chain_id) != expected.chain_id:
            raise self._replaced(f"the chain id is {chain_id}, not {expected.chain_id}")
        block = self.node.block(expected.block_number)
        if block is None or block.hash != expected.block_hash:
            block_hash = "missing" if block is None else block.hash
            raise self._replaced(f"block {expected.block_number} is {block_hash}, not {expected.block_hash}")

    def check_block_logs(self) -> None:
        """Errors: `Unavailable` if the node is of a kind that hides that it does not have a block. The local
        chain has one node, which has all blocks.
        """
        if self.chain_id != LOCAL_CHAIN_ID and self.node.hides_missing_blocks(self._indexed):
            raise Unavailable(
                f"the node at {self.node.rpc.name} answers for the logs of a block that it does not have: "
                "events would be lost while it is behind. Upgrade it, or set another LORALEDGER_RPC_URL"
            )

    def close(self) -> None:
        self.node.close()

    @cached_property
    def _indexed(self) -> dict[Account, str]:
        """The indexed contracts' addresses and names."""
        return {self.address(name): name for name in INDEXED}

    def _decoded(self, logs: Sequence[Log]) -> list[ChainEvent]:
        events = (_event(self._indexed[log.address], log) for log in logs)
        return [event for event in events if event is not None]

    def _replaced(self, reason: str) -> ChainReplaced:
        return ChainReplaced(
            f"the chain at {self.node.rpc.name} is not the one that the contracts were deployed to: {reason}",
            details={"rpc": self.node.rpc.name, "expected_block_hash": self.deployment.block_hash},
        )


def _with_margin(gas: int, cap: int | None) -> int:
    limit = gas * (100 + GAS_MARGIN_PERCENT) // 100
    return limit if cap is None else min(limit, cap)


def _event(contract: str, log: Log) -> ChainEvent | None:
    entry = interface(contract).events.get(log.topics[0]) if log.topics else None
    if entry is None or (contract, entry.name) in IGNORED_EVENTS:
        return None
    return ChainEvent(
        block_number=log.block_number,
        block_hash=log.block_hash,
        log_index=log.log_index,
        tx_hash=log.tx_hash,
        timestamp=log.timestamp,
        contract=contract,
        name=entry.name,
        args=entry.decode_log(log.topics, log.data),
    )
