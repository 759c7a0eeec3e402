"""docs/wallets.md, typed: a new key without coin, in an empty home, at an operator's market elsewhere."""

from __future__ import annotations

import re
import shlex
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.chain.keys import local_account
from backend.chain.local_node import ROOT
from backend.cli import actor as actor_module
from backend.cli.main import app
from backend.client.keystore import Keystores, read_keystore, stated_account
from tests.support.contributions import jsonl
from tests.support.quick_keys import encrypt_quickly
from tests.support.running_operator import pumping
from tests.support.two_operators import TwoOperators

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.domain.ids import Account
    from tests.support.running_operator import RunningOperator

GUIDE = ROOT / "docs" / "wallets.md"
BLOCK = re.compile(r"^```(sh|python)\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
VARIABLE = re.compile(r"export (\w+)=(\S+)")
UNITS = 5_000_000
NO_MARKET = "http://127.0.0.1:9"


@pytest.fixture
def operators(chain: ChainClient, hardhat_node: LocalNode) -> Iterator[TwoOperators]:
    """The daemons of `away` run."""
    with ExitStack() as stack:
        # The path of a socket of 100 bytes or more is relative, and `elsewhere` is another directory.
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="two-")))
        found = TwoOperators(chain, hardhat_node.url, short, stack)
        stack.enter_context(pumping(found.away))
        yield found


@pytest.fixture
def operator(operators: TwoOperators) -> RunningOperator:
    return operators.away


@pytest.fixture
def elsewhere(tmp_path: Path, operator: RunningOperator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of a user with a terminal, and the record of the market's contracts."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LORALEDGER_HOME", str(home / "installation"))
    monkeypatch.setenv("ETH_PASSWORD", str(home / "password"))
    (home / "password").write_text("secret\n")
    (home / "market.json").write_bytes(operator.settings.deployment_file.read_bytes())
    (home / "rows.jsonl").write_bytes(jsonl({"text": "a row"}, {"text": "another row"}))
    monkeypatch.setattr(actor_module, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    encrypt_quickly(monkeypatch)
    return home


def type_in(command: str) -> Result:
    """Agree to what is asked at most once."""
    program, *arguments = shlex.split(command)
    assert program == "loraledger"
    return CliRunner().invoke(app, arguments, input="y\n")


def the_account() -> Account:
    account = stated_account(read_keystore(Keystores().existing("alice")))
    assert account is not None
    return account


def type_guide(
    operators: TwoOperators, monkeypatch: pytest.MonkeyPatch, rpc_url: str
) -> tuple[dict[str, str], list[Any]]:
    """Run each block of the guide; returns the outputs of its commands, and what its Python prints."""
    operator = operators.away
    said: dict[str, str] = {}
    printed: list[Any] = []
    names = {"private_key": bytes(range(1, 33)), "market_url": operator.url, "print": printed.append}
    for kind, block in BLOCK.findall(GUIDE.read_text()):
        text = block.replace("https://market.example", operator.url).replace("http://127.0.0.1:8545", rpc_url)
        if "pip install" in text:
            continue  # tests/integration/test_light_install.py
        if kind == "python":
            exec(compile(text, str(GUIDE), "exec"), names)  # noqa: S102
        elif variables := VARIABLE.findall(text):
            for name, value in variables:
                monkeypatch.setenv(name, value)
            if "ETH_RPC_URL" in text:  # the operator closes its API
                monkeypatch.setenv("LORALEDGER_MARKET", NO_MARKET)
        else:
            before_withdrawal(text, operator)
            text = with_accounts(text.replace("MODEL", operators.version), operator, said)
            result = type_in(text)
            assert result.exit_code == 0, (text, result.output, result.exception)
            said[" ".join(shlex.split(text)[1:3])] = result.output
            if "wallet new" in text:
                operator.market.send(local_account(0), "TestUSD", "mint", the_account(), UNITS)
    return said, printed


def test_every_command_of_the_guide_works_from_an_empty_home(
    operators: TwoOperators, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, hardhat_node: LocalNode
) -> None:
    operator = operators.away
    said, printed = type_guide(operators, monkeypatch, hardhat_node.url)
    assert [each for each in printed if isinstance(each, int)] == [0, 0], "balances of the channel"
    account = the_account()
    assert said["wallet list"] == f"alice  {account}\n"
    assert f"Sign in:\n  market   {operator.url}\n  account  {account}\n" in said["login"]
    assert "amount       2 dollars\n" in said["deposit 2"]
    assert operator.market.dollars(account) == UNITS - 2_000_000 + 1_000_000
    assert " dollars; receipt 0x" in next(text for name, text in said.items() if name.startswith("chat"))
    assert re.search(r"content      the file's, 0x[0-9a-f]{64}\n", said["data push"])
    assert "in datanet 1: rows.jsonl" in said["data status"]
    assert said["claim"] == "nothing to claim\n"
    assert re.search(r"gas +at most 0\.", said["withdraw 1"])
    assert "signed out" in said["logout"]
    assert (
        f"with operator {the_operator(operator)}: balance 2 dollars, thawing 1 dollar; "
        in said["balance --operator"]
    )
    assert " is revoked; its vouchers can be collected until " in said[f"revoke-session {session_key(said)}"]
    assert "nonce 0 is cancelled in transaction 0x" in said["cancel-nonce"]
    assert "withdrawn 1 dollar in transaction 0x" in said["withdraw --wait"]
    assert not list(elsewhere.glob(".loraledger/sessions/*/*"))
    assert not (elsewhere / "installation").exists()


def before_withdrawal(command: str, operator: RunningOperator) -> None:
    """Only now does the account have coin: everything before was without gas. What thaws has thawed by the
    last command.
    """
    if " withdraw 1 " in command:
        assert int(operator.market.rpc("eth_getBalance", the_account(), "latest"), 16) == 0
        operator.market.rpc("hardhat_setBalance", the_account(), hex(10**18))
    if " withdraw --wait " in command:
        operator.market.pass_time(operator.market.chain.call("PaymentVault", "thawSeconds"))


def with_accounts(command: str, operator: RunningOperator, said: dict[str, str]) -> str:
    """The guide's command, with operator and session key as the deposit showed them."""
    if "OPERATOR" not in command:
        return command
    assert f"with operator {the_operator(operator)}\n" in said["deposit 2"]
    return command.replace("SESSION_KEY", session_key(said)).replace("OPERATOR", the_operator(operator))


def the_operator(operator: RunningOperator) -> Account:
    return operator.installation.operator.account


def session_key(said: dict[str, str]) -> str:
    found = re.search("session key  (0x[0-9a-f]{40})\n", said["deposit 2"])
    assert found is not None
    return found[1]


def test_what_does_not_fit_is_told_before_anything_is_signed(
    operator: RunningOperator, elsewhere: Path, hardhat_node: LocalNode
) -> None:
    assert type_in("loraledger wallet new alice").exit_code == 0
    record = (elsewhere / "market.json").read_text()
    (elsewhere / "other.json").write_text(record.replace('"chain_id": 31337', '"chain_id": 8453'))
    at = f"--account alice --market {operator.url} --deployment"
    other = type_in(f"loraledger balance {at} other.json")
    assert "the market is on chain 31337, the deployment on chain 8453" in str(other.exception)
    (elsewhere / "wrong").write_text("Secret")
    wrong = type_in(f"loraledger balance {at} market.json --password-file wrong")
    assert "wrong password for" in str(wrong.exception)
    alias = operator.url.replace("127.0.0.1", "localhost")
    named = type_in(f"loraledger balance --account alice --market {alias} --deployment market.json")
    assert f"asks to sign in at {operator.url}" in str(named.exception)
    twin = record.replace('"block_hash": "0x', '"block_hash": "0x00')
    (elsewhere / "twin.json").write_text(
        re.sub(r'("block_hash": "0x)00(.*)..(")', r"\g<1>00\g<2>\g<3>", twin)
    )
    sent = type_in(f"loraledger vote delegate {at} twin.json --rpc-url {hardhat_node.url}")
    assert "on another chain of id 31337" in str(sent.exception)
    assert int(operator.market.rpc("eth_getTransactionCount", the_account(), "latest"), 16) == 0
