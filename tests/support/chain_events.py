"""Events of the contracts, and blocks that contain them, for tests of the projections."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, select

from backend.db.tables.chain import Projection
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.disputes.witnesses import Fault, Tree
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from backend.db.unit_of_work import UnitOfWork

Event = tuple[str, str, dict[str, Any]]
"""Contract, name and arguments."""
ALICE, BOB, OPERATOR = (Account(f"0x{i:040x}") for i in range(1, 4))


def word(value: int) -> Hash32:
    return Hash32(f"0x{value:064x}")


def text(value: str) -> str:
    return "0x" + value.encode().ljust(32, b"\0").hex()


def take_in(tx: UnitOfWork, *events: Event) -> None:
    """One more block with these events, at ten seconds a block."""
    cursor = tx.event_log.cursor()
    number = 1 if cursor is None else cursor.number + 1
    block = BlockRef(number, word(number), word(number - 1), number * 10)
    tx.event_log.append(
        [
            ChainEvent(number, block.hash, i, word(1000 + i), block.timestamp, *event)
            for i, event in enumerate(events)
        ],
        block,
    )


def state_hash(tx: UnitOfWork) -> Hash32:
    """sha-256 over every projection row in order of table and key: equal states have equal hashes."""
    digest = hashlib.sha256()
    for table in sorted(Projection.__subclasses__(), key=lambda table: table.__tablename__):
        mapper = inspect(table)
        names = sorted(column.key for column in mapper.column_attrs)
        for row in tx.session.scalars(select(table).order_by(*mapper.primary_key)):
            values = {name: getattr(row, name) for name in names}
            line = json.dumps([table.__tablename__, values], sort_keys=True, separators=(",", ":"))
            digest.update(line.encode() + b"\n")
    return Hash32("0x" + digest.hexdigest())


def committed(number: int, name: int, operator: Account = OPERATOR) -> Event:
    header = {"number": number, "total": 10 * name}
    args = {"operator": operator, "number": number, "batchHash": word(name), "header": header}
    return "Settlement", "BatchCommitted", args


def voided(first: int, last: int, name: int, operator: Account = OPERATOR) -> Event:
    return (
        "Settlement",
        "BatchesVoided",
        {"operator": operator, "first": first, "last": last, "batchHash": word(name)},
    )


def final(number: int, name: int, operator: Account = OPERATOR) -> Event:
    args = {"operator": operator, "number": number, "batchHash": word(name), "finalTotal": 5}
    return "Settlement", "BatchFinalised", args


def refunded(number: int, name: int) -> Event:
    args = {"operator": OPERATOR, "number": number, "batchHash": word(name), "amount": 1}
    return "Settlement", "BatchRefunded", args


def convicted(name: int, challenger: Account) -> list[Event]:
    """Receipt 7 charged a wrong price."""
    fault = {"batchHash": word(name), "receiptIndex": 7, "fault": Fault.PRICE.value}
    args = {"operator": OPERATOR, "number": 2, "batchHash": word(name), "proof": "0xd831810b"}
    return [
        ("Disputes", "ReceiptFaulty", fault),
        ("Disputes", "BatchConvicted", {**args, "challenger": challenger}),
    ]


def collected(channel: int, before: int, start: int, until: int) -> Event:
    span = {"before": before, "from": start, "until": until}
    return "PaymentVault", "Collected", {"channelId": word(channel), **span}


def deposited(channel: int, operator: Account, collector: Account = BOB) -> list[Event]:
    on, parties = {"channelId": word(channel)}, {"payer": ALICE, "operator": operator, "collector": collector}
    return [
        ("PaymentVault", "ChannelOpened", {**on, **parties}),
        ("PaymentVault", "Deposited", {**on, "amount": 100}),
    ]


def demanded(name: int, batch: int, deadline: int) -> Event:
    terms = {"challenger": ALICE, "bond": 2**95, "deadline": deadline, "deadlineBlock": 7}
    ids = {"leafId": word(name), "operator": OPERATOR, "batchHash": word(batch)}
    return "Disputes", "Demanded", {**ids, "tree": Tree.ENTRIES.value, "key": word(5), "demand": terms}


def answered(name: int, batch: int, call: str) -> Event:
    ids = {"leafId": word(name), "operator": OPERATOR, "batchHash": word(batch)}
    return "Disputes", "Answered", {**ids, "call": call}


def proposed(number: int) -> Event:
    lists: dict[str, Any] = {name: [] for name in ("targets", "values", "signatures", "calldatas")}
    instants = {"voteStart": 1, "voteEnd": 2}
    args = {"proposalId": number, "proposer": ALICE, "description": f"Change {number}"}
    return "MarketGovernor", "ProposalCreated", args | lists | instants
