"""Builds chain events of a market: contract, event name and arguments, as in `ChainEvent`."""

from __future__ import annotations

from typing import Any

from backend.domain.hashing import (
    accepted_hash,
    accepted_words,
    record_argument,
    snapshot_id,
)
from backend.domain.hashing import version_id as id_of
from backend.domain.ids import ZERO_HASH, Account, ChannelId, DatanetId, Hash32
from backend.domain.receipt import VersionRecord
from tools.labels import some_account, some_hash

Event = tuple[str, str, dict[str, Any]]

DATANET = DatanetId(1)
BALANCE = 10**30
"""Micro-units, more than any run spends."""


def version_record(name: str, num_contributors: int) -> VersionRecord:
    """An adapter trained on the first `num_contributors` contributions of `DATANET`."""
    accepted = accepted_hash([True] * num_contributors)
    return VersionRecord(
        creator=some_account("creator"),
        name=name,
        adapter_digest=some_hash(f"weights of {name}"),
        cid_digest=some_hash(f"folder of {name}"),
        base_model=some_hash("base"),
        snapshots=(snapshot_id(DATANET, num_contributors, accepted),),
        prompt_price=1_000_000,
        completion_price=3_000_000,
        operator_ppm=300_000,
        creator_ppm=200_000,
    )


def version_registered(record: VersionRecord) -> Event:
    argument = record_argument(record)
    numbers = {name: int(argument[name]) for name in argument if name.endswith(("Price", "Ppm"))}
    named = {"versionId": id_of(record), "creator": record.creator, "name": argument["name"]}
    return "AdapterRegistry", "VersionRegistered", named | {"record": argument | numbers}


def snapshot_frozen(num_contributors: int) -> Event:
    bits = [True] * num_contributors
    accepted = accepted_hash(bits)
    snapshot = {"snapshotId": snapshot_id(DATANET, num_contributors, accepted), "datanetId": DATANET}
    snapshot |= {"count": num_contributors, "acceptedHash": accepted}
    return "DatasetRegistry", "SnapshotFrozen", snapshot | {"accepted": "0x" + accepted_words(bits).hex()}


def contribution_recorded(index: int) -> Event:
    args = {"datanetId": DATANET, "contributor": some_account(f"contributor {index}")}
    args |= {"contentHash": _content(index), "cidDigest": some_hash(f"data {index}")}
    return "DatasetRegistry", "ContributionRecorded", args | {"licence": ZERO_HASH, "rows": 1}


def contribution_admitted(index: int) -> Event:
    args = {"datanetId": DATANET, "contentHash": _content(index), "index": index}
    return "DatasetRegistry", "ContributionAdmitted", args


def _content(index: int) -> Hash32:
    return some_hash(f"content {index}")


def contribution_reviewed(index: int) -> Event:
    args = {"datanetId": DATANET, "contentHash": _content(index), "curator": some_account("curator")}
    return "DatasetRegistry", "ContributionReviewed", args | {"isAccepted": True, "reason": 0}


def session_key(channel: ChannelId) -> Account:
    return some_account(f"session key of {channel}")


def channel_opened(
    payer: Account, channel: ChannelId, operator: Account, collector: Account, expiry: int
) -> list[Event]:
    """Open a channel with `BALANCE` and a session key that may spend it until `expiry` (Unix seconds)."""
    named = {"channelId": channel, "payer": payer, "operator": operator, "collector": collector}
    granted = {"channelId": channel, "key": session_key(channel), "cap": BALANCE, "expiry": expiry}
    return [
        ("PaymentVault", "ChannelOpened", named),
        ("PaymentVault", "Deposited", {"channelId": channel, "amount": BALANCE}),
        ("PaymentVault", "SessionGranted", granted),
    ]


def channel_collected(channel: ChannelId, until: int) -> Event:
    """Collect one micro-unit."""
    args = {"channelId": channel, "before": until - 1, "from": until - 1, "until": until}
    return "PaymentVault", "Collected", args


def earnings_claimed(operator: Account, number: int) -> Event:
    account = some_account(f"contributor {number}")
    args = {"operator": operator, "account": account, "wallet": account, "amount": 1, "cumulative": 1}
    return "Settlement", "Claimed", args


def batch_committed(operator: Account, number: int) -> list[Event]:
    """Commit a batch and finalise it."""
    numbers = dict.fromkeys(
        ("committedAt", "finalAt", "finalBlock", "total", "cumulativeTotal", "slashUpTo"), number
    )
    counts = dict.fromkeys(("parameterSet", "receiptsCount", "entriesCount", "balancesCount"), 1)
    roots = dict.fromkeys(("receiptsRoot", "entriesRoot", "balancesRoot"), ZERO_HASH)
    roots |= {"spansHash": ZERO_HASH, "dataDigest": ZERO_HASH}
    header = {"operator": operator, "number": number, "parent": ZERO_HASH} | numbers | counts | roots
    named = {"operator": operator, "number": number, "batchHash": some_hash(f"batch {number}")}
    return [
        ("Settlement", "BatchCommitted", named | {"header": header}),
        ("Settlement", "BatchFinalised", named | {"finalTotal": number}),
    ]
