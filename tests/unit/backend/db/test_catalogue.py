"""The catalogue's queries, on both databases."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from backend.db.tables.catalogue import VersionUsageRow
from backend.db.tables.chain import VersionRow
from backend.domain.catalogue import BaseModel, Card, Description, ModelQuery, Served, Sort
from backend.domain.days import DAY_SECONDS
from backend.domain.denials import Denial, Denied, FloorPrice, Reason, Subject
from backend.domain.errors import InvalidInput
from backend.domain.hashing import receipt_id
from backend.domain.ids import ZERO_HASH, Hash32, VersionId
from backend.domain.money import PPM
from backend.domain.receipt import TRAINING_NAME
from backend.domain.serving import NewReceipt
from tests.support.fakes import NOW
from tests.support.market import Market, some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.catalogue import ListedVersion

BASE = BaseModel(some_hash("base"), "Tiny-Base", some_account("operator"))
SERVED = Served([BASE], FloorPrice(1, 1), [some_hash("adapter poems")])
LARGEST = (1 << 64) - 1


def register(tx: UnitOfWork, name: str, prices: tuple[int, int] = (10, 20), **changes: Any) -> VersionId:
    number = len(tx.chain.versions()) + 1
    raw = {
        "adapterDigest": some_hash(f"adapter {name}"),
        "cidDigest": some_hash(f"folder {name}"),
        "baseModel": BASE.digest,
        "snapshots": [some_hash(f"snapshot {name}")],
        "promptPrice": prices[0],
        "completionPrice": prices[1],
        "operatorPpm": 200_000,
        "creatorPpm": 300_000,
    }
    values = {"creator": some_account("creator"), "name": name, "is_deprecated": False, **changes}
    row = VersionRow(id=f"0x{number:064x}", record=raw | values.pop("record", {}), **values)
    row.block_number, row.log_index = number // 3, number % 3
    tx.session.add(row)
    tx.session.flush()
    return VersionId(Hash32(row.id))


def bare(tx: UnitOfWork, name: str = "base", **changes: Any) -> VersionId:
    record = {"adapterDigest": ZERO_HASH, "snapshots": []}
    return register(tx, name, **{"creator": BASE.creator, "record": record} | changes)


@pytest.fixture
def market(database: Database) -> Database:
    """A base model and five adapters; `poems` has two versions, and `new` has no description."""
    known = {
        "poems": ("MIT", 0.5, "verse"),
        "law": ("Apache-2.0", None, "statutes 100% _x_"),
        "code": ("MIT AND Apache-2.0", 1.5, "python"),
        "dear": (None, 0.5, "verse"),
    }
    with database.begin() as tx:
        bare(tx)
        register(tx, "poems", (99, 99))
        for name, (licence, quality, words) in known.items():
            version = register(tx, name, (LARGEST, LARGEST) if name == "dear" else (10, 20))
            losses = {} if quality is None else {"eval_loss_base": 2.0, "eval_loss_adapter": 2.0 - quality}
            tx.catalogue.describe(version, Description(licence, metrics=losses), words, NOW)
        register(tx, "new", (5, 20))
    return database


def found(database: Database, served: Served = SERVED, **query: Any) -> list[str]:
    with database.read() as tx:
        return names(tx.catalogue.find(served, ModelQuery(**query), 0))


def names(listed: Sequence[ListedVersion]) -> list[str]:
    return [one.version.record.name for one in listed]


def test_without_conditions_everything_is_listed_by_registration(market: Database) -> None:
    assert found(market) == ["base", "poems", "law", "code", "dear", "new"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"words": ("verse",)}, ["poems", "dear"]),
        ({"words": ("verse", "dear")}, ["dear"]),
        ({"words": ("100%",)}, ["law"]),
        ({"words": ("%",)}, ["law"]),
        ({"words": ("x_",)}, ["law"]),
        ({"words": ("tiny-base",)}, ["base"]),
        ({"words": (some_account("creator")[2:],)}, ["poems", "law", "code", "dear", "new"]),
        ({"licences": ["MIT"]}, ["poems"]),
        ({"licences": []}, []),
        ({"max_price": 20}, ["base", "poems", "law", "code", "new"]),
        ({"max_price": LARGEST}, ["base", "poems", "law", "code", "dear", "new"]),
        ({"max_price": LARGEST - 1}, ["base", "poems", "law", "code", "new"]),
        ({"is_active": True}, ["base", "poems"]),
        ({"is_active": False}, ["law", "code", "dear", "new"]),
        ({"words": ("verse",), "max_price": 20, "is_active": True}, ["poems"]),
    ],
)
def test_conditions_select_models(market: Database, query: dict[str, Any], expected: list[str]) -> None:
    assert found(market, **query) == expected


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        *[("verse", ["poems"]), ("VERSE", ["poems"]), ("vers", []), ("a title", []), ("python", [])],
        *[("100%", ["law"]), ("%", []), ('say "tags": [', ["law"])],
    ],
)
def test_a_tag_is_matched_as_a_whole(market: Database, tag: str, expected: list[str]) -> None:
    cards = {
        "poems": Card("A title", 'Says "tags": ["python"]', ("Verse", "rhyme"), ""),
        "law": Card("verse", "verse", ("100%", 'say "tags": ['), ""),
    }
    with market.begin() as tx:
        for listed in tx.catalogue.find(SERVED, ModelQuery(), 0):
            if (card := cards.get(listed.version.record.name)) is not None:
                tx.catalogue.put_card(listed.version.id, card, "", None)
    assert found(market, tag=tag) == expected


def test_a_denied_folder_is_not_found_by_its_words(market: Database) -> None:
    with market.begin() as tx:
        for listed in tx.catalogue.find(SERVED, ModelQuery(), 0):
            if listed.version.record.name in {"poems", "dear"}:
                card = Card("A title", "", ("rhyme",), "")
                tx.catalogue.put_card(listed.version.id, card, "sonnets", None)
        tx.denials.put(Denial(Subject(Denied.CONTENT, some_hash("folder poems")), Reason.LEGAL, NOW))
    assert found(market, words=("sonnets",)) == found(market, tag="rhyme") == ["dear"]
    assert found(market, words=("poems",)) == ["poems"]


def test_models_are_sorted(market: Database) -> None:
    with market.begin() as tx:
        usage = {"law": 5, "new": 7}
        listed = tx.catalogue.find(SERVED, ModelQuery(), 0)
        for sequence, one in enumerate(listed, 1):
            if count := usage.get(one.version.record.name):
                row = VersionUsageRow(version_id=one.version.id, day=3, num_answers=count)
                row.last_sequence = sequence
                tx.session.add(row)
    assert found(market, sort=Sort.NEWEST) == ["new", "dear", "code", "law", "poems", "base"]
    assert found(market, sort=Sort.PRICE) == ["new", "base", "poems", "law", "code", "dear"]
    assert found(market, sort=Sort.QUALITY)[:3] == ["code", "dear", "poems"]
    assert found(market, sort=Sort.USAGE)[:2] == ["new", "law"]
    with market.read() as tx:
        after_that_day = tx.catalogue.find(SERVED, ModelQuery(), 4)
    assert {one.num_answers for one in after_that_day} == {0}


@pytest.mark.parametrize("sort", [None, *Sort])
def test_pages_of_one_meet_everything_once(market: Database, sort: Sort | None) -> None:
    query, met, after = ModelQuery(sort=sort), [], None
    with market.read() as tx:
        while page := tx.catalogue.find(SERVED, query, 0, after, 1):
            met += names(page)
            after = page[0].version.id
    assert met == found(market, sort=sort)
    assert len(met) == 6


def test_a_cursor_that_is_not_listed_is_refused(market: Database) -> None:
    with market.read() as tx:
        poems = next(one for one in tx.catalogue.find(SERVED, ModelQuery(), 0) if "poems" in names([one]))
        with pytest.raises(InvalidInput, match="not a cursor of this list"):
            tx.catalogue.find(SERVED, ModelQuery(words=("law",)), 0, poems.version.id, 1)


def test_versions_that_are_not_served_are_not_listed(market: Database) -> None:
    with market.begin() as tx:
        bare(tx, TRAINING_NAME)
        bare(tx, "imitation", creator=some_account("another"))
        register(tx, "foreign", record={"baseModel": some_hash("another base")})
        register(tx, "cheap", (0, 20))
        register(tx, "old", is_deprecated=True)
        register(tx, "code", (10, 0))  # the newer version is below the floor: the older one stays
    assert found(market) == ["base", "poems", "law", "code", "dear", "new"]
    free = replace(SERVED, floor=FloorPrice(0, 0))
    assert found(market, free)[-2:] == ["cheap", "code"]
    with market.begin() as tx:
        newest = bare(tx, "base-2")
        tx.denials.put(Denial(Subject(Denied.ADAPTER, some_hash("adapter law")), Reason.LEGAL, NOW))
    assert found(market) == ["base-2", "poems", "code", "dear", "new"]
    with market.read() as tx:
        assert tx.catalogue.find(SERVED, ModelQuery(), 0)[0].version.id == newest


def test_the_floor_is_the_same_in_the_list_and_for_a_request(database: Database) -> None:
    dice = Random(7)
    with database.begin() as tx:
        for number in range(200):
            operator = dice.randint(0, PPM)
            shares = {"operatorPpm": operator, "creatorPpm": dice.randint(0, PPM - operator)}
            prices = (dice.choice((dice.randint(0, 40), LARGEST)), dice.randint(0, 40))
            creator = dice.choice((BASE.creator, some_account("creator")))
            register(tx, f"n{number}", prices, creator=creator, record=shares)
        records = [one.record for one in tx.chain.versions()]
    for floor in (FloorPrice(0, 0), FloorPrice(1, 1), FloorPrice(10, 3), FloorPrice(2**63 - 1, 5)):
        served = {one.name for one in records if floor.allows(one, BASE.creator)}
        assert set(found(database, replace(SERVED, floor=floor))) == served
    assert 0 < len(served) < len(records)


def test_any_registered_version_can_be_described(market: Database) -> None:
    with market.read() as tx:
        old = tx.chain.versions(name="poems")[0]
        shown = tx.catalogue.get(old.id, 0)
        assert shown is not None
        assert (shown.version, shown.description) == (old, Description())
        assert tx.catalogue.get(VersionId(some_hash("none")), 0) is None


def test_undescribed_versions_are_adapters_in_order_of_registration(market: Database) -> None:
    with market.read() as tx:
        assert [one.record.name for one in tx.catalogue.undescribed(9)] == ["poems", "new"]
        assert len(tx.catalogue.undescribed(1)) == 1
        assert sorted(tx.catalogue.licences()) == ["Apache-2.0", "MIT", "MIT AND Apache-2.0"]


def test_prices_are_ordered_as_numbers(market: Database) -> None:
    with market.read() as tx:
        listed = tx.catalogue.find(SERVED, ModelQuery(sort=Sort.PRICE), 0)
    prices = [(one.version.record.completion_price, one.version.record.prompt_price) for one in listed]
    assert all(one <= other for one, other in pairwise(prices))


def test_usage_is_counted_where_it_stopped_and_old_days_are_forgotten(database: Database) -> None:
    market = Market()
    with database.begin() as tx:
        for at in (100, DAY_SECONDS + 100, DAY_SECONDS + 200):
            signed = market.serve()
            signed = replace(signed, receipt=replace(signed.receipt, served_at=at))
            number, payer, key = receipt_id(signed.receipt), some_account("p"), some_account("k")
            tx.receipts.add(NewReceipt(number, BASE.creator, payer, signed, key, some_hash("salt"), None))
    counted = []
    for _ in range(4):
        with database.begin() as tx:
            counted.append(tx.catalogue.count_answers(DAY_SECONDS + 150, 1))
            tx.catalogue.forget_usage(1)
    assert counted == [1, 1, 0, 0]
    with database.read() as tx:
        days = {row.day for row in tx.session.scalars(select(VersionUsageRow))}
    assert days == {1}
