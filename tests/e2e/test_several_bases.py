"""Two base models under one `loraledger up`: answers, an imported and a trained adapter of each, a kill."""

from __future__ import annotations

import json
import operator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.cli.operator.demo import actions
from backend.cli.operator.demo.questions import Question, ask_all
from backend.cli.snapshots import freeze
from backend.client.payments import create_key, deposit
from backend.client.registries import create_datanet
from backend.client.waiting import wait_until
from backend.domain.money import PRICE
from tests.e2e.test_stack import CONSUMER, DEPOSIT_UNITS, await_final, running
from tests.fixtures_engine import make_model
from tests.support.adapters import write_adapter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from backend.client.api import ApiClient
    from tests.e2e.test_stack import Stack

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1800)]
CREATOR = 6
NAMES = ("small", "large")
OPTIONS = ("--set", "rank=4", "--set", "epochs=1", "--set", "batch_size=4", "--set", "max_length=64")


def bases(folder: Path) -> dict[str, Path]:
    """Two random models that differ in width."""
    return {name: make_model(folder / name, hidden_size=64 * (1 + n)) for n, name in enumerate(NAMES)}


def test_each_model_is_served_paid_and_trained_on_its_base(tmp_path: Path) -> None:
    folders = bases(tmp_path)
    entries = [
        {"model": str(folders["small"]), "prices": [200_000, 400_000]},
        {"model": str(folders["large"]), "prices": [800_000, 1_600_000], "replicas": 2},
    ]
    settings = {
        "LORALEDGER_BASES": json.dumps(entries),
        "LORALEDGER_ENGINE_DTYPE": "float32",
        "LORALEDGER_ENGINE_THREADS": "1",
        "LORALEDGER_TRAINER_THREADS": "1",
    }
    with running(tmp_path / "home", tmp_path / "up.log", **settings) as stack:
        with stack.market(CONSUMER) as payer, stack.market(CREATOR) as creator:
            deposit(payer, DEPOSIT_UNITS)
            deposit(creator, DEPOSIT_UNITS)
            key = create_key(payer, "bases")
            assert {"engine", "engine-2", "engine-3"} <= stack.facts["processes"].keys()
            imported = [_import(stack, folders, name, tmp_path / f"{name}-adapter") for name in NAMES]
            trained = train(stack, creator, NAMES)
            models = {one["id"]: one for one in payer.get("/v1/models")["data"]}
            are_answered(stack, payer, key, [*NAMES, *imported, *trained])
            for name in NAMES:
                listed = payer.get("/v1/models", base=name)["data"]
                assert {one["root"] for one in listed} == {name}
                assert len(listed) == 3
            assert models["large"]["prompt_price"] != models["small"]["prompt_price"]
            _survives_the_loss_of_a_replica(stack, key)
        batches = json.loads(stack.run("audit", "--json"))
        assert all(batch["is_right"] for batch in batches)
        assert "every unit is right" in stack.run("audit")


def _import(stack: Stack, folders: dict[str, Path], name: str, folder: Path) -> str:
    """Import an adapter, whose configuration names its base; returns its name in the market."""
    write_adapter(folder, folders[name])
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": f"someone/{name}"}
    path.write_text(json.dumps(config))
    adapter = stack.run("adapter", "publish", str(folder), "--licence", "MIT").split()[0]
    terms = ("--name", f"imported-{name}", "--prices", "20", "40", "--yes")
    return stack.run("adapter", "register", adapter, *terms).splitlines()[-1].split()[0]


def train(stack: Stack, creator: ApiClient, names: Sequence[str]) -> list[str]:
    """Train an adapter of each base on one snapshot; returns the adapters' names in the market."""
    rows = [
        json.dumps({"prompt": f"What is item {n}?", "completion": f"Item {n} is number {n} of the list."})
        for n in range(24)
    ]
    datanet = create_datanet(creator, "items", "A list of items.")
    content = ["\n".join(rows).encode() + b"\n"]
    actions.await_acceptance(creator, actions.contribute(creator, datanet, "items", "MIT", content))
    snapshot = freeze(creator, datanet)
    found = []
    for name in names:
        job = stack.run("train", "create", snapshot, "--model", name, *OPTIONS).split()[0]
        stack.run("train", "watch", job)
        assert creator.get(f"/v1/fine_tuning/jobs/{job}")["model"] == name
        # Random models need not get better by training.
        terms = ("--name", f"trained-{name}", "--prices", "20", "40", "--accept-worse", "--yes")
        found.append(stack.run("train", "register", job, *terms).splitlines()[-1].split()[0])
    return found


def are_answered(
    stack: Stack, payer: ApiClient, key: str, models: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Each by its version, paid at its price, and final; returns the receipts by model."""
    answers = ask_all(stack.facts["api"], key, [Question(model, "What is item 3?", 8) for model in models])
    receipts = {}
    for answer in answers:
        model, found = answer.question.model, await_final(payer, answer.receipt_id)
        listed, receipt = payer.get(f"/v1/models/{model}"), found["receipt"]
        assert [part["version_id"] for part in found["slices"]] == [listed["version_id"]]
        prices = [PRICE.parse(listed[kind]) for kind in ("prompt_price", "completion_price")]
        tokens = [receipt["prompt_tokens"], receipt["completion_tokens"]]
        assert answer.charge == sum(map(operator.mul, prices, tokens)) > 0
        receipts[model] = found
    return receipts


def health(stack: Stack) -> dict[str, Any]:
    """What `/ready` says of a market that can answer some base."""
    found = httpx.get(f"{stack.facts['api']}/ready")
    assert found.is_success
    answer: dict[str, Any] = found.json()
    return answer


def await_fault(stack: Stack, base: str) -> None:
    """The market becomes degraded, and names the base that is down."""

    def is_named() -> bool | None:
        return f"No engine of {base} answers" in health(stack)["faults"].get("engine", "") or None

    wait_until(is_named, "the fault", 30)
    assert health(stack)["status"] == "degraded"


def await_all_bases(stack: Stack) -> None:
    wait_until(lambda: health(stack)["status"] == "ok" or None, "an engine of each base", 120)


def _survives_the_loss_of_a_replica(stack: Stack, key: str) -> None:
    """The other base goes on answering, and the supervisor starts the engine again."""
    stack.kill("engine")
    await_fault(stack, "small")
    (answer,) = ask_all(stack.facts["api"], key, [Question("large", "What is item 4?", 8)])
    assert answer.charge > 0
    await_all_bases(stack)
    (answer,) = ask_all(stack.facts["api"], key, [Question("small", "What is item 4?", 8)])
    assert answer.charge > 0
