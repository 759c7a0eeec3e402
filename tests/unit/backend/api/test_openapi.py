"""The OpenAPI document: complete, consistent with the routers, and equal to the snapshot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from tools.api_page import BEGIN, api_document, error_codes, snapshot, with_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

AMOUNTS = {
    *("amount", "available", "balance", "cap", "charge", "charged", "claimable", "claimed", "collected"),
    *("cumulative", "cumulative_total", "max_amount", "max_charge", "moving", "reserved", "spend"),
    *("slash_up_to", "spend_cap", "spent", "stake", "thawing", "total", "unclaimed", "units"),
}
PRICES = {
    *("price", "prompt_price", "completion_price", "training_price", "min_prompt_price"),
    "min_completion_price",
}
SIGNED = {"GrantBody", "MoveBody", "OpeningView", "ChargeBody", "ReceiptBody", "RelayBody", "VoucherRequest"}
"""Messages that are signed or hashed: they keep the protocol's integers."""


@pytest.fixture(scope="module")
def document() -> Json:
    return api_document()


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_the_snapshot_is_what_is_published(document: Json) -> None:
    """A change of the API shows in review; `make docs` writes it."""
    assert Path("tests/snapshots/openapi.json").read_text() == snapshot(document)


def test_references_lead_somewhere(document: Json) -> None:
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    assert set(document["components"]["schemas"]) <= names


def test_every_schema_is_a_json_schema(document: Json) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_amounts_and_prices_are_objects_except_in_signed_messages(document: Json) -> None:
    found = set()
    for name, schema in document["components"]["schemas"].items():
        if name in SIGNED or name == "VotingPowerView":  # which counts the market token
            continue
        for field, declared in schema.get("properties", {}).items():
            options = declared.get("anyOf", [declared])
            kinds = {
                str(option.get("$ref", "")).rpartition("/")[2].removesuffix("Input") for option in options
            }
            wanted = "Amount" if field in AMOUNTS else "Price" if field in PRICES else None
            assert wanted in {None, *kinds}, f"{name}.{field} is not of type {wanted}"
            found |= {field} if wanted else set()
            is_integer = any(option.get("pattern") == "^[0-9]{1,39}$" for option in options)
            assert not is_integer or name == "Amount" or field == "nonce", f"{name}.{field} has no unit"
    assert found >= {"balance", "charge", "spend_cap", "stake", "price", "prompt_price", "amount"}


def test_every_operation_says_who_may_call_it_and_how_it_refuses(document: Json) -> None:
    for method, path, operation in operations(document):
        has_token = "security" in operation
        assert operation["x-caller"] in ({"key", "session", "operator"} if has_token else {"anyone"}), (
            method,
            path,
        )
        assert {"4XX", "5XX"} <= set(operation["responses"])
        assert "422" not in operation["responses"]


def test_routes_that_move_money_need_a_wallets_session(document: Json) -> None:
    for path in (
        "/v1/deposits/relay",
        "/v1/moves/relay",
        "/v1/sessions/relay",
        "/v1/keys",
        "/v1/claims/relay",
    ):
        assert document["paths"][path]["post"]["x-caller"] == "session"
    assert document["paths"]["/v1/chat/completions"]["post"]["x-caller"] == "key"
    assert document["paths"]["/v1/models"]["get"]["x-caller"] == "anyone"


def test_a_post_takes_an_idempotency_key_unless_its_answer_cannot_be_kept(document: Json) -> None:
    takes = {
        path
        for method, path, operation in operations(document)
        if any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
    }
    posts = {path for method, path, _ in operations(document) if method == "post"}
    auth = {f"/v1/auth/{name}" for name in ("challenges", "sessions", "refresh")}
    webhooks = {"/v1/webhook_endpoints", "/v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret"}
    uploads = {"/v1/contributions", "/v1/files", "/v1/transfers"}
    assert posts - takes == auth | webhooks | uploads | {"/v1/keys"}
    assert takes <= posts


def test_operations_are_named_by_their_functions(document: Json) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert "create_chat_completion" in names
    assert len(names) == len(set(names))


def test_every_error_code_has_a_status_and_a_meaning() -> None:
    codes = error_codes()
    assert {"insufficient_balance", "invalid_schema", "idempotency_key_reused", "invalid_json"} <= set(codes)
    assert codes["insufficient_balance"][0] == 402
    assert not [code for code, (status, meaning) in codes.items() if not meaning or status < 400]


def test_the_page_has_every_endpoint_and_every_code(document: Json) -> None:
    page = Path("docs/api.md").read_text()
    assert with_reference(page, document) == page
    reference = page.split(BEGIN)[1]
    assert all(f"`{method.upper()} {path}`" in reference for method, path, _ in operations(document))
    assert all(f"| `{code}` |" in reference for code in error_codes())
