"""Answers by a blend of several adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from openai import BadRequestError, PermissionDeniedError
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.content import cid_of
from backend.domain.denials import Reason, Subject
from backend.domain.errors import InvalidInput
from backend.domain.money import AMOUNT
from tests.support.market import some_hash
from tests.support.terminal import act_as_payer

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

ASKED: dict[str, Any] = {"model": "tiny", "prompt": "a b", "max_tokens": 4}


@pytest.fixture
def names(api: Api) -> list[str]:
    """Two adapters. The second one costs ten times as much and has no snapshot."""
    installation = api.installation
    first = installation.catalogue.resolve(installation.version)
    other = replace(
        first.record,
        name="other",
        adapter_digest=some_hash("other adapter"),
        cid_digest=some_hash("other folder"),
        snapshots=(),
        prompt_price=100,
        completion_price=200,
    )
    installation.store.folders[cid_of(other.cid_digest)] = lambda _: None
    return [first.name, installation.catalogue.resolve(installation.view.register(other)).name]


def blend(*weighted: tuple[str, float]) -> dict[str, Any]:
    return {"loraledger": {"blend": [{"model": name, "weight": weight} for name, weight in weighted]}}


def test_each_adapter_is_paid_by_its_weight_at_its_price(api: Api, names: list[str]) -> None:
    mixed = blend((names[0], 0.6), (names[1], 0.2))
    answer = api.openai.completions.create(**ASKED, extra_body=mixed)
    bill = (answer.model_extra or {})["loraledger"]
    assert answer.model == "tiny"
    tokens = answer.usage
    assert tokens is not None
    full = [tokens.prompt_tokens * price + tokens.completion_tokens * 2 * price for price in (10, 100)]
    assert AMOUNT.parse(bill["charge"]) == full[0] * 3 // 4 + full[1] // 4
    first, second = bill["attribution"]
    assert (first["weight_ppm"], second["weight_ppm"]) == (750_000, 250_000)
    assert sum(share["ppm"] for share in first["shares"]) == 1_000_000
    assert second["shares"] == []
    (sent,) = api.installation.engine.requests
    assert sent.adapter is None
    assert [part.weight for part in sent.blend.parts] == [0.6, 0.2]
    assert sent.probe


def test_the_attribution_of_an_answer_is_its_receipts_summed_up_by_account(
    api: Api, names: list[str]
) -> None:
    asked = {"extra_body": blend((names[0], 0.6), (names[1], 0.2))}
    bill = (api.openai.completions.create(**ASKED, **asked).model_extra or {})["loraledger"]
    with api.http() as http:
        receipt = http.get(f"/v1/receipts/{bill['receipt_id']}").json()
        found = http.get(f"/v1/attribution/{bill['receipt_id']}").json()
    assert found["receipt_id"] == receipt["id"]
    assert (found["method"], found["slices"]) == (receipt["method"], receipt["slices"])
    shares = receipt["slices"][0]["shares"]
    expected = {share["contributor"]: share["ppm"] * 750_000 // 1_000_000 for share in shares}
    assert {each["account"]: each["ppm"] for each in found["accounts"]} == expected
    assert len(expected) == 3
    assert [each["ppm"] for each in found["accounts"]] == sorted(expected.values(), reverse=True)


def test_a_stream_of_a_blend_has_its_bill_too(api: Api, names: list[str]) -> None:
    messages: Any = [{"role": "user", "content": "hello"}]
    stream = api.openai.chat.completions.create(
        model="tiny", messages=messages, stream=True, extra_body=blend((names[0], 0.5), (names[1], 0.5))
    )
    *_, last = stream
    assert len((last.model_extra or {})["loraledger"]["attribution"]) == 2


@pytest.mark.parametrize("weights", [(0.0, 0.5), (-0.5, 0.5), (5.0,), (0.2, 0.2, 0.2, 0.2, 0.2), ()])
def test_weights_out_of_bounds_are_refused(api: Api, names: list[str], weights: tuple[float, ...]) -> None:
    with pytest.raises(BadRequestError) as refused:
        api.openai.completions.create(**ASKED, extra_body=blend(*((names[0], weight) for weight in weights)))
    assert refused.value.code == "invalid_parameter"
    assert str(refused.value.param).startswith("loraledger.blend")


def test_what_is_no_blend_is_refused_before_anything_is_charged(api: Api, names: list[str]) -> None:
    for model, mixed, param in (
        (names[0], blend((names[1], 1.0)), "model"),
        ("tiny", blend(("tiny", 1.0)), "loraledger.blend"),
        ("tiny", blend((names[0], 0.5), (names[0], 0.25)), "loraledger.blend"),
        ("tiny", blend((names[0], 0.9), (names[1], 0.2)), "loraledger.blend"),
        ("tiny", blend((names[0], 1.5)), "loraledger.blend"),
    ):
        with pytest.raises(BadRequestError) as refused:
            api.openai.completions.create(**ASKED | {"model": model}, extra_body=mixed)
        assert refused.value.param == param
    assert api.installation.engine.requests == []


def test_an_adapter_that_is_denied_is_denied_in_a_blend(api: Api, names: list[str]) -> None:
    denied = api.installation.catalogue.resolve(names[1]).record.adapter_digest
    api.installation.denials.deny(Subject.parse("adapter", denied), Reason.POLICY)
    with pytest.raises(PermissionDeniedError):
        api.openai.completions.create(**ASKED, extra_body=blend((names[0], 0.5), (names[1], 0.5)))


def test_the_command_line_asks_a_blend(api: Api, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    act_as_payer(api, monkeypatch)
    asked = ["chat", "tiny", "hello", "--blend", f"{names[0]}=0.6", "--blend", f"{names[1]}=0.2"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, (done.output, done.exception)
    (sent,) = api.installation.engine.requests
    assert [part.weight for part in sent.blend.parts] == [0.6, 0.2]
    for part in ("0.5", "=0.5", f"{names[0]}=", f"{names[0]}=nan"):
        refused = CliRunner().invoke(app, ["chat", "tiny", "hello", "--blend", part])
        assert isinstance(refused.exception, InvalidInput), part
