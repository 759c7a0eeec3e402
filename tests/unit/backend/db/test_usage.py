from __future__ import annotations

from dataclasses import replace
from datetime import date
from random import Random
from typing import TYPE_CHECKING

from backend.db.usage import answers_by_version, usage_by_day
from backend.domain.days import DAY_SECONDS
from backend.domain.hashing import receipt_id
from backend.domain.serving import NewReceipt
from tests.support.market import Market, some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt

PAYER, OTHER = some_account("payer"), some_account("other")
MIDNIGHT = 20_000 * DAY_SECONDS
DAY = date(2024, 10, 4)


def store(database: Database, payer: Account, *served: SignedReceipt) -> None:
    with database.begin() as tx:
        for signed in served:
            number = receipt_id(signed.receipt)
            operator, key = some_account("o"), some_account("receipt key")
            tx.receipts.add(NewReceipt(number, operator, payer, signed, key, some_hash("salt"), None))


def at(signed: SignedReceipt, instant: int, charge: int | None = None) -> SignedReceipt:
    charge = signed.receipt.charge if charge is None else charge
    return replace(signed, receipt=replace(signed.receipt, served_at=instant, charge=charge))


def test_answers_are_summed_by_day_and_by_model(database: Database) -> None:
    random, market = Random(1), Market()
    served = [at(market.serve(), MIDNIGHT + random.randrange(3 * DAY_SECONDS)) for _ in range(40)]
    store(database, PAYER, *served)
    store(database, OTHER, at(market.serve(), MIDNIGHT))
    with database.read() as tx:
        found = usage_by_day(tx.session, PAYER, MIDNIGHT, MIDNIGHT + 3 * DAY_SECONDS)
    for usage in found:
        its = [
            signed
            for signed in served
            if signed.receipt.served_at // DAY_SECONDS - 20_000 == (usage.day - DAY).days
            and signed.receipt.slices_hash == usage.slices_hash
        ]
        assert usage.num_answers == len(its)
        assert usage.prompt_tokens == sum(signed.receipt.prompt_tokens for signed in its)
        assert usage.completion_tokens == sum(signed.receipt.completion_tokens for signed in its)
        assert usage.spend == sum(signed.receipt.charge for signed in its)
        assert list(usage.versions) == [(part.version_id, part.weight_ppm) for part in its[0].slices]
    assert sum(usage.num_answers for usage in found) == len(served)
    assert [usage.day for usage in found] == sorted(usage.day for usage in found)


def test_days_begin_and_end_at_midnight(database: Database) -> None:
    market = Market()
    edges = (MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + DAY_SECONDS - 1, MIDNIGHT + DAY_SECONDS)
    store(database, PAYER, *(at(market.serve(), instant) for instant in edges))
    with database.read() as tx:
        found = usage_by_day(tx.session, PAYER, MIDNIGHT, MIDNIGHT + DAY_SECONDS)
    assert {usage.day for usage in found} == {DAY}
    assert sum(usage.num_answers for usage in found) == 2


def test_sums_beyond_64_bits_are_exact(database: Database) -> None:
    market = Market()
    signed = market.serve()
    charges = [(1 << 126) + 1, (1 << 63) - 1, 10**26 - 1]
    receipts = [
        at(replace(signed, receipt=replace(signed.receipt, cumulative=n)), MIDNIGHT, charge)
        for n, charge in enumerate(charges)
    ]
    store(database, PAYER, *receipts)
    with database.read() as tx:
        (usage,) = usage_by_day(tx.session, PAYER, MIDNIGHT, MIDNIGHT + 1)
    assert usage.spend == sum(charges)


def test_answers_are_counted_in_pieces_by_version_and_day(database: Database) -> None:
    random, market = Random(2), Market()
    served = [at(market.serve(), MIDNIGHT + random.randrange(2 * DAY_SECONDS)) for _ in range(30)]
    store(database, PAYER, *sorted(served, key=lambda signed: signed.receipt.served_at))
    expected: dict[tuple[str, int], int] = {}
    for signed in served:
        for part in signed.slices:
            key = part.version_id, signed.receipt.served_at // DAY_SECONDS
            expected[key] = expected.get(key, 0) + 1
    found: dict[tuple[str, int], int] = {}
    sizes, after = [], 0
    with database.read() as tx:
        while page := answers_by_version(tx.session, after, MIDNIGHT + 2 * DAY_SECONDS, 7):
            num_receipts, rows = page
            sizes.append(num_receipts)
            if not rows:
                break
            for version, day, num_answers, last in rows:
                found[version, day] = found.get((version, day), 0) + num_answers
                after = max(after, last)
        assert answers_by_version(tx.session, 0, MIDNIGHT, 7) == (0, [])
    assert (found, sizes) == (expected, [7, 7, 7, 7, 2, 0])
