"""The sample of answers and its figures, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backend.db import live_agreement
from backend.domain.hashing import receipt_id
from backend.domain.live_agreement import LiveAgreement
from backend.domain.serving import NewReceipt
from tests.support.market import Market, some_account, some_hash

if TYPE_CHECKING:
    import pytest

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Hash32, VersionId
    from backend.domain.receipt import SignedReceipt


def serve(database: Database, market: Market, served_at: int) -> tuple[Hash32, list[VersionId]]:
    """An answer's response hash, and the versions with shares in it."""
    signed = market.serve()
    receipt = replace(signed.receipt, served_at=served_at)
    signed = market.sign(receipt, signed.slices)
    store(database, signed)
    return receipt.response_hash, sorted(part.version_id for part in signed.slices if part.shares)


def store(database: Database, signed: SignedReceipt) -> None:
    accounts = some_account("operator"), some_account("payer")
    key, salt = some_account("key"), some_hash("salt")
    with database.begin() as tx:
        tx.receipts.add(NewReceipt(receipt_id(signed.receipt), *accounts, signed, key, salt, None))


def sample(database: Database, since: int, until: int, lost_before: int = 0) -> None:
    with database.begin() as tx:
        receipts = [receipt for receipt, _ in tx.live_agreements.served(since, until)]
        tx.live_agreements.sample(since, until, receipts, lost_before)


def total(database: Database) -> LiveAgreement:
    with database.read() as tx:
        return tx.live_agreements.total()


def test_each_answer_is_sampled_and_measured_once(database: Database) -> None:
    market = Market()
    answers = [serve(database, market, served_at) for served_at in (9, 10, 11, 20)]
    with database.begin() as tx:
        tx.live_agreements.start(10)
        tx.live_agreements.start(99)
        assert tx.live_agreements.first_served(10) == 10
    sample(database, 10, 20)
    sample(database, 10, 20)
    sampled = answers[1:3]
    num_sampled = sum(len(versions) for _, versions in sampled)
    assert total(database) == LiveAgreement(num_sampled)
    with database.begin() as tx:
        assert tx.live_agreements.served_until() == 20
        assert tx.live_agreements.pending([answer for answer, _ in answers]) == {a for a, _ in sampled}
        for answer, versions in (*answers, *answers):
            tx.live_agreements.measure(answer, dict.fromkeys(versions, -250_000))
    found = total(database)
    assert (found.num_measured, found.num_missing, found.mean) == (num_sampled, 0, -0.25)
    with database.read() as tx:
        assert tx.live_agreements.pending([answer for answer, _ in answers]) == set()
        by_version = tx.live_agreements.of(sorted({v for _, versions in answers for v in versions}))
    assert sum(one.num_measured for one in by_version.values()) == num_sampled


def test_served_answers_are_read_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    market = Market()
    times = [10, 10, 11, 10, 11, 9, 12, 13]
    answers = [serve(database, market, served_at)[0] for served_at in times]
    expected = [answers[number] for number in (0, 1, 3, 2, 4, 6)]
    for page in (1, 2, 3, 6, 7):
        monkeypatch.setattr(live_agreement, "_CHUNK", page)
        with database.read() as tx:
            assert [answer for _, answer in tx.live_agreements.served(10, 13)] == expected
            assert not list(tx.live_agreements.served(13, 13))


def test_a_lost_sample_stays_missing_and_is_not_kept(database: Database) -> None:
    answer, versions = serve(database, Market(), served_at=10)
    with database.begin() as tx:
        tx.live_agreements.start(10)
    sample(database, 10, 20)
    sample(database, 20, 30, lost_before=11)
    with database.begin() as tx:
        assert tx.live_agreements.pending([answer]) == set()
        tx.live_agreements.measure(answer, dict.fromkeys(versions, 1))
    assert total(database).num_missing == len(versions)


def test_after_a_stop_sampling_starts_anew(database: Database) -> None:
    with database.begin() as tx:
        tx.live_agreements.start(10)
        tx.live_agreements.stop()
        assert tx.live_agreements.served_until() is None
        tx.live_agreements.start(30)
        assert tx.live_agreements.served_until() == 30
