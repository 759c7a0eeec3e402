"""Denials as clients see them, and the commands of docs/operating.md."""

from __future__ import annotations

import json
import re
import shlex
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import openai
import pytest
from typer.testing import CliRunner

from backend.chain.local_node import ROOT
from backend.cli.main import app
from backend.cli.operator import membership as membership_commands
from backend.cli.operator import policy, replicas
from backend.domain.content import cid_digest, cid_of
from backend.domain.denials import FloorPrice, Reason, Subject
from backend.domain.hashing import version_id
from backend.domain.money import PRICE
from backend.installation.installation import Installation
from backend.services.operator.key_rotation import KeyRotation
from backend.services.operator.membership import Membership
from backend.services.operator.receipt_keys import ReceiptKeys
from backend.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.api.conftest import Api
    from tests.support.scripted_installation import ScriptedInstallation

HELLO: Any = [{"role": "user", "content": "say hello"}]
GUIDE = ROOT / "docs" / "operating.md"


class Registry:
    """An operator registry with one key."""

    def __init__(self, key: str, operator: str) -> None:
        self.key, self.operator = key, operator

    def call(self, _contract: str, function: str, key: str) -> Any:
        if function == "retiredAt":
            return 0
        return self.operator if key == self.key else "0x" + 40 * "0"

    def balance(self, _account: str) -> int:
        return 1

    def prepare(self, *_args: Any, **_options: Any) -> None: ...


def rotation_of(installation: ScriptedInstallation) -> KeyRotation:
    key, own = installation.receipt_key, installation.operator
    chain: Any = Registry(key.account, own)
    keys = ReceiptKeys(own, lambda: key, lambda: installation.held_keys)
    return KeyRotation(installation.db, chain, own, keys, installation.counterparty.receipts)


def ask(api: Api, model: str | None = None) -> Any:
    return api.openai.chat.completions.create(model=model or api.installation.version, messages=HELLO)


def test_a_taken_down_adapter_is_a_451_while_the_answer_under_way_ends_and_is_paid(api: Api) -> None:
    installation, answers = api.installation, []
    installation.engine.waits_after = 2
    record = installation.host_adapter("hosted", b"weights")
    model = version_id(record)
    asking = threading.Thread(target=lambda: answers.append(ask(api, model)))
    asking.start()
    assert installation.engine.is_waiting.wait(30)
    taken = installation.denials.take_down(record, Reason.LEGAL)
    with pytest.raises(openai.APIStatusError) as refused:
        ask(api, model)
    assert refused.value.status_code == 451
    assert refused.value.code == "model_withheld"
    assert refused.value.body["details"]["reason"] == "legal"  # type: ignore[index]
    assert not installation.denials.drop_folders(taken)
    installation.engine.waits_after = None
    installation.engine.wake()
    asking.join()
    (answer,) = answers
    assert answer.choices[0].message.content == "Hello there, world."
    assert installation.denials.drop_folders(taken)
    with api.http() as http:
        (receipt,) = http.get("/v1/receipts").json()["data"]
        assert receipt["id"] == answer.model_extra["loraledger"]["receipt_id"]
        gone = http.get(f"/ipfs/{cid_of(record.cid_digest)}", params={"format": "car"})
        assert (gone.status_code, gone.json()["error"]["code"]) == (451, "content_withheld")
        listed = [one["version_id"] for one in http.get("/v1/models").json()["data"]]
        assert set(listed) == {installation.base_version, installation.version}


def test_a_denied_payer_is_refused_before_any_work(api: Api) -> None:
    payer = Subject.parse("payer", api.installation.payer.account)
    api.installation.denials.deny(payer, Reason.HARMFUL)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        ask(api)
    assert refused.value.code == "payer_denied"
    assert api.installation.engine.counted == []
    api.installation.denials.allow(payer)
    assert ask(api).choices


@pytest.fixture
def opened(installation: ScriptedInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of the policy and of the operator open `installation`."""

    @contextmanager
    def opened() -> Iterator[Any]:
        known = installation.services
        nothing: Any = None
        membership = Membership(installation.db, nothing, installation.operator, nothing, nothing)
        yield SimpleNamespace(
            deployment=SimpleNamespace(chain_id=31337),
            key_rotation=rotation_of(installation),
            denials=known.denials,
            blobs=installation.blobs,
            catalogue=known.catalogue,
            membership=membership,
            prepare_database=lambda: None,
            check_database=lambda: None,
        )

    for module in (policy, membership_commands):
        monkeypatch.setattr(module, "open_installation", opened)


@pytest.fixture
def replicated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Installation:
    """What the commands of replicas open: an installation with two of them."""
    found = Installation(Settings(home=tmp_path, engine_replicas=2))
    monkeypatch.setattr(replicas, "open_installation", lambda: nullcontext(found))
    return found


def commands_of_guide() -> list[str]:
    """Without a section whose commands need a chain: tests/integration/settlement/test_next_generation.py."""
    left_out, flags = r"^## Moving to a new generation.*?(?=^## )", re.DOTALL | re.MULTILINE
    guide = re.sub(left_out, "", GUIDE.read_text(), flags=flags)
    return re.findall(r"^ *```sh\n(.*?)\n *```$", guide, flags)


@pytest.mark.usefixtures("opened")
def test_every_command_of_the_guide_does_what_the_page_says(
    installation: ScriptedInstallation, replicated: Installation
) -> None:
    said = []
    record = installation.host_adapter("hosted", b"weights")
    hosted, rows = version_id(record), installation.blobs.add_folder({"data.jsonl": b"{}"})
    installation.view.register(replace(record, cid_digest=cid_digest(rows)))
    commands = commands_of_guide()
    for command in commands:
        named = command.replace("$MODEL", hosted)
        named = named.replace("$LEAKED_KEY", installation.receipt_key.account)
        result = CliRunner().invoke(app, shlex.split(named)[1:])
        assert result.exit_code == 0, (command, result.output, result.exception)
        said.append(result.output)
    assert len(commands) == 10
    assert re.match(r"1 +down\n2 +down\n", said[7])
    assert replicated.engines.drained() == []
    assert "is queued" in said[0]
    assert f"retired key  {installation.receipt_key.account}\nnext key " in said[1]
    assert "floor price: 0.02 and 0.04 dollars per million prompt and completion tokens" in said[2]
    assert "datanet  7  licence" in said[3]
    assert said[4] == said[3]
    assert "is no longer denied" in said[5]
    assert f"deleted from the store: {cid_of(record.cid_digest)}\n" in said[6]
    assert f"not the adapter's: {rows}\nall local copies are deleted" in said[6]
    listed = CliRunner().invoke(app, ["policy", "list", "--json"]).output
    assert '"adapter"' in listed
    assert '"content"' in listed
    shown = CliRunner().invoke(app, ["policy", "floor", "--json"]).output
    assert json.loads(shown) == {"prompt": PRICE.render(20_000), "completion": PRICE.render(40_000)}
    refused = CliRunner().invoke(app, ["policy", "floor", "--prices", "-1", "4"])
    assert (refused.exit_code, "not negative" in refused.output) == (2, True)
    assert installation.denials.floor() == FloorPrice(20_000, 40_000)


def test_a_floor_price_counts_from_the_next_request_on_and_is_told(api: Api) -> None:
    asked, version = {"model": api.installation.version, "prompt": "a"}, api.installation.version
    with api.http() as http:
        assert http.post("/v1/completions", json=asked).status_code == 200
        api.installation.denials.set_floor(FloorPrice(11, 20))
        refused = http.post("/v1/completions", json=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "price_below_floor")
        assert refused.json()["error"]["details"]["floor_prompt_price"] == PRICE.render(11)
        assert http.get("/v1/models").json()["data"] == []
        [offer] = http.get("/v1/operator").json()["bases"]
        assert offer["min_prompt_price"] == PRICE.render(11)
        assert offer["min_completion_price"] == PRICE.render(20)
        api.installation.denials.set_floor(FloorPrice(0, 0))
        assert http.get("/v1/models").json()["data"][-1]["version_id"] == version
