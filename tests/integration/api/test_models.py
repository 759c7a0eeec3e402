"""Models as clients of other gateways read them, and searches for models."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from backend.cli.main import app
from backend.client.errors import ApiError
from backend.db.tables.live_agreement import LiveAgreementRow, LiveSampleRow
from backend.domain.attribution import INDEX_FILE
from backend.domain.content import cid_digest
from backend.domain.hashing import licence_word
from backend.domain.ids import SnapshotId
from backend.domain.registries import Contribution
from tests.support.market import some_account, some_hash
from tests.support.terminal import act_as_payer

if TYPE_CHECKING:
    from click.testing import Result

    from tests.integration.api.conftest import Api


def test_prices_are_exact_dollars_per_token(api: Api) -> None:
    with api.http() as http:
        for model in http.get("/v1/models").json()["data"]:
            for kind in ("prompt", "completion"):
                per_token = Decimal(model["pricing"][kind])
                assert per_token * 10**6 == Decimal(model[f"{kind}_price"]["usd_per_million_tokens"])
                assert per_token > 0


def test_a_charge_follows_from_the_prices(api: Api) -> None:
    with api.http(api.key) as http:
        prices = http.get("/v1/models/tiny").json()["pricing"]
        answer = http.post("/v1/completions", json={"model": "tiny", "prompt": "a b"}).json()
    usage = answer["usage"]
    cost = sum(usage[f"{kind}_tokens"] * Decimal(prices[kind]) for kind in ("prompt", "completion"))
    assert Decimal(answer["loraledger"]["charge"]["usd"]) == cost
    assert usage["cost"] == float(cost)


def test_context_and_format_of_the_weights_are_stated_while_the_engine_runs(api: Api) -> None:
    engine = api.installation.engine
    engine.weight_format = "int8"
    with api.http() as http:
        stated = http.get("/v1/models/tiny").json()
        assert (stated["context_length"], stated["weight_format"]) == (engine.max_context, "int8")
        assert http.get("/v1/operator").json()["bases"][0]["weight_format"] == "int8"


def test_models_are_listed_without_an_engine(api: Api) -> None:
    api.installation.engine.is_gone = True
    with api.http() as http:
        listed = http.get("/v1/models").json()["data"]
    assert {(model["context_length"], model["weight_format"]) for model in listed} == {(None, None)}


def described(api: Api) -> Api:
    """The scripted adapter, and a dearer one with a card that is not loaded."""
    installation = api.installation
    docs = installation.catalogue.record(installation.version)
    cid = installation.blobs.add_folder(
        {"README.md": b"---\ntags: [verse]\n---\n# Sonnets\n\nFourteen lines."}
    )
    digest = some_hash("sonnets")
    sonnets = replace(
        docs, name="sonnets", adapter_digest=digest, cid_digest=cid_digest(cid), completion_price=3_000_000
    )
    installation.view.register(sonnets)
    installation.record_rows(5)
    installation.descriptions.refresh()
    return api


def found(api: Api, **params: Any) -> list[str]:
    """Names of the models found, without owner and version."""
    with api.http() as http:
        answer = http.get("/v1/models", params=params)
        assert answer.status_code == 200, answer.text
        ids = [model["id"] for model in answer.json()["data"]]
    return [name.partition("@")[0].rpartition("/")[2] for name in ids]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["tiny", "docs", "sonnets"]),
        ({"q": "Fourteen VERSE"}, ["sonnets"]),
        ({"q": "tiny"}, ["tiny"]),
        ({"max_price": "2.99"}, ["tiny", "docs"]),
        ({"max_price": "3"}, ["tiny", "docs", "sonnets"]),
        ({"active": "false"}, ["docs", "sonnets"]),
        ({"active": "true"}, ["tiny"]),
        ({"base": "tiny", "sort": "newest"}, ["sonnets", "docs", "tiny"]),
        ({"base": some_hash("base model"), "sort": "price"}, ["tiny", "docs", "sonnets"]),
        ({"licence": "0BSD"}, []),
    ],
)
def test_models_are_searched(api: Api, params: dict[str, Any], expected: list[str]) -> None:
    assert found(described(api), **params) == expected


def test_a_licence_finds_what_can_be_met_with_it(api: Api) -> None:
    snapshot = api.installation.view.snapshots[SnapshotId(some_hash("snapshot"))]
    terms = {0: "MIT", 1: "Apache-2.0", 3: "MIT"}
    for index, licence in terms.items():
        content = Contribution(
            snapshot.datanet, index, some_account("x"), some_hash(licence), some_hash("f"),
            licence_word(licence), 1, True, 0, 1, 1,
        )  # fmt: skip
        api.installation.view.recorded.append(content)
    api.installation.descriptions.refresh()
    assert found(api, licence="MIT") == []
    assert found(api, licence="apache-2.0 or mit") == ["docs"]
    with api.http() as http:
        docs = http.get(f"/v1/models/{api.installation.version}").json()
    assert docs["lineage"] == {
        "parents": None,
        "snapshots": [some_hash("snapshot")],
        "num_contributions": 3,
        "licences": ["Apache-2.0", "MIT"],
    }


def test_a_model_has_its_card_and_only_alone_the_whole_text(api: Api) -> None:
    described(api)
    with api.http() as http:
        listed = http.get("/v1/models", params={"q": "sonnets"}).json()["data"][0]
        alone = http.get(f"/v1/models/{listed['version_id']}").json()
        base = http.get("/v1/models/tiny").json()
    card = {"title": "Sonnets", "summary": "Fourteen lines.", "tags": ["verse"]}
    assert listed["card"] == card | {"text": None}
    assert alone == listed | {"card": card | {"text": "# Sonnets\n\nFourteen lines."}}
    assert (base["card"], base["metrics"], base["quality"], base["num_answers"]) == (None, {}, None, 0)


def stating(api: Api, stated: dict[str, str]) -> str:
    """A version whose index states agreements with the gradient."""
    installation = api.installation
    docs = installation.catalogue.record(installation.version)
    index = save({"rows": np.ones(1, dtype=np.int64)}, stated)
    cid = installation.blobs.add_folder({"README.md": b"# Measured", INDEX_FILE: index})
    digest = some_hash("measured")
    measured = replace(docs, name="measured", adapter_digest=digest, cid_digest=cid_digest(cid))
    version: str = installation.view.register(measured)
    installation.descriptions.refresh()
    return version


def test_a_model_has_the_agreement_that_its_folder_states(api: Api) -> None:
    version = stating(
        api,
        {
            "methods": "distilled-1 distilled-error-1",
            "distilled_agreement": "0.5",
            "distilled_error_agreement": "-0.25",
            "num_kept_out": "12",
        },
    )
    with api.http() as http:
        measured = http.get(f"/v1/models/{version}").json()["agreement"]
        other = http.get(f"/v1/models/{api.installation.version}").json()["agreement"]
    assert measured == {"by_method": {"distilled-1": 0.5, "distilled-error-1": -0.25}, "num_answers": 12}
    assert other is None


def test_a_model_and_its_operator_have_the_live_agreement(api: Api) -> None:
    version, answers = api.installation.version, [some_hash(f"live {number}") for number in range(4)]
    with api.http() as http:
        assert http.get(f"/v1/models/{version}").json()["live_agreement"] is None
        assert http.get("/v1/operator").json()["live_agreement"] is None
    with api.installation.begin() as tx:
        for answer in answers:
            tx.session.add(LiveSampleRow(response_hash=answer, version_id=version, served_at=1))
        tx.session.add(LiveAgreementRow(version_id=version, num_sampled=4))
    with api.installation.begin() as tx:
        tx.live_agreements.measure(answers[0], {version: 600_000})
        tx.live_agreements.measure(answers[1], {version: -100_000})
        tx.live_agreements.measure(answers[2], {version: None})
        tx.live_agreements.measure(answers[0], {version: 600_000})
    expected = {"mean": 0.25, "num_answers": 2, "num_missing": 1}
    with api.http() as http:
        assert http.get(f"/v1/models/{version}").json()["live_agreement"] == expected
        assert http.get("/v1/operator").json()["live_agreement"] == expected
        page = http.get(f"/m/{version}", headers={"accept": "text/html"}).text
    assert "<strong>0.25</strong> on average over 2; 1 missing." in page


@pytest.mark.parametrize(
    ("params", "code", "param", "says"),
    [
        ({"licenses": "MIT"}, "unknown_parameter", "licenses", "unknown"),
        ({"sort": "best"}, "invalid_parameter", "sort", "'newest', 'price', 'quality' or 'usage'"),
        ({"max_price": "-1"}, "invalid_parameter", "max_price", "not negative"),
        ({"max_price": "1e3"}, "invalid_parameter", "max_price", "such as"),
        ({"max_price": ""}, "invalid_parameter", "max_price", "such as"),
        ({"active": "perhaps"}, "invalid_parameter", "active", "boolean"),
        ({"licence": "my own"}, "unknown_licence", "licence", "SPDX"),
        ({"licence": ""}, "unknown_licence", "licence", "required"),
        ({"base": "huge"}, "unknown_base", "base", "'tiny'"),
        ({"q": "x" * 201}, "invalid_parameter", "q", "200"),
        ({"q": " ".join("abcdefghijk")}, "invalid_input", "q", "at most 10 words"),
        ({"limit": 0}, "invalid_parameter", "limit", "1"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_name(
    api: Api, params: dict[str, Any], code: str, param: str, says: str
) -> None:
    with api.http() as http:
        answer = http.get("/v1/models", params=params)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    assert says in error["message"]


def test_a_cursor_of_another_query_is_refused(api: Api) -> None:
    with api.http() as http:
        cursor = http.get("/v1/models", params={"sort": "price", "limit": 1}).json()["next_cursor"]
        same = http.get("/v1/models", params={"sort": "price", "limit": 2, "after": cursor})
        other = http.get("/v1/models", params={"sort": "newest", "limit": 1, "after": cursor})
    assert same.status_code == 200
    assert (other.status_code, other.json()["error"]["param"]) == (400, "after")
    assert other.json()["error"]["code"] == "cursor_of_another_query"


def test_the_stock_client_lists_and_retrieves_models(api: Api) -> None:
    described(api)
    ids = [model.id for model in api.openai.models.list()]
    assert len(ids) == 3
    assert {api.openai.models.retrieve(name).id for name in ids} == set(ids)
    [one] = api.openai.models.list(extra_query={"q": "sonnets"}).data
    assert one.model_extra is not None
    assert one.model_extra["card"]["title"] == "Sonnets"


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def test_the_command_line_searches_too(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as_payer(described(api), monkeypatch)
    result = typed(
        "fourteen", "verse", "--max-price", "3.00", "--inactive", "--base", "tiny", "--sort", "price"
    )
    assert result.exit_code == 0, result.output
    [model, facts, summary] = result.output.splitlines()
    assert "/sonnets@" in model
    assert "3 dollars per million" in model
    assert (facts, summary) == ("  licence unknown, 0 answers in 7 days", "  Fourteen lines.")
    everything = json.loads(typed("--json").output)
    assert len(everything) == 3
    assert typed("--max-price", "three").exit_code == 2
    shown = CliRunner().invoke(app, ["adapter", "show", str(everything[-1]["version_id"])]).output
    assert shown.endswith("  # Sonnets\n  \n  Fourteen lines.\n")


def test_an_unknown_licence_ends_the_command(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as_payer(api, monkeypatch)
    result = typed("--licence", "my own")
    assert isinstance(result.exception, ApiError)
    assert result.exception.param == "licence"
