"""A deployed market as the chain has it at one block, and what a check finds there."""

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
    from pathlib import Path

    from backend.chain.node import Log, Node
    from backend.deployment.record import Record
    from backend.domain.chain import BlockRef
    from backend.domain.ids import Account, Hash32

LOGS_AT_ONCE = 10_000
"""Blocks a query: what most public endpoints allow at least; halved where one allows less."""


class Severity(StrEnum):
    OFF = "off"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject`: the contract, or the matter."""

    severity: Severity
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.subject}: {self.message}"


def off(subject: str, message: str) -> Finding:
    return Finding(Severity.OFF, subject, message)


def warning(subject: str, message: str) -> Finding:
    return Finding(Severity.WARNING, subject, message)


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    args: dict[str, Any]
    tx_hash: Hash32


class UnreadableError(Conflict):
    """A contract does not answer as its interface says: it is another one, or none."""


class Reading:
    """Answers from one block, so that they fit each other."""

    def __init__(self, node: Node, record: Record, artifacts: Path) -> None:
        self.node, self.record, self.artifacts = node, record, artifacts
        self._events: dict[str, list[Event]] = {}

    @cached_property
    def head(self) -> BlockRef:
        return self.node.head()

    def at(self, contract: str) -> Account:
        """Errors: `UnreadableError` where the record lacks the contract."""
        try:
            return self.record.addresses[contract]
        except KeyError:
            raise UnreadableError(f"the record has no {contract}", param=contract) from None

    def ask(self, contract: str, function: str, *args: Any) -> Any:
        entry = interface(contract).function(function, args)
        try:
            result = self.node.call(self.at(contract), entry.encode(args), self.head.number)
            return entry.decode_result(result)
        except (RpcError, DecodingError, OverflowError) as error:
            raise UnreadableError(f"does not answer {function}: {error}", param=contract) from error

    def code(self, account: Account) -> bytes:
        text: str = self.node.rpc.request("eth_getCode", account, hex(self.head.number))
        return bytes.fromhex(text[2:])

    def events(self, contract: str, *names: str) -> list[Event]:
        """All that the contract ever logged under these names, oldest first."""
        if contract not in self._events:
            logs = all_logs(self.node, self.at(contract), self._born(contract), self.head.number)
            self._events[contract] = [event for log in logs if (event := _event(contract, log))]
        return [event for event in self._events[contract] if event.name in names]

    def _born(self, contract: str) -> int:
        """By the chain's word: a record that named a later block would hide what was granted before."""
        tx_hash = self.record.transactions.get(contract)
        tx_receipt = None if tx_hash is None else self.node.tx_receipt(tx_hash)
        created_it = tx_receipt is not None and tx_receipt.contract_address == self.at(contract)
        return tx_receipt.block_number if tx_receipt and created_it else 0


def all_logs(node: Node, account: Account, first: int, last: int) -> list[Log]:
    """Of blocks `first` to `last`, in as many queries as the node needs. Errors: `RpcError`."""
    found: list[Log] = []
    size = LOGS_AT_ONCE
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
