"""An installation's folder with payers, held session keys and one adapter of many contributors.

Its view of the chain is made from events, as the indexer would have written them; there is no chain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.bootstrap import BaseFacts, Installation
from backend.chain.deploy import save
from backend.chain.keys import LocalSigner
from backend.db.migrate import upgrade
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.content import cid_of
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.hashing import (
    accepted_hash,
    accepted_words,
    keccak,
    record_argument,
    snapshot_id,
    to_hash,
    version_id,
)
from backend.domain.ids import ZERO_HASH, Account, DatanetId, Hash32
from backend.domain.receipt import VersionRecord
from backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import ChannelId

CONTRACTS = (
    *("DatasetRegistry", "AdapterRegistry", "PaymentVault", "Parameters", "OperatorRegistry"),
    *("Settlement", "Disputes", "MarketGovernor", "TestUSD"),
)
NUM_PAYERS = 100
BALANCE = 10**30
"""Micro-units: more than any run spends."""
DATANET = DatanetId(1)


@dataclass(frozen=True, slots=True)
class Paying:
    """A payer with a funded channel, and the secret of an API key."""

    account: Account
    channel: ChannelId
    secret: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Furnished:
    """What a run needs to know of the installation: the adapter's name and everybody who may ask it."""

    model: str
    payers: tuple[Paying, ...]


def settings(home: Path, **changes: Any) -> Settings:
    # The view of the chain does not move on: nothing is as old as it allows.
    return Settings(home=home, max_lag_seconds=7 * 86_400, **changes)


def found(home: Path) -> None:
    """The files that an installation begins with."""
    home.mkdir(parents=True)
    addresses = {name: some_account(name) for name in CONTRACTS}
    save(Deployment(LOCAL_CHAIN_ID, 1, some_hash("block 1"), addresses), home / "deployment.json")
    Installation(settings(home)).note_base(BaseFacts("base", some_hash("base"), str(home)))


def furnish(installation: Installation, num_contributors: int) -> Furnished:
    """Migrate the database, tell it of the adapter and of `NUM_PAYERS` payers, each with an API key."""
    upgrade(installation.database.engine)
    version, events = _adapter(num_contributors)
    market = installation.market
    channels = {
        payer: market.channel(payer) for payer in (some_account(f"payer {n}") for n in range(NUM_PAYERS))
    }
    for payer, channel in channels.items():
        events += _channel(payer, channel, market.operator, market.collector)
    with installation.database.begin() as tx:
        cursor = BlockRef(2, some_hash("block 2"), some_hash("block 1"), int(time.time()))
        tx.event_log.append([_event(number, *told) for number, told in enumerate(events)], cursor)
        for channel in channels.values():
            tx.channels.add_held_key(channel, some_account(f"session key of {channel}"))
    folder = installation.settings.home / "adapters" / cid_of(version.cid_digest)
    folder.mkdir(parents=True)  # empty: with no attribution index every contribution counts alike
    keys = {payer: installation.api_keys.create(payer, "benchmark") for payer in channels}
    payers = (Paying(p, c, keys[p].secret, keys[p].key.id) for p, c in channels.items())
    return Furnished(version_id(version), tuple(payers))


def some_hash(label: str) -> Hash32:
    return to_hash(keccak(label.encode()))


def some_account(label: str) -> Account:
    return LocalSigner(keccak(label.encode())).account


Told = tuple[str, str, dict[str, Any]]
"""Contract, event and arguments."""


def _event(number: int, contract: str, name: str, args: dict[str, Any]) -> ChainEvent:
    block = 2, some_hash("block 2")
    return ChainEvent(*block, number, some_hash("transaction"), int(time.time()), contract, name, args)


def _adapter(num_contributors: int) -> tuple[VersionRecord, list[Told]]:
    bits = [True] * num_contributors
    accepted = accepted_hash(bits)
    snapshot = snapshot_id(DATANET, num_contributors, accepted)
    record = VersionRecord(
        creator=some_account("creator"),
        name="adapter",
        adapter_digest=some_hash("adapter"),
        cid_digest=some_hash("folder"),
        base_model=some_hash("base"),
        snapshots=(snapshot,),
        prompt_price=1_000_000,
        completion_price=3_000_000,
        operator_ppm=300_000,
        creator_ppm=200_000,
    )
    argument = record_argument(record)
    numbers = {name: int(argument[name]) for name in argument if name.endswith(("Price", "Ppm"))}
    frozen = {"snapshotId": snapshot, "datanetId": DATANET, "count": num_contributors}
    frozen |= {"acceptedHash": accepted, "accepted": "0x" + accepted_words(bits).hex()}
    named = {"versionId": version_id(record), "creator": record.creator, "name": argument["name"]}
    return record, [
        *(_contribution(index) for index in range(num_contributors)),
        ("DatasetRegistry", "SnapshotFrozen", frozen),
        ("AdapterRegistry", "VersionRegistered", named | {"record": argument | numbers}),
    ]


def _contribution(index: int) -> Told:
    args = {"datanetId": DATANET, "index": index, "contributor": some_account(f"contributor {index}")}
    args |= {"contentHash": some_hash(f"content {index}"), "cidDigest": some_hash(f"data {index}")}
    return "DatasetRegistry", "ContributionRecorded", args | {"licence": ZERO_HASH, "rows": 1}


def _channel(payer: Account, channel: ChannelId, operator: Account, collector: Account) -> list[Told]:
    opened = {"channelId": channel, "payer": payer, "operator": operator, "collector": collector}
    key = some_account(f"session key of {channel}")
    granted = {"channelId": channel, "key": key, "cap": BALANCE, "expiry": int(time.time()) + 86_400}
    return [
        ("PaymentVault", "ChannelOpened", opened),
        ("PaymentVault", "Deposited", {"channelId": channel, "amount": BALANCE}),
        ("PaymentVault", "SessionGranted", granted),
    ]
