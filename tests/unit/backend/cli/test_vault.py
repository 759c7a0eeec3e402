"""A payer leaves its operator on a real chain, while no market answers."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from backend.chain.local_keys import local_private_key
from backend.cli import vault
from backend.cli.main import app
from backend.client.keystore import Keystores, parse_private_key
from backend.deployment.deployment_file import save_deployment
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.money import AMOUNT, UNIT
from tests.support.answering import JSON, answering
from tests.support.market import some_account
from tests.support.quick_keys import encrypt_quickly
from tools.local_market import OPERATOR, PAYERS, LocalMarket

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode

PAYER, PAYER_INDEX, SESSION_KEY = PAYERS[0], 7, some_account("session key")
DEPOSIT = 5_000_000
NO_MARKET = "http://127.0.0.1:9"
WITH_OPERATOR = ("--operator", OPERATOR.account)


@pytest.fixture
def market(
    chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> LocalMarket:
    """A chain on which the payer has deposited 5 dollars, and granted a session key. No API runs."""
    encrypt_quickly(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "password").write_text("secret")
    save_deployment(chain.deployment, tmp_path / "market.json")
    environment = {
        "HOME": tmp_path,
        "ETH_KEYSTORE_ACCOUNT": "alice",
        "ETH_PASSWORD": tmp_path / "password",
        "ETH_RPC_URL": hardhat_node.url,
        "LORALEDGER_MARKET": NO_MARKET,
        "LORALEDGER_DEPLOYMENT": "market.json",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    Keystores().add("alice", parse_private_key(local_private_key(PAYER_INDEX)), "secret")
    found = LocalMarket(chain)
    found._deposit(PAYER, DEPOSIT, SESSION_KEY)
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--yes"])


def say(*arguments: str) -> str:
    """What a command that succeeds prints on standard output."""
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def on_chain(market: LocalMarket) -> dict[str, int]:
    return dict(market.channels()[0])


def pass_the_thaw(market: LocalMarket) -> None:
    market.pass_time(int(market.chain.call("PaymentVault", "thawSeconds")))


def test_money_is_withdrawn_while_no_market_answers(market: LocalMarket) -> None:
    before = market.dollars(PAYER.account)
    thawing = say("withdraw", "2", *WITH_OPERATOR)
    channel = on_chain(market)
    assert (channel["balance"], channel["thawing"]) == (DEPOSIT * UNIT, 2_000_000 * UNIT)
    assert thawing.startswith("thawing 2 dollars; `loraledger withdraw` withdraws it from 20")
    early = run("withdraw", *WITH_OPERATOR)
    assert isinstance(early.exception, vault.StillThawing)
    pass_the_thaw(market)
    assert re.fullmatch(
        r"withdrawn 2 dollars in transaction 0x[0-9a-f]{64}\n", say("withdraw", *WITH_OPERATOR)
    )
    assert market.dollars(PAYER.account) == before + 2_000_000
    assert "nothing is thawing; `loraledger withdraw DOLLARS`" in str(
        run("withdraw", *WITH_OPERATOR).exception
    )


def test_without_an_operator_the_market_is_asked_which_it_is_and_nothing_else(market: LocalMarket) -> None:
    with answering(200, JSON, json.dumps({"account": OPERATOR.account})) as url:
        assert say("withdraw", "2", "--market", url).startswith("thawing 2 dollars")
    assert on_chain(market)["thawing"] == 2_000_000 * UNIT
    down = run("withdraw", "2")
    assert isinstance(down.exception, Unavailable)
    assert "is not reachable" in str(down.exception)
    assert str(down.exception).endswith("; with --operator ACCOUNT, no market is asked")


@pytest.mark.usefixtures("market")
def test_an_operator_that_is_no_account_is_wrong_input() -> None:
    assert isinstance(run("withdraw", "2", "--operator", "alice").exception, InvalidInput)


@pytest.mark.usefixtures("market")
def test_more_than_the_channel_holds_is_refused_in_dollars() -> None:
    refused = run("withdraw", "6", *WITH_OPERATOR).exception
    assert str(refused) == "the channel holds 5 dollars, less than 6 dollars"


def test_a_session_key_is_revoked_while_no_market_answers(market: LocalMarket) -> None:
    said = say("revoke-session", SESSION_KEY, *WITH_OPERATOR)
    session = market.chain.call("PaymentVault", "sessionOf", market.channel_of(PAYER), SESSION_KEY)
    assert session["isRevoked"]
    assert said.startswith(f"{SESSION_KEY} is revoked; its vouchers can be collected until 20")
    again = run("revoke-session", SESSION_KEY, *WITH_OPERATOR).exception
    assert str(again) == f"{SESSION_KEY} is revoked already"
    never = some_account("a key that the market withholds")
    assert say("revoke-session", never, *WITH_OPERATOR) == f"{never} is revoked; it was never granted\n"


def test_a_nonce_is_cancelled_while_no_market_answers(market: LocalMarket) -> None:
    for nonce in (0, 1):
        assert say("cancel-nonce").startswith(f"nonce {nonce} is cancelled in transaction 0x")
    assert market.chain.call("PaymentVault", "nonces", PAYER.account) == 2


def test_a_balance_is_read_while_no_market_answers(market: LocalMarket) -> None:
    channel = market.channel_of(PAYER)
    stated = f"channel {channel} with operator {OPERATOR.account}: balance 5 dollars, thawing "
    assert say("balance", *WITH_OPERATOR) == f"{stated}0 dollars\n"
    say("withdraw", "2", *WITH_OPERATOR)
    assert say("balance", *WITH_OPERATOR).startswith(f"{stated}2 dollars; can be withdrawn from 20")
    (read,) = json.loads(say("balance", "--json", *WITH_OPERATOR))
    assert (read["id"], AMOUNT.read(read["thawing"])) == (channel, 2_000_000 * UNIT)
