from __future__ import annotations

import json
from dataclasses import replace

from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.money import AMOUNT
from backend.services.operator.membership import Unstaking
from tests.support.membership import KEY, MICRO, NEXT_KEY, OWN, WELL, FakeInstallation, typed


def test_an_operator_that_can_settle_is_shown_with_exit_code_0(installation: FakeInstallation) -> None:
    shown = typed("show")
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.replace("receipt key", "key").splitlines())
    assert lines == {
        "account": OWN,
        "endpoint": "https://market.example",
        "key": KEY,
        "stake": "1,000 dollars",
        "cover": "1,000 dollars; the next batch needs 100 dollars",
        "owed": "0 dollars",
        "credit": "0.000000000 of the chain's coin",
        "gas": "0.007000000 of the chain's coin",
    }
    assert installation.asked == [("check_database",)]  # it only reads, so that it migrates nothing


def test_an_operator_that_cannot_settle_is_shown_with_each_reason_and_exit_code_1(
    installation: FakeInstallation,
) -> None:
    unstaking = Unstaking(1_000 * MICRO, 7)
    installation.status_now = replace(WELL, key_owner=ZERO_ACCOUNT, unstaking=unstaking, wei=0)
    shown = typed("show")
    assert shown.exit_code == 1
    assert shown.stderr.splitlines() == [f"cannot settle: {why}" for why in installation.status_now.obstacles]
    assert len(installation.status_now.obstacles) == 3
    assert f"receipt key  {KEY}, not registered\n" in shown.stdout
    assert "unstaking    1,000 dollars, locked until batch 7 is final" in shown.stdout


def test_json_has_the_apis_amounts_and_the_same_exit_code(installation: FakeInstallation) -> None:
    well = {
        "account": OWN,
        "endpoint": "https://market.example",
        "keys": [KEY],
        "retired_keys": {},
        "receipt_key": KEY,
        "is_key_registered": True,
        "stake": {"micro_units": "1000000000000000", "usd": "1000"},
        "unstaking": None,
        "cover": {"micro_units": "1000000000000000", "usd": "1000"},
        "cover_needed": {"micro_units": "100000000000000", "usd": "100"},
        "owed": {"micro_units": "0", "usd": "0"},
        "credit_wei": "0",
        "wei": "7000000000000000",
        "obstacles": [],
    }
    shown = typed("show", "--json")
    assert (shown.exit_code, json.loads(shown.stdout)) == (0, well)
    installation.status_now = replace(WELL, unstaking=Unstaking(MICRO, None), wei=0)
    shown = typed("show", "--json")
    unstaking = {"amount": AMOUNT.render(MICRO), "locked_by": None}
    expected = {"unstaking": unstaking, "cover": AMOUNT.render(999 * MICRO), "wei": "0"}
    assert shown.exit_code == 1
    assert json.loads(shown.stdout) == well | expected | {
        "obstacles": list(installation.status_now.obstacles)
    }


def test_retired_and_other_keys_are_shown(installation: FakeInstallation) -> None:
    installation.status_now = replace(WELL, keys=(NEXT_KEY, OWN, KEY), retired={NEXT_KEY: 1_800_000_000})
    shown = typed("show")
    assert f"retired key  {NEXT_KEY}, since 2027-01-15 08:00:00 UTC\nother key    {OWN}\n" in shown.stdout
    installation.status_now = replace(WELL, retired={KEY: 1_800_000_000})
    assert f"`loraledger operator rotate-key {KEY}` registers the next one" in typed("show").stderr
