"""Projections agree with the contracts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.domain.hashing import accepted_hash, ascii_word, channel_id, snapshot_id, version_id
from backend.domain.ids import DatanetId, Hash32
from backend.domain.receipt import VersionRecord
from tools.wallet import transact

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database
    from backend.domain.ids import SnapshotId

ALICE, BOB, CREATOR, OPERATOR = (local_account(i) for i in (3, 4, 6, 1))
DATANET = DatanetId(1)


def word(value: int) -> Hash32:
    return Hash32(f"0x{value:064x}")


def index(chain: ChainClient, database: Database) -> None:
    Indexer(chain, database.event_log, chain.deployment, confirmations=0).catch_up()


def make_snapshot(chain: ChainClient) -> SnapshotId:
    """Three contributions, the second one rejected."""
    transact(chain, CREATOR, "DatasetRegistry", "createDatanet", ascii_word("law"), word(1))
    for i, contributor in enumerate((ALICE, BOB, BOB)):
        contribution = (DATANET, word(10 + i), word(20 + i), ascii_word("MIT"), 5)
        transact(chain, contributor, "DatasetRegistry", "contribute", contribution)
    reviews = [*((word(10 + i), True, 0) for i in range(3)), (word(11), False, 7)]
    transact(chain, OPERATOR, "DatasetRegistry", "review", DATANET, reviews)
    transact(chain, CREATOR, "DatasetRegistry", "freeze", DATANET, 3)
    return snapshot_id(DATANET, 3, accepted_hash([True, False, True]))


def as_struct(record: VersionRecord) -> dict[str, object]:
    return {
        "creator": record.creator,
        "name": ascii_word(record.name),
        "adapterDigest": record.adapter_digest,
        "cidDigest": record.cid_digest,
        "baseModel": record.base_model,
        "snapshots": list(record.snapshots),
        "promptPrice": record.prompt_price,
        "completionPrice": record.completion_price,
        "operatorPpm": record.operator_ppm,
        "creatorPpm": record.creator_ppm,
    }


def test_datanets_snapshots_and_versions(chain: ChainClient, sqlite_database: Database) -> None:
    snapshot = make_snapshot(chain)
    record = VersionRecord(
        creator=CREATOR.account,
        name="legal-1",
        adapter_digest=word(30),
        cid_digest=word(31),
        base_model=word(32),
        snapshots=(snapshot,),
        prompt_price=1_000_000,
        completion_price=2_000_000,
        operator_ppm=300_000,
        creator_ppm=200_000,
    )
    transact(chain, CREATOR, "AdapterRegistry", "register", as_struct(record))
    dearer = replace(record, prompt_price=3_000_000)
    transact(chain, CREATOR, "AdapterRegistry", "register", as_struct(dearer))
    transact(chain, CREATOR, "AdapterRegistry", "deprecate", as_struct(record))
    index(chain, sqlite_database)
    with sqlite_database.read() as tx:
        known = tx.chain.snapshot(snapshot)
        assert known is not None
        assert (known.datanet, known.count, known.accepted) == (DATANET, 3, (0, 2))
        assert [tx.chain.contributor_of(snapshot, i) for i in range(4)] == [
            ALICE.account,
            None,
            BOB.account,
            None,
        ]
        contributions = tx.chain.contributions(DATANET)
        versions = tx.chain.versions(CREATOR.account, "legal-1")
    on_chain = chain.call("DatasetRegistry", "contributionOf", DATANET, word(11))
    assert (contributions[1].contributor, contributions[1].index) == (
        on_chain["contributor"],
        on_chain["index"],
    )
    assert contributions[1].reason == 7
    assert [(v.id, v.record, v.is_deprecated) for v in versions] == [
        (version_id(record), record, True),
        (version_id(dearer), dearer, False),
    ]


def test_a_channel_through_deposit_grant_revocation_and_thaw(
    chain: ChainClient, sqlite_database: Database
) -> None:
    vault, settlement = chain.address("PaymentVault"), chain.address("Settlement")
    towards, key = (OPERATOR.account, settlement), local_account(9).account
    grant = (key, 5_000_000, 4_000_000_000)
    transact(chain, ALICE, "TestUSD", "approve", vault, 50)
    transact(chain, ALICE, "PaymentVault", "deposit", *towards, 50, grant)
    transact(chain, ALICE, "PaymentVault", "thaw", *towards, 20_000_000)
    transact(chain, ALICE, "PaymentVault", "revokeSession", *towards, key)
    channel = channel_id(ALICE.account, *towards)

    def assert_as_on_chain() -> None:
        index(chain, sqlite_database)
        on_chain = chain.call("PaymentVault", "channelOf", channel)
        with sqlite_database.read() as tx:
            known = tx.chain.channel(channel)
            (granted,) = tx.chain.grants(channel)
        assert known is not None
        found = {"balance": known.balance, "collected": known.collected, "thawing": known.thawing}
        assert found | {"thawedAt": known.thawed_at} == on_chain
        session = chain.call("PaymentVault", "sessionOf", channel, key)
        assert granted.cap == session["cap"]
        assert session["isRevoked"]
        assert granted.revoked_at == session["expiry"]

    assert_as_on_chain()
    chain.node.rpc.request("evm_increaseTime", 400)
    transact(chain, ALICE, "PaymentVault", "withdraw", *towards)
    assert_as_on_chain()
