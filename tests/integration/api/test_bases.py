"""One operator with two base models, through the API: `model` decides which of them is used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.domain.catalogue import BaseModel
from backend.domain.ids import SnapshotId
from backend.domain.money import PRICE
from backend.domain.registries import Operator
from tests.integration.api.conftest import FUNDS
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import TRAINING_PRICE, ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import VersionId
    from tests.integration.api.conftest import Api
    from tests.support.scripted_engine import ScriptedEngine

LARGE = some_hash("large base")
LARGE_PRICE, LARGE_TRAINING = 7, 5
SNAPSHOT = some_hash("snapshot")


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.serve_also(BaseModel(LARGE, "large", built.operator, LARGE_TRAINING, ("dora",)), LARGE_PRICE)
    built.fund(FUNDS)
    built.record_rows(20)
    return built


@pytest.fixture
def engine(installation: ScriptedInstallation) -> ScriptedEngine:
    """Of the second base model."""
    found = installation.engines[LARGE]
    found.words, found.max_context, found.weight_format = ("Hi", "."), 99, "int8"
    return found


@pytest.fixture
def adapter(installation: ScriptedInstallation) -> VersionId:
    """An adapter of the second base model."""
    with installation.read() as tx:
        record = tx.chain.version(installation.version)
    assert record is not None
    other = {"adapter_digest": some_hash("other adapter"), "base_model": LARGE, "name": "essays"}
    return installation.view.register(replace(record, creator=some_account("another creator"), **other))


def test_each_base_is_listed_with_its_own_engine_price_and_terms(
    api: Api, engine: ScriptedEngine, adapter: VersionId
) -> None:
    api.installation.engine.is_gone = True
    with api.http() as http:
        models = {one["version_id"]: one for one in http.get("/v1/models").json()["data"]}
        [sold] = [one for one in models.values() if one["id"] == "large"]
        assert (sold["context_length"], sold["weight_format"]) == (99, "int8")
        assert sold["prompt_price"] == PRICE.render(LARGE_PRICE)
        assert models[adapter]["root"] == "large"
        first = models[api.installation.version]
        assert (first["root"], first["context_length"]) == ("tiny", None)
        for asked in ("large", LARGE):
            listed = http.get("/v1/models", params={"base": asked}).json()["data"]
            assert {one["version_id"] for one in listed} == {sold["version_id"], adapter}
        found = http.get("/v1/models", params={"q": "large"}).json()["data"]
        assert [one["id"] for one in found] == ["large"]
        card = http.get("/v1/operator").json()
    assert [base["name"] for base in card["bases"]] == ["tiny", "large"]
    assert card["bases"][1]["training_price"] == PRICE.render(LARGE_TRAINING)
    assert (card["bases"][1]["not_served"], card["bases"][1]["weight_format"]) == (["dora"], "int8")
    assert (card["bases"][0]["not_served"], card["bases"][0]["weight_format"]) == ([], None)


def test_an_answer_comes_from_the_base_of_its_model_and_is_paid_by_its_record(
    api: Api, engine: ScriptedEngine, adapter: VersionId
) -> None:
    with api.http() as http:
        for model, sent in (("large", 1), (adapter, 2)):
            answer = http.post("/v1/completions", json={"model": model, "prompt": "a b"}).json()
            assert answer["choices"][0]["text"] == "Hi."
            assert (len(engine.requests), api.installation.engine.requests) == (sent, [])
            receipt = http.get(f"/v1/receipts/{answer['loraledger']['receipt_id']}").json()
            version = http.get(f"/v1/models/{model}").json()["version_id"]
            assert [part["version_id"] for part in receipt["slices"]] == [version]
        assert int(answer["loraledger"]["charge"]["micro_units"]) > 0
        first = http.post("/v1/completions", json={"model": "tiny", "prompt": "a b"}).json()
    assert first["choices"][0]["text"] == "Hello there, world."
    assert len(engine.requests) == 2


def test_a_blend_has_one_base(api: Api, engine: ScriptedEngine, adapter: VersionId) -> None:
    parts = [{"model": adapter, "weight": 0.5}, {"model": api.installation.version, "weight": 0.5}]
    asked: dict[str, Any] = {"model": "large", "prompt": "a", "loraledger": {"blend": parts}}
    with api.http() as http:
        refused = http.post("/v1/completions", json=asked)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
        assert "is no adapter of the base model 'large'" in refused.json()["error"]["message"]
        asked["loraledger"]["blend"] = parts[:1]
        assert http.post("/v1/completions", json=asked).status_code == 200
    assert len(engine.requests) == 1


def test_an_adapter_of_a_base_that_is_not_served_is_refused_by_name(api: Api) -> None:
    with api.installation.read() as tx:
        record = tx.chain.version(api.installation.version)
    assert record is not None
    foreign = api.installation.view.register(replace(record, base_model=some_hash("foreign")))
    with api.http() as http:
        refused = http.post("/v1/completions", json={"model": foreign, "prompt": "a"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (404, "model_not_found")
    assert some_hash("foreign") in error["message"]
    assert "'tiny'" in error["message"]
    assert "'large'" in error["message"]


def test_a_job_trains_the_base_that_it_names_at_its_price(api: Api, adapter: VersionId) -> None:
    path = "/v1/fine_tuning/jobs"
    with api.http(api.session) as http:
        for model, base, price in (
            (None, "tiny", TRAINING_PRICE),
            ("large", "large", LARGE_TRAINING),
            (adapter, "large", LARGE_TRAINING),
        ):
            wanted = {"training_file": SNAPSHOT, "hyperparameters": {"n_epochs": 1, "max_length": 51}}
            wanted |= {} if model is None else {"model": model}
            assert http.post(f"{path}/estimate", json=wanted).json()["price"] == PRICE.render(price)
            job = http.post(path, json=wanted).json()
            assert (job["model"], job["payment"]["price"]) == (base, PRICE.render(price))
            assert http.get(f"{path}/{job['id']}").json()["model"] == base
        wanted = {"training_file": SNAPSHOT, "model": "large"}
        other = {"hyperparameters": {"parent": api.installation.version}}
        refused = http.post(path, json=wanted | other).json()["error"]
        assert (refused["code"], refused["param"]) == ("invalid_parent", "parent")


def test_a_base_that_is_not_trained_is_refused_by_name(tmp_path: Path, sqlite_database: Database) -> None:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.serve_also(BaseModel(LARGE, "large", built.operator, None), LARGE_PRICE)
    create = built.services.training.create
    with pytest.raises(Exception, match="does not train large; it trains: tiny") as caught:
        create(built.payer.account, SnapshotId(SNAPSHOT), {}, base=LARGE)
    assert caught.value.code == "not_trained"  # type: ignore[attr-defined]


def test_an_import_names_its_base(api: Api) -> None:
    wanted: dict[str, Any] = {"licence": "MIT", "files": {}}
    with api.http(api.session) as http:
        refused = http.post("/v1/adapters", json=wanted).json()["error"]
        assert (refused["code"], refused["param"]) == ("unknown_base", "model")
        assert "Name the base model: this operator serves 'tiny'" in refused["message"]
        unknown = http.post("/v1/adapters", json=wanted | {"model": "huge"}).json()["error"]
        assert "'huge' is not served here" in unknown["message"]
        named = http.post("/v1/adapters", json=wanted | {"model": "large"}).json()["error"]
        assert named["code"] == "file_missing"


def test_the_pages_offer_each_base(api: Api, adapter: VersionId) -> None:
    found = httpx.get(api.url).text
    assert "specialises tiny or large on data" in found
    assert '<option value="large"' in found
    own = api.installation.operator
    api.installation.view.operator_list.append(Operator(own, "https://own", (), 1))
    assert "<bdi>large</bdi>" in httpx.get(f"{api.url}/o/{own}").text
    # A link may name an adapter by its version, which no suggestion does.
    play = httpx.get(f"{api.url}/play", params={"left": adapter}).text
    assert f'<option value="{adapter}" data-base="large" selected>' in play
