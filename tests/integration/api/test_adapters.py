"""Imported adapters: uploaded by the reference tus client, listed, and paid for."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tusclient.client import TusClient

from backend.domain.adapter_files import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE
from backend.domain.content import cid_digest
from backend.domain.screening import Inspection
from backend.domain.training import Step, TrainingResult
from backend.services.market.screening import Screening
from backend.services.train.leases import Leases
from tests.integration.api.conftest import sign_in
from tests.support.fakes import some_key
from tests.support.market import some_hash
from tests.unit.workers.support import transferred

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Cid
    from backend.ports.storage import BlobStore
    from backend.services.train.payments import Payments
    from tests.integration.api.conftest import Api

LISTING = {
    "name": "mine",
    "prompt_price": "30",
    "completion_price": "40",
    "operator_ppm": 0,
    "creator_ppm": 1,
}
RESULT = TrainingResult(
    some_hash("brought"), some_hash("base model"), {"general_loss_base": 1.5, "general_loss_adapter": 1.25}
)


@pytest.fixture
def http(api: Api) -> Iterator[httpx.Client]:
    with api.http(api.session) as client:
        yield client


def brought(api: Api, http: httpx.Client) -> dict[str, Any]:
    client = TusClient(f"{api.url}/v1/transfers", headers={"Authorization": f"Bearer {api.session}"})
    files = {}
    for name in MAX_BYTES:
        uploader = client.uploader(file_stream=io.BytesIO(name.encode()), metadata={"filename": name})
        uploader.upload()
        files[name] = uploader.url.rpartition("/")[2]
    answer = http.post("/v1/adapters", json={"licence": "mit", "files": files})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def published(api: Api, adapter_id: str) -> Cid:
    """What workers do."""
    installation = api.installation
    return publish(installation.database, installation.blobs, installation.payments, adapter_id)


def publish(database: Database, blobs: BlobStore, payments: Payments, adapter_id: str) -> Cid:
    leases, screening = Leases(database, payments), Screening(database)
    held = leases.acquire(adapter_id, Step.VALIDATE)
    assert held is not None
    leases.complete_import(held, RESULT)
    held = leases.acquire(adapter_id, Step.PUBLISH)
    assert held is not None
    screening.add(Inspection(RESULT.adapter_digest, RESULT.base_model, bytes(range(64)) * 4, {}))
    cid = blobs.add_folder({CONFIG_FILE: b"{}", WEIGHTS_FILE: b"weights"})
    leases.complete_publication(held, cid)
    return cid


def test_it_is_brought_published_and_registered_by_its_creator(api: Api, http: httpx.Client) -> None:
    made = brought(api, http)
    assert (made["object"], made["status"], made["licence"]) == ("adapter", "validating", "MIT")
    path = f"/v1/adapters/{made['id']}"
    early = http.post(f"{path}/registration/prepare", json=LISTING)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_published")
    cid = published(api, made["id"])
    shown = http.get(path).json()
    assert (shown["status"], shown["cid"], shown["version_id"]) == ("succeeded", cid, None)
    assert (shown["adapter_digest"], shown["metrics"]) == (RESULT.adapter_digest, RESULT.metrics)
    prepared = http.post(f"{path}/registration/prepare", json=LISTING)
    assert prepared.status_code == 200, prepared.text
    assert prepared.json()["transaction"]["decoded"]["function"] == "register"
    assert prepared.json()["screening"]["nearest"] is None
    assert http.get("/v1/adapters").json()["data"] == [shown]
    messages = [event["message"] for event in http.get(f"{path}/events").json()["data"]]
    assert messages[0] == "The job is validating."
    assert messages[-2:] == [f"The adapter is published as {cid}.", "The job has succeeded."]
    page = http.get(f"{path}/events", params={"limit": 1}).json()
    rest = http.get(f"{path}/events", params={"after": page["next_cursor"]}).json()
    assert [event["message"] for event in page["data"] + rest["data"]] == messages


def test_a_copy_of_somebody_elses_is_named_and_needs_a_word(api: Api, http: httpx.Client) -> None:
    made = brought(api, http)
    published(api, made["id"])
    view = api.installation.view
    docs = view.version(api.installation.version)
    assert docs is not None
    original = view.register(replace(docs, adapter_digest=RESULT.adapter_digest, name="original"))
    path = f"/v1/adapters/{made['id']}/registration/prepare"
    refused = http.post(path, json=LISTING).json()["error"]
    assert (refused["code"], refused["details"]["version"]) == ("copied_version", original)
    assert http.post(path, json=LISTING | {"accepts_copy": True}).json()["screening"]["nearest"]["is_copy"]


def test_answers_of_it_pay_no_contributor(api: Api, http: httpx.Client) -> None:
    """Whose part goes to the treasury, as the settlement's tests have it for versions without snapshot."""
    made, view = brought(api, http), api.installation.view
    cid = published(api, made["id"])
    docs = view.version(api.installation.version)
    assert docs is not None
    listed = replace(
        docs,
        creator=api.installation.payer.account,
        name="mine",
        adapter_digest=RESULT.adapter_digest,
        cid_digest=cid_digest(cid),
        snapshots=(),
    )
    version = view.register(listed)
    answer = http.post("/v1/completions", json={"model": f"{listed.creator}/mine", "prompt": "a"})
    assert answer.status_code == 200, answer.text
    receipt = http.get(f"/v1/receipts/{answer.json()['loraledger']['receipt_id']}").json()
    (one,) = receipt["slices"]
    assert (one["shares"], int(receipt["receipt"]["charge"]) > 0) == ([], True)
    assert http.get(f"/v1/models/{version}").json()["licence"] is None
    api.installation.descriptions.refresh()
    assert http.get(f"/v1/models/{version}").json()["licence"] == "MIT"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"adapter_model.bin": "x"}, "unexpected_file", "adapter_model.bin"),
        ({"attribution.safetensors": "x"}, "unexpected_file", "attribution.safetensors"),
        ({"../../etc/passwd": "x"}, "unexpected_file", "../../etc/passwd"),
        ({WEIGHTS_FILE: None}, "file_missing", WEIGHTS_FILE),
        ({WEIGHTS_FILE: "transfer-" + "0" * 32}, "not_found", "transfer"),
    ],
)
def test_what_is_not_an_adapter_is_refused_by_name(
    api: Api, http: httpx.Client, changes: dict[str, str | None], code: str, param: str
) -> None:
    transfers, account = api.installation.services.transfers, api.installation.payer.account
    files: dict[str, str | None] = {name: transferred(transfers, account, b"x") for name in MAX_BYTES}
    sent = {name: value for name, value in (files | changes).items() if value is not None}
    error = http.post("/v1/adapters", json={"licence": "MIT", "files": sent}).json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert http.get("/v1/adapters").json()["data"] == []


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"tags": ["Upper"]}, "tags.0"),
        ({"tags": ["x"] * 17}, "tags"),
        ({"description": "\x1b[2J"}, "description"),
        ({"description": "x" * 4001}, "description"),
        ({"source": "a `b`"}, "source"),
    ],
)
def test_what_a_card_cannot_say_is_refused(
    api: Api, http: httpx.Client, said: dict[str, Any], param: str
) -> None:
    error = http.post("/v1/adapters", json={"licence": "MIT", "files": {}, **said}).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", param)


def test_it_is_no_training_and_nobody_elses(api: Api, http: httpx.Client) -> None:
    made = brought(api, http)
    assert http.get(f"/v1/fine_tuning/jobs/{made['id']}").status_code == 404
    assert http.post(f"/v1/fine_tuning/jobs/{made['id']}/cancel").status_code == 404
    with api.http(sign_in(api.url, some_key("another wallet"))) as other:
        assert other.get(f"/v1/adapters/{made['id']}").status_code == 404
        assert other.post(f"/v1/adapters/{made['id']}/cancel").status_code == 404
    assert http.post(f"/v1/adapters/{made['id']}/cancel").json()["status"] == "cancelled"


def test_a_refusal_of_the_engine_is_named(api: Api, http: httpx.Client) -> None:
    made = brought(api, http)
    leases = Leases(api.installation.database, api.installation.payments)
    held = leases.acquire(made["id"], Step.VALIDATE)
    assert held is not None
    leases.fail(held, {"code": "adapter_refused", "message": "no", "reason": "adapter_pickle"})
    error = http.get(f"/v1/adapters/{made['id']}").json()["error"]
    assert (error["code"], error["details"]) == ("adapter_refused", {"reason": "adapter_pickle"})
