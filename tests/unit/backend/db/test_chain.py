"""State of the projections after each kind of event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import InvalidInput
from backend.domain.ids import Account, ChannelId, DatanetId, SnapshotId, VersionId
from backend.domain.settlement import BatchState
from tests.support.chain_events import (
    ALICE,
    BOB,
    OPERATOR,
    Event,
    committed,
    proposed,
    take_in,
    text,
    word,
)

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

DATANET = DatanetId(1)


def contributed(content: int, contributor: Account) -> Event:
    hashes = {"contentHash": word(content), "cidDigest": word(7), "licence": text("MIT")}
    named = {"datanetId": DATANET, "contributor": contributor}
    return "DatasetRegistry", "ContributionRecorded", {**named, **hashes, "rows": 9}


def admitted(content: int, index: int) -> Event:
    args = {"datanetId": DATANET, "contentHash": word(content), "index": index}
    return "DatasetRegistry", "ContributionAdmitted", args


def reviewed(content: int, *, is_accepted: bool) -> Event:
    verdict = {"isAccepted": is_accepted, "reason": 0 if is_accepted else 4, "curator": OPERATOR}
    named = {"datanetId": DATANET, "contentHash": word(content)}
    return "DatasetRegistry", "ContributionReviewed", {**named, **verdict}


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
        take_in(tx, contributed(9, ALICE), contributed(5, ALICE), contributed(8, BOB), contributed(7, BOB))
        take_in(tx, contributed(6, ALICE), reviewed(6, is_accepted=False))
        take_in(
            tx, admitted(9, 0), reviewed(9, is_accepted=True), admitted(8, 1), reviewed(8, is_accepted=False)
        )
        take_in(tx, admitted(7, 2), admitted(5, 257))
        take_in(tx, ("DatasetRegistry", "SnapshotFrozen", frozen))
    with database.read() as tx:
        (datanet,) = tx.chain.datanets(None, 2)
        assert tx.chain.datanets(datanet.id, 2) == []
        assert tx.chain.datanet(DATANET) == datanet
        assert (datanet.name, datanet.creator, datanet.num_contributions) == ("law?", ALICE, 4)
        found = tx.chain.contributions(DATANET)
        assert [one.content_hash for one in found] == [word(n) for n in (9, 5, 8, 7, 6)]
        assert tx.chain.contributions(DATANET, word(5), 2) == found[2:4]
        assert [one.index for one in found] == [0, 257, 1, 2, None]
        assert [one.is_accepted for one in found] == [True, None, False, None, False]
        second = found[2]
        assert (second.reason, second.contributor, second.recorded_at) == (4, BOB, 20)
        assert tx.chain.contribution(DATANET, 1) == second == tx.chain.contribution_with(DATANET, word(8))
        assert tx.chain.contribution_with(DATANET, word(6)) == found[-1]
        assert tx.chain.contribution_with(DATANET, word(1)) is None
        keys = [(DATANET, word(8)), (DATANET, word(1)), (DatanetId(DATANET + 1), word(6))]
        assert tx.chain.contributions_with(keys) == [second]
        assert tx.chain.contributions_with([]) == []
        known = tx.chain.snapshot(snapshot)
        assert known is not None
        assert known.accepted == (0, 2, 257)
        contributors = [tx.chain.contributor_of(snapshot, i) for i in (0, 1, 2, 257, 258, -1)]
        assert contributors == [ALICE, None, BOB, ALICE, None, None]
        assert tx.chain.contributor_of(SnapshotId(word(1)), 0) is None
        assert tx.chain.datanet(DatanetId(2)) is None


def registered(version: VersionId, creator: Account, name: str) -> Event:
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
            ("PaymentVault", "ChannelOpened", {**on, **parties}),
            ("PaymentVault", "Deposited", {**on, "amount": 100}),
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


def test_a_key_revoked_before_it_was_ever_granted_is_no_grant(database: Database) -> None:
    channel = ChannelId(word(1))
    revoked = {"channelId": channel, "key": BOB, "collectableUntil": 0}
    with database.begin() as tx:
        take_in(tx, ("PaymentVault", "SessionRevoked", revoked))
    with database.read() as tx:
        assert tx.chain.grants(channel) == []


def test_batches_claims_and_operators(database: Database) -> None:
    by = {"operator": OPERATOR}
    batches = [{**by, "number": n, "batchHash": word(n), "header": {"number": n}} for n in (1, 2)]
    claim = {**by, "account": ALICE, "wallet": BOB, "amount": 2**127, "cumulative": 2**127}
    with database.begin() as tx:
        take_in(
            tx,
            ("OperatorRegistry", "EndpointChanged", {**by, "endpoint": "https://a"}),
            ("OperatorRegistry", "ReceiptKeyAdded", {**by, "key": BOB}),
            ("OperatorRegistry", "ReceiptKeyRetired", {**by, "key": BOB, "retiredAt": 7}),
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
        assert (operator.retired, operator.active_keys) == ({BOB: 7}, ())
        states = [(b.number, b.state) for b in tx.chain.batches(OPERATOR)]
        assert states == [(1, BatchState.FINAL), (2, BatchState.COMMITTED)]
        assert (tx.chain.finalised(OPERATOR), tx.chain.finalised(ALICE)) == (1, 0)
        (known,) = tx.chain.claims(ALICE)
        assert (known.wallet, known.amount, known.tx_hash) == (BOB, 2**127, word(1001))
        assert tx.chain.claims(BOB) == []
        assert tx.chain.claimed(OPERATOR) == {ALICE: known.cumulative}
        assert tx.chain.claimed(ALICE) == {}


def test_the_receipt_keys_of_a_block_are_those_registered_by_then(database: Database) -> None:
    def added(operator: Account, key: Account) -> Event:
        return "OperatorRegistry", "ReceiptKeyAdded", {"operator": operator, "key": key}

    retired = {"operator": OPERATOR, "key": ALICE, "retiredAt": 7}
    with database.begin() as tx:
        take_in(tx, added(OPERATOR, ALICE))
        take_in(tx, added(BOB, BOB), ("OperatorRegistry", "ReceiptKeyRetired", retired))
        take_in(tx, added(OPERATOR, OPERATOR))
    with database.read() as tx:
        cursor = tx.chain.cursor()
        assert cursor is not None
        before = [tx.chain.keys_at(OPERATOR, cursor.number - back) for back in (3, 2, 1, 0)]
    assert before == [[], [ALICE], [ALICE], [ALICE, OPERATOR]]


def test_operators_and_proposals_are_read_in_pages(database: Database) -> None:
    accounts = [OPERATOR, ALICE, BOB]
    staked = [("OperatorRegistry", "Staked", {"operator": one, "amount": 1}) for one in accounts]
    with database.begin() as tx:
        take_in(tx, *staked[:2], proposed(7), proposed(2))
        take_in(tx, staked[2], proposed(5))
    with database.read() as tx:
        assert [one.account for one in tx.chain.operators_after(None, 2)] == accounts[:2]
        assert [one.account for one in tx.chain.operators_after(ALICE, 2)] == accounts[2:]
        assert [one.id for one in tx.chain.proposals(None, 2)] == [7, 2]
        assert [one.id for one in tx.chain.proposals("2", 2)] == [5]
        assert [one.id for one in tx.chain.proposals(None, 2, is_newest_first=True)] == [5, 2]
        assert [one.id for one in tx.chain.proposals("2", 2, is_newest_first=True)] == [7]
        for read in (tx.chain.operators_after, tx.chain.proposals):
            with pytest.raises(InvalidInput, match="not an id of this list"):
                read("3", 2)


def test_operators_with_neither_stake_nor_batch_are_left_out(database: Database) -> None:
    """Anyone can state a URL, for a transaction's price."""
    endpoints = [
        ("OperatorRegistry", "EndpointChanged", {"operator": one, "endpoint": "https://a"})
        for one in (ALICE, BOB, OPERATOR)
    ]
    with database.begin() as tx:
        take_in(tx, *endpoints, ("OperatorRegistry", "Staked", {"operator": BOB, "amount": 1}))
        take_in(tx, committed(1, 1))
    with database.read() as tx:
        assert [one.account for one in tx.chain.reachable_operators()] == [BOB, OPERATOR]
        assert [one.account for one in tx.chain.operators_after(None, 9)] == [ALICE, BOB, OPERATOR]


def test_operators_with_a_stake_alone_are_neither_audited_nor_asked_for_data(database: Database) -> None:
    """A contract can give any number of addresses a stake of one unit."""
    staked: list[Event] = [
        ("OperatorRegistry", "Staked", {"operator": one, "amount": 1}) for one in (ALICE, BOB)
    ]
    with database.begin() as tx:
        take_in(tx, *staked, committed(1, 1), committed(2, 2))
    with database.read() as tx:
        (newest,) = tx.chain.recent_batches(OPERATOR, None, 1)
        assert newest.number == 2
        assert tx.chain.newest_batches() == {OPERATOR: newest.hash}
        assert tx.chain.reachable_operators() == []
