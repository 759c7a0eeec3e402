from __future__ import annotations

import json

from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.hashing import version_id
from backend.domain.money import PRICE
from backend.installation.base_model import Offer
from tests.support.membership import BASE, FACTS, MINED, TRAINING, FakeInstallation, typed


def test_the_base_model_is_shown_with_the_records_it_is_sold_by(installation: FakeInstallation) -> None:
    installation.queues = ["register"]
    done = typed("base", "--prices", "0.2", "0.40")
    prices = "0.2 and 0.4 dollars per million prompt and completion tokens"
    floor = "0.04 and 0.08 dollars per million prompt and completion tokens"
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"floor price  {floor}, of what the operator earns",
        f"base model   Tiny, sha-256 {FACTS.digest[2:]}, in /models/Tiny",
        f"answers      {prices}, by version {version_id(BASE)}",
        f"training     0.3 dollars per million tokens trained, by version {version_id(TRAINING)}",
        "transaction 1, Registry.register, is queued",
    ]
    assert installation.asked == [
        ("prepare_database",),
        (200_000, 400_000),
        ("check", BASE),
        ("floor", BASE),
        ("register", BASE, TRAINING),
    ]
    installation.offer = Offer(FACTS, BASE, None)
    assert "training     free\n" in typed("base", "--prices", "0.2", "0.40").stdout
    assert installation.asked[-1] == ("register", BASE)


def test_only_json_is_on_standard_output(installation: FakeInstallation) -> None:
    installation.queues = ["register"]
    done = typed("base", "--prices", "0.2", "0.40", "--json")
    one = {"id": 1, "contract": "Registry", "function": "register", "state": "queued", "hash": None}
    expected = {
        "name": "Tiny",
        "digest": FACTS.digest,
        "folder": "/models/Tiny",
        "prompt_price": {"micro_units_per_token": "200000", "usd_per_million_tokens": "0.2"},
        "completion_price": {"micro_units_per_token": "400000", "usd_per_million_tokens": "0.4"},
        "min_prompt_price": PRICE.render(40_000),
        "min_completion_price": PRICE.render(80_000),
        "version_id": version_id(BASE),
        "training_price": {"micro_units_per_token": "300000", "usd_per_million_tokens": "0.3"},
        "training_version_id": version_id(TRAINING),
        "transactions": [one],
    }
    assert json.loads(done.stdout) == expected
    assert done.stderr == "transaction 1, Registry.register, is queued\n"
    waited = json.loads(typed("base", "--prices", "0.2", "0.40", "--json", "--wait").stdout)
    assert waited["transactions"] == [one | {"id": 2, "state": "confirmed", "hash": MINED}]
    installation.queues, installation.offer = [], Offer(FACTS, BASE, None)
    free = json.loads(typed("base", "--prices", "0.2", "0.40", "--json").stdout)
    assert free["training_price"] == PRICE.render(0)
    assert (free["training_version_id"], free["transactions"]) == (None, [])


def test_help_names_the_units_of_prices() -> None:
    help_text = " ".join(
        CliRunner().invoke(app, ["operator", "base", "--help"], env={"COLUMNS": "200"}).stdout.split()
    )
    assert "dollars per million prompt tokens, and completion tokens" in help_text
