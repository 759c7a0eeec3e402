"""Reads a deployed market from the chain at one block, for checks, and defines their findings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from eth_abi.exceptions import DecodingError

from backend.chain.contracts import interface
from backend.chain.rpc import RpcError
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from backend.chain.node import Log, Node
    from backend.deployment.record import Record
    from backend.domain.chain import BlockRef
    from backend.domain.ids import Account, Hash32

MAX_LOG_RANGE = 10_000
"""Blocks per query of logs, which most public endpoints allow. It is halved where one allows less."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    subject: str
    """Name of a contract, `record` or `market`."""
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.message}"


def error_at(subject: str, message: str) -> Finding:
    return Finding(Severity.ERROR, subject, message)


def warning_at(subject: str, message: str) -> Finding:
    return Finding(Severity.WARNING, subject, message)


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    args: dict[str, Any]
    tx_hash: Hash32


class UnreadableError(Conflict):
    """A contract cannot be read through its interface: other code is at its address, or none."""


class MarketReader:
    """Reads the state after one block, so that all values are consistent."""

    def __init__(self, node: Node, record: Record) -> None:
        self.node, self.record = node, record
        self._events: dict[str, list[Event]] = {}

    @cached_property
    def head(self) -> BlockRef:
        return self.node.head()

    def address(self, contract: str) -> Account:
        """Errors: `UnreadableError` if the record lacks the contract."""
        try:
            return self.record.addresses[contract]
        except KeyError:
            raise UnreadableError(f"the record has no {contract}", param=contract) from None

    def call(self, contract: str, function: str, *args: Any) -> Any:
        entry = interface(contract).function(function, args)
        try:
            result = self.node.call(self.address(contract), entry.encode(args), self.head.number)
            return entry.decode_result(result)
        except (RpcError, DecodingError, OverflowError) as error:
            raise UnreadableError(f"does not answer {function}: {error}", param=contract) from error

    def code(self, account: Account) -> bytes:
        text: str = self.node.rpc.request("eth_getCode", account, hex(self.head.number))
        return bytes.fromhex(text[2:])

    def events(self, contract: str, *names: str) -> list[Event]:
        """All events that the contract ever logged under these names, oldest first."""
        if contract not in self._events:
            logs = read_logs(self.node, self.address(contract), self._created_in(contract), self.head.number)
            self._events[contract] = [event for log in logs if (event := _event(contract, log))]
        return [event for event in self._events[contract] if event.name in names]

    def _created_in(self, contract: str) -> int:
        """The block of the contract's creation, or 0 if unknown.

        It is read from the chain, because a record with a later block would hide roles granted before it.
        """
        tx_hash = self.record.transactions.get(contract)
        tx_receipt = None if tx_hash is None else self.node.tx_receipt(tx_hash)
        is_creation = tx_receipt is not None and tx_receipt.contract_address == self.address(contract)
        return tx_receipt.block_number if tx_receipt and is_creation else 0


def read_logs(node: Node, account: Account, first: int, last: int) -> list[Log]:
    """Logs of blocks `first` to `last`, in ranges that the node accepts. Errors: `RpcError`."""
    found: list[Log] = []
    size = MAX_LOG_RANGE
    while first <= last:
        try:
            found += node.logs([account], first, min(first + size - 1, last))
        except RpcError:
            if size == 1:
                raise
            size //= 2
        else:
            first += size
    return found


def _event(contract: str, log: Log) -> Event | None:
    entry = interface(contract).events.get(log.topics[0]) if log.topics else None
    if entry is None:
        return None
    return Event(entry.name, entry.decode_log(log.topics, log.data), log.tx_hash)
