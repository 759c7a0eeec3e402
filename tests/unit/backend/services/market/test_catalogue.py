from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.denials import FloorPrice
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.ids import ZERO_HASH
from backend.domain.money import PRICE
from backend.services.market.catalogue import ModelNotFound, PriceBelowFloor, adapter_record
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.receipt import VersionRecord


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database)


@pytest.fixture
def record(installation: ScriptedInstallation) -> VersionRecord:
    return installation.catalogue.resolve(installation.version).record


def test_a_version_goes_by_name_prefix_id_and_digest(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    name = f"{record.creator}/docs"
    digits = installation.version[2:]
    for model in (
        name,
        f"{name}@{digits[:8]}",
        f"{name}@0x{digits}",
        installation.version,
        digits,
        record.adapter_digest,
    ):
        assert installation.catalogue.resolve(model).id == installation.version
    assert installation.catalogue.resolve(name).name == f"{name}@{digits[:12]}"


def test_a_name_means_its_newest_version_and_a_prefix_the_old_one(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    newer = installation.view.register(replace(record, prompt_price=99))
    name = f"{record.creator}/docs"
    assert installation.catalogue.resolve(name).id == newer
    assert installation.catalogue.resolve(f"{name}@{installation.version[2:14]}").id == installation.version


def test_a_deprecated_version_is_served_only_by_its_exact_name(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    old = installation.view.register(replace(record, name="old"), is_deprecated=True)
    with pytest.raises(ModelNotFound):
        installation.catalogue.resolve(f"{record.creator}/old")
    assert installation.catalogue.resolve(old).is_deprecated
    assert old not in [one.model.id for one in installation.catalogue.find()]


def test_a_prefix_of_two_versions_is_refused(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    seen: dict[str, str] = {}
    for price in range(2000):
        version = installation.view.register(replace(record, name="many", prompt_price=price))
        prefix = version[2:6]
        if prefix in seen:
            with pytest.raises(InvalidInput, match="2 versions"):
                installation.catalogue.resolve(f"{record.creator}/many@{prefix}")
            return
        seen[prefix] = version
    pytest.fail("no two of 2,000 versions share four digits")


@pytest.mark.parametrize("model", ["nothing", "0x12/docs", "", "0x" + "00" * 32, "0x" + "ab" * 32, "../etc"])
def test_an_unknown_model_is_not_found(installation: ScriptedInstallation, model: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        installation.catalogue.resolve(model)
    assert caught.value.param == "model"
    assert caught.value.code == "model_not_found"


def test_an_adapter_of_another_base_is_not_served(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    foreign = installation.view.register(replace(record, base_model=some_hash("another base")))
    with pytest.raises(ModelNotFound, match="base model"):
        installation.catalogue.resolve(foreign)
    assert foreign not in [one.model.id for one in installation.catalogue.find()]


def test_the_base_model_is_a_version_of_the_operator(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    base = installation.catalogue.resolve("tiny")
    assert base.is_base
    assert base.id == installation.base_version
    foreign_version = installation.view.register(
        replace(base.record, creator=some_account("another creator"))
    )
    assert installation.catalogue.resolve("tiny").id == installation.base_version
    assert installation.catalogue.base_model(installation.base) == base
    models = [one.model for one in installation.catalogue.find()]
    assert models[0].name == "tiny"
    assert foreign_version not in [model.id for model in models]


def test_another_creators_record_of_our_base_model_is_not_served(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    bare = replace(record, adapter_digest=ZERO_HASH, cid_digest=ZERO_HASH, snapshots=())
    foreign_version = installation.view.register(bare)
    for model in (foreign_version, f"{bare.creator}/docs@{foreign_version[2:14]}"):
        with pytest.raises(ModelNotFound, match="'tiny'"):
            installation.catalogue.resolve(model)


@pytest.mark.parametrize("price", ["prompt_price", "completion_price"])
def test_a_version_below_the_floor_price_is_not_served(
    installation: ScriptedInstallation, record: VersionRecord, price: str
) -> None:
    prices: dict[str, Any] = {price: 0}
    free = installation.view.register(replace(record, creator=some_account("copyist"), **prices))
    with pytest.raises(PriceBelowFloor) as caught:
        installation.catalogue.resolve(free)
    assert caught.value.details[f"operator_{price}"] == PRICE.render(0)
    assert "per million" in caught.value.message
    assert caught.value.details[f"floor_{price}"] == PRICE.render(1)
    assert free not in [one.model.id for one in installation.catalogue.find()]
    installation.denials.set_floor(FloorPrice(0, 0))
    assert installation.catalogue.resolve(free).id == free


def test_a_copy_that_gives_the_operator_little_of_its_price_is_not_served(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    """Its payer may be its creator, who gets the rest of a high price back."""
    installation.denials.set_floor(FloorPrice(2, 4))
    shares = {"snapshots": (), "prompt_price": 30, "completion_price": 60, "creator_ppm": 650_000}
    copy = replace(record, creator=some_account("payer"), operator_ppm=50_000, **shares)
    with pytest.raises(PriceBelowFloor, match="50,000 ppm of the model's prices") as caught:
        installation.catalogue.resolve(installation.view.register(copy))
    assert caught.value.details == {
        "operator_prompt_price": PRICE.render(1),
        "operator_completion_price": PRICE.render(3),
        "floor_prompt_price": PRICE.render(2),
        "floor_completion_price": PRICE.render(4),
    }
    assert installation.catalogue.resolve(installation.version).id == installation.version
    own = replace(copy, creator=installation.operator)
    installation.catalogue.resolve(installation.view.register(own))


def test_the_record_that_sells_training_is_not_the_base_model(installation: ScriptedInstallation) -> None:
    """It is the newest record without an adapter, and the operator's own."""
    training = installation.training_record
    newest = installation.view.register(replace(training, prompt_price=7))
    [base] = [one.model for one in installation.catalogue.find() if one.model.is_base]
    assert base.id == installation.base_version == installation.catalogue.resolve("tiny").id
    for name in (newest, f"{training.creator}/training"):
        with pytest.raises(ModelNotFound, match="prices training"):
            installation.catalogue.resolve(name)


def test_an_adapters_digest_means_the_newest_version_of_who_registered_it_first(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    newer = installation.view.register(replace(record, prompt_price=11))
    installation.view.register(replace(record, creator=some_account("copyist"), prompt_price=12))
    assert installation.catalogue.resolve(record.adapter_digest).id == newer


def test_an_adapter_of_another_base_model_is_found(
    installation: ScriptedInstallation, record: VersionRecord
) -> None:
    foreign = replace(record, base_model=some_hash("another base"))
    version = installation.view.register(foreign)
    for name in (version, f"{record.creator}/docs", f"{record.creator}/docs@{version[2:10]}"):
        assert adapter_record(installation, name) == foreign


def test_an_unregistered_version_is_reported_with_the_indexed_block(
    installation: ScriptedInstallation,
) -> None:
    cursor = installation.view.cursor()
    assert cursor is not None
    for name in ("tiny", installation.base_version, "0x" + "ab" * 32):
        with pytest.raises(
            ModelNotFound, match=f"up to block {cursor.number}, .*`loraledger index` continues"
        ):
            adapter_record(installation, name)


def test_without_an_index_nothing_is_said_of_adapters_but_how_to_make_one(
    installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation.view, "cursor", lambda: None)
    for name in (installation.version, "nothing"):
        with pytest.raises(Unavailable, match="run `loraledger index` and try again"):
            adapter_record(installation, name)
