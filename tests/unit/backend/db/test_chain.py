"""State of the projections after each kind of event."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from backend.db.tables.chain import EventRow
from backend.domain.chain import BlockRef, ChainEvent
from backend.domain.disputes.witnesses import Fault, Tree
from backend.domain.errors import InvalidInput
from backend.domain.ids import Account, ChannelId, DatanetId, Hash32, SnapshotId, VersionId
from backend.domain.settlement import BatchState, Demand, PaidSpan
from tests.support.market import some_demand

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database, UnitOfWork

ALICE, BOB, OPERATOR = (Account(f"0x{i:040x}") for i in range(1, 4))
DATANET = DatanetId(1)


def word(value: int) -> Hash32:
    return Hash32(f"0x{value:064x}")


def text(value: str) -> str:
    return "0x" + value.encode().ljust(32, b"\0").hex()


def take_in(tx: UnitOfWork, *events: tuple[str, str, dict[str, Any]]) -> None:
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


def contributed(content: int, contributor: Account) -> tuple[str, str, dict[str, Any]]:
    hashes = {"contentHash": word(content), "cidDigest": word(7), "licence": text("MIT")}
    named = {"datanetId": DATANET, "contributor": contributor}
    return "DatasetRegistry", "ContributionRecorded", {**named, **hashes, "rows": 9}


def admitted(content: int, index: int) -> tuple[str, str, dict[str, Any]]:
    args = {"datanetId": DATANET, "contentHash": word(content), "index": index}
    return "DatasetRegistry", "ContributionAdmitted", args


def reviewed(content: int, *, is_accepted: bool) -> tuple[str, str, dict[str, Any]]:
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


def committed(number: int, name: int) -> tuple[str, str, dict[str, Any]]:
    header = {"number": number, "total": 10 * name}
    args = {"operator": OPERATOR, "number": number, "batchHash": word(name), "header": header}
    return "Settlement", "BatchCommitted", args


def voided(first: int, last: int, name: int) -> tuple[str, str, dict[str, Any]]:
    return (
        "Settlement",
        "BatchesVoided",
        {"operator": OPERATOR, "first": first, "last": last, "batchHash": word(name)},
    )


def final(number: int, name: int) -> tuple[str, str, dict[str, Any]]:
    args = {"operator": OPERATOR, "number": number, "batchHash": word(name), "finalTotal": 5}
    return "Settlement", "BatchFinalised", args


def refunded(number: int, name: int) -> tuple[str, str, dict[str, Any]]:
    args = {"operator": OPERATOR, "number": number, "batchHash": word(name), "amount": 1}
    return "Settlement", "BatchRefunded", args


def convicted(name: int, challenger: Account) -> list[tuple[str, str, dict[str, Any]]]:
    """Receipt 7 charged a wrong price."""
    fault = {"batchHash": word(name), "receiptIndex": 7, "fault": Fault.PRICE.value}
    args = {"operator": OPERATOR, "number": 2, "batchHash": word(name), "proof": "0xd831810b"}
    return [
        ("Disputes", "ReceiptFaulty", fault),
        ("Disputes", "BatchConvicted", {**args, "challenger": challenger}),
    ]


def test_all_pending_batches_fall_with_the_one_that_was_convicted_and_their_numbers_are_given_again(
    database: Database,
) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), committed(2, 2), committed(3, 3))
        take_in(tx, *convicted(2, ALICE), voided(1, 3, 2))
        take_in(tx, refunded(3, 3))
    with database.read() as tx:
        first, second, third = tx.chain.batches(OPERATOR)
        assert {b.state for b in (first, second, third)} == {BatchState.VOID}
        assert first.conviction == second.conviction == third.conviction
        why = third.conviction
        assert why is not None
        assert (why.first, why.convicted, why.proof) == (1, word(2), "proveBadReceipt")
        assert (why.challenger, why.fault, why.receipt, why.block_number) == (ALICE, Fault.PRICE, 7, 2)
        assert [b.is_refunded for b in (second, third)] == [False, True]
    with database.begin() as tx:
        take_in(tx, refunded(2, 2), refunded(1, 1), committed(1, 4), final(1, 4), committed(2, 5))
        take_in(tx, voided(2, 2, 5))
    with database.read() as tx:
        states = [(b.hash, b.state, b.is_refunded) for b in tx.chain.batches(OPERATOR)]
        assert states == [
            (word(1), BatchState.VOID, True),
            (word(2), BatchState.VOID, True),
            (word(3), BatchState.VOID, True),
            (word(4), BatchState.FINAL, False),
            (word(5), BatchState.VOID, False),
        ]
        assert tx.chain.batch(word(4)) == tx.chain.batches(OPERATOR)[3]
        assert tx.chain.batch(word(6)) is None


def test_batches_are_read_in_pages_newest_first(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), committed(2, 9), committed(3, 3))
        take_in(tx, *convicted(9, ALICE), voided(2, 3, 9), final(1, 1))
        take_in(tx, committed(2, 4), committed(3, 5))
    with database.read() as tx:
        newest_first = tx.chain.batches(OPERATOR)[::-1]
        assert tx.chain.recent_batches(OPERATOR, None, 9) == newest_first
        assert tx.chain.recent_batches(OPERATOR, None, 2) == newest_first[:2]
        assert tx.chain.recent_batches(OPERATOR, word(4), 2) == newest_first[2:4]
        assert tx.chain.recent_batches(OPERATOR, word(1), 2) == []
        pending = tx.chain.open_batches(OPERATOR)
        assert [batch.hash for batch in pending] == [word(4), word(5)]
        assert tx.chain.open_totals({OPERATOR, ALICE}) == {OPERATOR: 10 * (4 + 5)}
        assert tx.chain.recent_batches(ALICE, None, 9) == tx.chain.open_batches(ALICE) == []
        with pytest.raises(InvalidInput, match="not an id of this list"):
            tx.chain.recent_batches(ALICE, word(4), 2)


def proposed(number: int) -> tuple[str, str, dict[str, Any]]:
    lists: dict[str, Any] = {name: [] for name in ("targets", "values", "signatures", "calldatas")}
    instants = {"voteStart": 1, "voteEnd": 2}
    args = {"proposalId": number, "proposer": ALICE, "description": f"Change {number}"}
    return "MarketGovernor", "ProposalCreated", args | lists | instants


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
        assert [one.account for one in tx.chain.operators()] == [BOB, OPERATOR]
        assert [one.account for one in tx.chain.operators_after(None, 9)] == [ALICE, BOB, OPERATOR]


def test_a_conviction_without_a_reward_has_no_challenger(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), *convicted(1, Account("0x" + "00" * 20)), voided(1, 1, 1))
    with database.read() as tx:
        (batch,) = tx.chain.batches(OPERATOR)
        assert batch.conviction is not None
        assert batch.conviction.challenger is None


def collected(channel: int, before: int, start: int, until: int) -> tuple[str, str, dict[str, Any]]:
    span = {"before": before, "from": start, "until": until}
    return "PaymentVault", "Collected", {"channelId": word(channel), **span}


def deposited(
    channel: int, operator: Account, collector: Account = BOB
) -> list[tuple[str, str, dict[str, Any]]]:
    on, parties = {"channelId": word(channel)}, {"payer": ALICE, "operator": operator, "collector": collector}
    return [
        ("PaymentVault", "ChannelOpened", {**on, **parties}),
        ("PaymentVault", "Deposited", {**on, "amount": 100}),
    ]


def test_the_spans_of_a_batch_are_its_own_collections_with_their_payers(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, *deposited(1, OPERATOR), *deposited(2, OPERATOR), *deposited(3, BOB))
        take_in(
            tx,
            collected(3, 0, 0, 9),
            collected(1, 0, 2, 8),
            collected(2, 0, 0, 5),
            committed(1, 1),
            collected(2, 5, 5, 6),
            committed(2, 2),
        )
    spans = [PaidSpan(ChannelId(word(1)), ALICE, 0, 2, 8), PaidSpan(ChannelId(word(2)), ALICE, 0, 0, 5)]
    with database.begin() as tx:
        # In the tests' blocks each event has its own transaction.
        for row in tx.session.scalars(select(EventRow)):
            row.tx_hash = word(1003) if row.log_index < 4 else word(1005)
    with database.read() as tx:
        assert tx.chain.spans(word(1)) == tuple(spans)
        assert [span.until for span in tx.chain.spans(word(2))] == [6]
        assert tx.chain.spans(word(9)) == ()
        assert spans[0].refund == {"payer": ALICE, "before": 0, "from": 2, "until": 8}


def test_collections_of_an_operator_for_itself_are_no_spans_of_its_batch(database: Database) -> None:
    """An operator that is a contract can make them directly before, in the same transaction."""
    with database.begin() as tx:
        take_in(tx, *deposited(1, OPERATOR), *deposited(2, OPERATOR, OPERATOR))
        take_in(tx, collected(2, 0, 0, 9), collected(1, 0, 2, 8), committed(1, 1))
    with database.begin() as tx:
        for row in tx.session.scalars(select(EventRow)):
            row.tx_hash = word(1002)
    with database.read() as tx:
        assert [span.channel_id for span in tx.chain.spans(word(1))] == [word(1)]


def test_a_channel_after_a_refund_is_as_it_was_before_the_collection(database: Database) -> None:
    channel = ChannelId(word(1))
    final = {"operator": OPERATOR, "number": 1, "batchHash": word(1), "finalTotal": 5}
    undone = {"channelId": channel, "amount": 20, "collected": 10}
    with database.begin() as tx:
        take_in(tx, *deposited(1, OPERATOR), collected(1, 0, 0, 10), committed(1, 1))
        take_in(tx, ("Settlement", "BatchFinalised", final))
        before = tx.chain.channel(channel)
        take_in(tx, collected(1, 10, 15, 35), committed(2, 2))
    with database.read() as tx:
        assert tx.chain.settled(channel) == 10
        assert tx.chain.settled(ChannelId(word(7))) == 0
    with database.begin() as tx:
        take_in(tx, voided(2, 2, 2), ("PaymentVault", "Refunded", undone))
    with database.read() as tx:
        assert before is not None
        assert before.max_collected == 10
        assert tx.chain.channel(channel) == replace(before, max_collected=35)
        assert tx.chain.settled(channel) == 10


def demanded(name: int, batch: int, deadline: int) -> tuple[str, str, dict[str, Any]]:
    terms = {"challenger": ALICE, "bond": 2**95, "deadline": deadline, "deadlineBlock": 7}
    ids = {"leafId": word(name), "operator": OPERATOR, "batchHash": word(batch)}
    return "Disputes", "Demanded", {**ids, "tree": Tree.ENTRIES.value, "key": word(5), "demand": terms}


def answered(name: int, batch: int, call: str) -> tuple[str, str, dict[str, Any]]:
    ids = {"leafId": word(name), "operator": OPERATOR, "batchHash": word(batch)}
    return "Disputes", "Answered", {**ids, "call": call}


def test_demands_are_open_until_they_are_answered_or_their_batch_is_void(database: Database) -> None:
    with database.begin() as tx:
        take_in(tx, committed(1, 1), committed(2, 2))
        take_in(tx, demanded(50, 2, 90), demanded(51, 1, 80), demanded(52, 1, 85), demanded(53, 1, 86))
        take_in(tx, answered(53, 1, "0xbb"), answered(52, 1, "0xcc"))
    asked = Demand(
        leaf_id=word(51),
        operator=OPERATOR,
        batch_hash=word(1),
        tree=Tree.ENTRIES,
        key=5,
        challenger=ALICE,
        bond=2**95,
        deadline=80,
        deadline_block=7,
        is_open=True,
        block_number=2,
    )
    with database.read() as tx:
        first, second = tx.chain.open_demands(OPERATOR)
        assert (first, second.leaf_id) == (asked, word(50))
        assert [one.is_open for one in tx.chain.demands(word(1))] == [True, False, False]
        shown = [(one.leaf_id, one.call, one.block_number) for one in tx.chain.answers(word(1))]
        assert shown == [(word(53), "0xbb", 3), (word(52), "0xcc", 3)]
        assert tx.chain.open_demands(ALICE) == tx.chain.answers(word(2)) == []
    with database.begin() as tx:
        take_in(tx, voided(2, 2, 2))
        returned = {"leafId": word(50), "challenger": ALICE, "bond": 2**95}
        take_in(tx, ("Disputes", "BondReturned", returned))
    with database.read() as tx:
        assert [one.leaf_id for one in tx.chain.open_demands(OPERATOR)] == [word(51)]
        (over,) = tx.chain.demands(word(2))
        assert not over.is_open


def test_it_is_too_late_to_answer_once_both_deadlines_have_passed() -> None:
    demand = some_demand(OPERATOR, word(1), deadline=100, deadline_block=9)
    assert not demand.is_past(100, 10)
    assert not demand.is_past(101, 9)
    assert demand.is_past(101, 10)
    assert some_demand(OPERATOR, word(1), deadline=100).is_past(101, 1)
