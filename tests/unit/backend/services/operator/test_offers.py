from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.cli.registration import DEFAULT_SHARES
from backend.domain.chain import Reverted
from backend.domain.denials import FloorPrice
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.hashing import record_argument, version_id
from backend.domain.ids import ZERO_HASH, Account, VersionId
from backend.domain.registries import RegisteredVersion
from backend.domain.training_payment import training_record
from backend.services.operator.offers import Offers, base_record
from backend.services.transactions.operator_transactions import OperatorTransactions
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.receipt import VersionRecord

OWN, BASE = some_account("operator"), some_hash("base model")
PRICES = (200_000, 400_000)
ANSWERS, TRAINING = base_record(OWN, BASE, "Tiny", PRICES), training_record(OWN, BASE, 300_000)
DEARER = base_record(OWN, BASE, "Tiny", (200_001, 400_000))


class FakeRegistry:
    """Versions registered in the contract."""

    def __init__(self) -> None:
        self.versions: dict[VersionId, bool] = {}
        """Whether a version is deprecated."""
        self.prepared: list[Any] = []
        self.wei, self.refuses = 10**18, False

    def balance(self, account: Account) -> int:
        assert account == OWN
        return self.wei

    def call(self, contract: str, function: str, version: VersionId) -> dict[str, Any]:
        assert (contract, function) == ("AdapterRegistry", "versionOf")
        known = version in self.versions
        return {"registeredAt": int(known), "isDeprecated": self.versions.get(version, False)}

    def prepare(self, contract: str, function: str, record: Any, *, sender: Account) -> None:
        assert (contract, function, sender) == ("AdapterRegistry", "register", OWN)
        if self.refuses:
            raise Reverted("AdapterRegistry.register reverted: OperatorShareOutOfRange")
        self.prepared.append(record)


class OffersHarness:
    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registry, self.database = FakeRegistry(), database
        self.indexed: list[RegisteredVersion] = []
        chain: Any = self.registry
        self.offers = Offers(database, chain, OWN)
        self.transactions = OperatorTransactions(database, chain, OWN)
        monkeypatch.setattr(
            "backend.db.chain.ChainStore.versions", lambda _, creator: self._versions(creator)
        )

    def _versions(self, creator: Account) -> list[RegisteredVersion]:
        assert creator == OWN
        return self.indexed

    def register(self, record: VersionRecord, *, is_deprecated: bool = False) -> None:
        """Register a version and index it."""
        version = version_id(record)
        self.registry.versions[version] = is_deprecated
        self.indexed.append(RegisteredVersion(version, record, is_deprecated, len(self.indexed)))


@pytest.fixture
def harness(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> OffersHarness:
    return OffersHarness(sqlite_database, monkeypatch)


def test_repeated_calls_register_both_records_once(harness: OffersHarness) -> None:
    queued = harness.offers.register([ANSWERS, TRAINING])
    assert [(one.lane, one.contract, one.function) for one in queued] == [
        (OWN, "AdapterRegistry", "register")
    ] * 2
    arguments = [record_argument(record) for record in (ANSWERS, TRAINING)]
    assert [one.args for one in queued] == [(argument,) for argument in arguments]
    assert harness.offers.register([ANSWERS, TRAINING]) == queued
    assert harness.registry.prepared == arguments
    assert [harness.transactions.transaction(one.id) for one in queued] == queued


def test_registered_records_are_not_registered_again(harness: OffersHarness) -> None:
    harness.register(ANSWERS)
    (training,) = harness.offers.register([ANSWERS, TRAINING])
    assert training.args == (record_argument(TRAINING),)
    harness.register(TRAINING)
    harness.registry.wei = 0  # nothing is sent, so nothing is to be paid for
    assert harness.offers.register([ANSWERS, TRAINING]) == []


def test_another_price_is_another_record_despite_queued_transactions(harness: OffersHarness) -> None:
    first, training = harness.offers.register([ANSWERS, TRAINING])
    second, same = harness.offers.register([DEARER, TRAINING])
    assert second.id > first.id
    assert same == training


def test_a_failed_registration_is_queued_again(harness: OffersHarness) -> None:
    (first,) = harness.offers.register([ANSWERS])
    with harness.database.begin() as tx:
        tx.transactions.mark_failed(first.id, {})
    (again,) = harness.offers.register([ANSWERS])
    assert again.id > first.id


def test_a_registration_that_reverts_or_lacks_gas_is_not_queued(harness: OffersHarness) -> None:
    harness.registry.refuses = True
    with pytest.raises(Reverted, match="OperatorShareOutOfRange"):
        harness.offers.register([ANSWERS])
    harness.registry.wei = 0
    with pytest.raises(Conflict, match="no coin to pay for gas"):
        harness.offers.register([ANSWERS])
    with harness.database.read() as tx:
        assert tx.transactions.lanes() == []


def test_prices_that_hold_or_are_new_are_taken(harness: OffersHarness) -> None:
    harness.offers.check(ANSWERS)
    harness.register(ANSWERS)
    harness.register(TRAINING)
    harness.register(replace(ANSWERS, base_model=some_hash("another base")))
    harness.offers.check(ANSWERS)
    harness.offers.check(DEARER)


def test_prices_that_were_given_up_do_not_come_back(harness: OffersHarness) -> None:
    harness.register(ANSWERS)
    harness.register(DEARER)
    with pytest.raises(Conflict, match="used before and replaced") as refused:
        harness.offers.check(ANSWERS)
    assert refused.value.param == "prices"
    harness.offers.check(DEARER)


def test_prices_of_a_deprecated_record_do_not_come_back(harness: OffersHarness) -> None:
    harness.register(ANSWERS, is_deprecated=True)
    with pytest.raises(Conflict, match="used before and replaced"):
        harness.offers.check(ANSWERS)


def test_prices_hold_again_where_the_later_ones_are_deprecated(harness: OffersHarness) -> None:
    harness.register(ANSWERS)
    harness.register(DEARER, is_deprecated=True)
    harness.offers.check(ANSWERS)


def test_prices_below_ones_own_floor_are_refused(harness: OffersHarness) -> None:
    with harness.database.begin() as tx:
        tx.denials.set_floor(FloorPrice(200_001, 1))
    with pytest.raises(
        Conflict, match=r"floor price here is 0\.200001 and 0\.000001 dollars .*`loraledger policy floor"
    ):
        harness.offers.check(ANSWERS)
    harness.offers.check(DEARER)


def test_the_first_prices_set_the_floor_and_later_ones_leave_it(harness: OffersHarness) -> None:
    """An adapter at the base model's prices, with the shares that creators are proposed, is served."""
    floor = harness.offers.set_first_floor([DEARER, ANSWERS])
    assert floor == FloorPrice(40_000, 80_000)
    listed = replace(ANSWERS, creator=some_account("creator"))
    operator, creator = DEFAULT_SHARES
    assert floor.allows(replace(listed, operator_ppm=operator, creator_ppm=creator), OWN)
    assert not floor.allows(replace(listed, operator_ppm=operator - 5, creator_ppm=creator), OWN)
    assert harness.offers.set_first_floor([base_record(OWN, BASE, "Tiny", (3, 3))]) == floor
    with harness.database.begin() as tx:
        tx.denials.set_floor(FloorPrice(0, 7))
    assert harness.offers.set_first_floor([ANSWERS]) == FloorPrice(0, 7)


def test_the_first_floor_of_tiny_prices_is_one(harness: OffersHarness) -> None:
    assert harness.offers.set_first_floor([base_record(OWN, BASE, "Tiny", (3, 3))]) == FloorPrice(1, 1)


def test_the_base_models_record_is_the_operators_alone() -> None:
    assert (ANSWERS.creator, ANSWERS.base_model, ANSWERS.name) == (OWN, BASE, "tiny")
    assert (ANSWERS.adapter_digest, ANSWERS.cid_digest, ANSWERS.snapshots) == (ZERO_HASH, ZERO_HASH, ())
    assert (ANSWERS.prompt_price, ANSWERS.completion_price) == PRICES
    assert ANSWERS.operator_ppm + ANSWERS.creator_ppm == 1_000_000


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("Qwen2.5_0.5B", "qwen2-5-0-5b"),
        ("x" * 40, "x" * 32),
    ],
)
def test_a_records_name_is_the_base_models_as_far_as_a_name_may_be(name: str, spelled: str) -> None:
    assert base_record(OWN, BASE, name, PRICES).name == spelled


def test_no_base_model_goes_by_the_name_of_training() -> None:
    with pytest.raises(InvalidInput, match="rename its folder"):
        base_record(OWN, BASE, "Training", PRICES)


@pytest.mark.parametrize("prices", [(-1, 1), (1, 1 << 63)])
def test_a_price_that_no_record_or_card_has_room_for_is_refused(prices: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput) as refused:
        base_record(OWN, BASE, "tiny", prices)
    assert refused.value.param == "prices"
