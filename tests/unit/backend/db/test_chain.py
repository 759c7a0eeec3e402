"""What the projections say after events of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.chain import BatchState, BlockRef, ChainEvent
from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database, Work

ALICE, BOB, OPERATOR = (Account(f"0x{i:040x}") for i in range(1, 4))
DATANET = DatanetId(1)


def word(value: int) -> Hash32:
    return Hash32(f"0x{value:064x}")


def text(value: str) -> str:
    return "0x" + value.encode().ljust(32, b"\0").hex()


def take_in(tx: Work, *events: tuple[str, str, dict[str, Any]]) -> None:
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


def contributed(index: int, contributor: Account) -> tuple[str, str, dict[str, Any]]:
    hashes = {"contentHash": word(index), "cidDigest": word(7), "licence": text("MIT")}
    place = {"datanetId": DATANET, "index": index, "contributor": contributor}
    return "DatasetRegistry", "ContributionRecorded", {**place, **hashes, "rows": 9}


def reviewed(index: int, *, is_accepted: bool) -> tuple[str, str, dict[str, Any]]:
    verdict = {"isAccepted": is_accepted, "reason": 0 if is_accepted else 4, "curator": OPERATOR}
    return "DatasetRegistry", "ContributionReviewed", {"datanetId": DATANET, "index": index, **verdict}


def test_datanets_contributions_and_snapshots(database: Database) -> None:
    created = {"datanetId": DATANET, "creator": ALICE, "name": text("law\x01"), "cidDigest": word(5)}
    snapshot = SnapshotId(word(99))
    bits = 1 << 0 | 1 << 2
    frozen = {
        "snapshotId": snapshot,
        "datanetId": DATANET,
        "count": 258,
        "acceptedHash": word(6),
        "accepted": "0x" + word(bits)[2:] + word(2)[2:],
    }
    with database.begin() as tx:
        take_in(tx, ("DatasetRegistry", "DatanetCreated", created))
        take_in(tx, contributed(0, ALICE), contributed(1, BOB), contributed(2, BOB), contributed(257, ALICE))
        take_in(tx, reviewed(0, is_accepted=True), reviewed(1, is_accepted=False))
        take_in(tx, ("DatasetRegistry", "SnapshotFrozen", frozen))
    with database.read() as tx:
        (datanet,) = tx.chain.datanets()
        assert tx.chain.datanet(DATANET) == datanet
        assert (datanet.name, datanet.creator, datanet.num_contributions) == ("law?", ALICE, 4)
        first, second, third, _ = tx.chain.contributions(DATANET)
        assert (first.is_accepted, second.is_accepted, third.is_accepted) == (True, False, None)
        assert (second.reason, second.contributor, second.recorded_at) == (4, BOB, 20)
        assert tx.chain.contribution(DATANET, 1) == second
        known = tx.chain.snapshot(snapshot)
        assert known is not None
        assert known.accepted == (0, 2, 257)
        contributors = [tx.chain.contributor_of(snapshot, i) for i in (0, 1, 2, 257, 258, -1)]
        assert contributors == [ALICE, None, BOB, ALICE, None, None]
        assert tx.chain.contributor_of(SnapshotId(word(1)), 0) is None
        assert tx.chain.datanet(DatanetId(2)) is None


def registered(version: VersionId, creator: Account, name: str) -> tuple[str, str, dict[str, Any]]:
    record = {
        "creator": creator,
        "name": text(name),
        "adapterDigest": word(1),
        "cidDigest": word(2),
        "baseModel": word(3),
        "snapshots": [word(99)],
        "promptPrice": 2**64 - 1,
        "completionPrice": 4,
        "operatorPpm": 300_000,
        "creatorPpm": 100_000,
    }
    args = {"versionId": version, "creator": creator, "name": text(name), "record": record}
    return "AdapterRegistry", "VersionRegistered", args


def test_versions_in_order_of_registration(database: Database) -> None:
    ids = [VersionId(word(i)) for i in (5, 4, 3)]
    with database.begin() as tx:
        take_in(tx, registered(ids[0], ALICE, "legal"), registered(ids[1], ALICE, "legal"))
        take_in(tx, registered(ids[2], BOB, "legal"))
        take_in(tx, ("AdapterRegistry", "VersionDeprecated", {"versionId": ids[0], "creator": ALICE}))
    with database.read() as tx:
        versions = tx.chain.versions(name="legal")
        assert [v.id for v in versions] == ids
        assert [v.is_deprecated for v in versions] == [True, False, False]
        assert [v.id for v in tx.chain.versions(creator=ALICE)] == ids[:2]
        record = tx.chain.version(ids[2])
        assert record == versions[2].record
        assert record is not None
        assert (record.creator, record.name, record.prompt_price) == (BOB, "legal", 2**64 - 1)
        assert record.snapshots == (word(99),)
        assert tx.chain.version(VersionId(word(77))) is None


def test_a_channels_money_and_keys(database: Database) -> None:
    channel = ChannelId(word(1))
    on = {"channelId": channel}
    parties = {"payer": ALICE, "operator": OPERATOR, "collector": BOB}
    with database.begin() as tx:
        take_in(
            tx,
            ("PaymentVault", "Deposited", {**on, **parties, "amount": 100}),
            ("PaymentVault", "SessionGranted", {**on, "key": BOB, "cap": 50, "expiry": 2**64 - 1}),
        )
        take_in(tx, ("PaymentVault", "Collected", {**on, "before": 0, "from": 10, "until": 30}))
        take_in(tx, ("PaymentVault", "ThawStarted", {**on, "amount": 60, "thawedAt": 400}))
    with database.read() as tx:
        known = tx.chain.channel(channel)
        assert known is not None
        assert (known.balance, known.collected, known.thawing, known.thawed_at) == (80, 30, 60, 400)
        assert known.available == 20
        assert tx.chain.channels(payer=ALICE) == tx.chain.channels(operator=OPERATOR) == [known]
        (grant,) = tx.chain.grants(channel)
        assert (grant.key, grant.cap, grant.expiry, grant.revoked_at) == (BOB, 50, 2**64 - 1, None)
    with database.begin() as tx:
        take_in(tx, ("PaymentVault", "Withdrawn", {**on, "payer": ALICE, "amount": 60}))
        take_in(tx, ("PaymentVault", "SessionRevoked", {**on, "key": BOB, "collectableUntil": 900}))
    with database.read() as tx:
        known = tx.chain.channel(channel)
        assert known is not None
        assert (known.balance, known.thawing, known.thawed_at) == (20, 0, 0)
        assert tx.chain.grants(channel)[0].revoked_at == 50


def test_batches_claims_and_operators(database: Database) -> None:
    by = {"operator": OPERATOR}
    batches = [{**by, "number": n, "batchHash": word(n), "header": {"number": n}} for n in (1, 2)]
    claim = {**by, "account": ALICE, "wallet": BOB, "amount": 2**127, "cumulative": 2**127}
    with database.begin() as tx:
        take_in(
            tx,
            ("OperatorRegistry", "EndpointChanged", {**by, "endpoint": "https://a"}),
            ("OperatorRegistry", "ReceiptKeyAdded", {**by, "key": BOB}),
            ("OperatorRegistry", "Staked", {**by, "amount": 10}),
            ("OperatorRegistry", "Unstaked", {**by, "amount": 4}),
        )
        take_in(tx, *(("Settlement", "BatchCommitted", batch) for batch in batches))
        finalised = {**by, "number": 1, "batchHash": word(1), "finalTotal": 5}
        take_in(tx, ("Settlement", "BatchFinalised", finalised), ("Settlement", "Claimed", claim))
    with database.read() as tx:
        operator = tx.chain.operator(OPERATOR)
        assert operator is not None
        assert (operator.endpoint, operator.keys, operator.stake) == ("https://a", (BOB,), 6)
        states = [(b.number, b.state) for b in tx.chain.batches(OPERATOR)]
        assert states == [(1, BatchState.FINAL), (2, BatchState.COMMITTED)]
        assert (tx.chain.finalised(OPERATOR), tx.chain.finalised(ALICE)) == (1, 0)
        (known,) = tx.chain.claims(ALICE)
        assert (known.wallet, known.amount, known.tx_hash) == (BOB, 2**127, word(1001))
        assert tx.chain.claims(BOB) == []
