"""Options of actors' commands: whose key signs, and at which market."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from backend.cli import actor as actor_module
from backend.cli.actor import OPTIONS, Actor, acting, read_password
from backend.cli.main import app
from backend.client.errors import NotAMarket
from backend.client.keystore import Keystores, LocalKey
from backend.client.signing import Statement
from backend.domain.errors import Forbidden, InvalidInput, NotFound
from backend.installation.local_network import well_known_accounts
from tests.support.answering import JSON, answering
from tests.support.market import some_account, some_hash
from tests.support.quick_keys import encrypt_quickly

if TYPE_CHECKING:
    from click.testing import Result

KEY = bytes(range(1, 33))
MARKET = "https://market.example"
VARIABLES = ("ETH_KEYSTORE_ACCOUNT", "ETH_KEYSTORE", "ETH_PASSWORD", "ETH_RPC_URL")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encrypt_quickly(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORALEDGER_HOME", str(tmp_path / "installation"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "record.json").write_text(
        json.dumps({"chain_id": 10, "block_number": 1, "block_hash": some_hash("block"), "addresses": {}})
    )


@pytest.fixture
def password(tmp_path: Path) -> Path:
    return tmp_path / "password"


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, Any]:
    """Options of a wallet at a market on another machine."""
    Keystores().add("alice", KEY, "secret")
    return {"account": "alice", "market": MARKET, "deployment": str(tmp_path / "record.json")}


def running(tmp_path: Path) -> None:
    """As `loraledger up` leaves it."""
    home = tmp_path / "installation"
    (home / "run").mkdir(parents=True)
    (home / "run" / "ports.json").write_text('{"api": 8000, "chain": 8545}')
    (home / "deployment.json").write_text((tmp_path / "record.json").read_text())


def type_in(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def seen(*arguments: str, **environment: str) -> Actor:
    """The actor that reaches a command."""
    found: list[Actor] = []
    one = typer.Typer()

    @one.command()
    @acting(3)
    def look(name: str = "", *, actor: Actor) -> None:
        """Look."""
        found.append(actor)

    result = CliRunner().invoke(one, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return found[0]


def test_a_command_gets_all_options_as_one_actor() -> None:
    assert seen() == Actor(3)
    assert seen("--user", "5", "--yes") == Actor(3, user=5, is_agreed=True)
    named = seen("--account", "alice", "--market", MARKET, "--deployment", "10", "--rpc-url", "http://node")
    assert named == Actor(3, account="alice", market=MARKET, deployment="10", rpc_url="http://node")


def test_options_have_the_variables_of_cast() -> None:
    named = seen(
        ETH_KEYSTORE_ACCOUNT="alice",
        ETH_PASSWORD="/file",
        ETH_RPC_URL="http://node",
        LORALEDGER_MARKET=MARKET,
        LORALEDGER_DEPLOYMENT="10",
    )
    assert named == Actor(
        3,
        account="alice",
        password_file=Path("/file"),
        rpc_url="http://node",
        market=MARKET,
        deployment="10",
    )


def test_every_actors_command_has_the_options() -> None:
    from typer.main import get_command

    group: Any = get_command(app)
    commands = {
        **group.commands,
        **{
            f"{name} {inner}": command
            for name, sub in group.commands.items()
            for inner, command in getattr(sub, "commands", {}).items()
        },
    }
    acting_commands = {
        name for name, command in commands.items() if "account" in {option.name for option in command.params}
    }
    assert acting_commands >= {
        "deposit",
        "balance",
        "withdraw",
        "revoke-session",
        "cancel-nonce",
        "chat",
        "models",
        "claim",
        "earnings",
        "proxy",
        "keys create",
        "data push",
        "data status",
        "data withdraw",
        "train create",
        "adapter publish",
        "adapter register",
        "snapshot create",
        "vote cast",
        "vote propose",
        "receipts list",
        "receipts show",
        "login",
        "logout",
    }
    for name in acting_commands:
        assert {option.name for option in commands[name].params} >= OPTIONS.keys()


def test_an_answer_of_another_form_is_an_error_of_the_market() -> None:
    with answering(200, JSON, '{"data": [7], "next_cursor": null}') as url:
        result = CliRunner().invoke(app, ["datanet", "list", "--market", url])
    assert isinstance(result.exception, NotAMarket)
    assert "cannot be shown: TypeError" in str(result.exception)


def test_what_is_public_is_read_without_a_wallet_and_without_the_markets_record() -> None:
    with answering(200, JSON, '{"data": [], "next_cursor": null}') as url:
        result = CliRunner().invoke(app, ["datanet", "list", "--market", url, "--json"])
    assert (result.exit_code, result.output) == (0, "[]\n")


def test_a_test_account_signs_on_the_network_of_this_home_without_a_question(tmp_path: Path) -> None:
    running(tmp_path)
    users = well_known_accounts()
    for given, index in ((None, 7), (5, 5)):
        client = Actor(7, user=given, rpc_url="http://ignored").client()
        assert client.api_url == "http://127.0.0.1:8000"
        assert client.wallet.account == users[index].account
        assert client.wallet._node_url == "http://127.0.0.1:8545"
        client.wallet._ask("Anything", ())


def test_without_a_stack_a_market_is_asked_for() -> None:
    with pytest.raises(NotFound, match=r"start `loraledger up`, or name a market with --market"):
        Actor(7).client()


def test_a_test_account_never_signs_elsewhere(elsewhere: dict[str, Any]) -> None:
    with pytest.raises(Forbidden, match="the test keys are public"):
        Actor(7, user=3, **elsewhere).client()


def test_at_a_market_a_wallet_is_asked_for(elsewhere: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="name the wallet"):
        Actor(7, **elsewhere | {"account": ""}).client()
    with pytest.raises(InvalidInput, match="either --account or --keystore"):
        Actor(7, **elsewhere, keystore=Path("file")).client()
    with pytest.raises(NotFound, match=r"no wallet bob .*there: alice"):
        Actor(7, **elsewhere | {"account": "bob"}).client()


def test_a_wallet_by_name_or_by_file_is_not_unlocked_before_it_signs(elsewhere: dict[str, Any]) -> None:
    by_name = Actor(7, **elsewhere).client()
    file = Keystores().existing("alice")
    by_file = Actor(7, **elsewhere | {"account": "", "keystore": file}).client()
    assert by_name.wallet.account == by_file.wallet.account == LocalKey(KEY).account
    assert by_name.api_url == MARKET


def test_a_wallet_alone_needs_a_record_and_no_market(elsewhere: dict[str, Any], tmp_path: Path) -> None:
    alone = Actor(7, **elsewhere | {"market": ""}, rpc_url="http://node").wallet()
    assert (alone.account, alone.deployment.chain_id) == (LocalKey(KEY).account, 10)
    assert alone._node_url == "http://node"
    running(tmp_path)
    assert Actor(7).wallet().account == well_known_accounts()[7].account


def test_a_test_account_signs_at_home_although_the_environment_names_a_record(
    elsewhere: dict[str, Any], tmp_path: Path
) -> None:
    running(tmp_path)
    record = elsewhere["deployment"]
    assert Actor(7, user=5, deployment=record).wallet().account == well_known_accounts()[5].account
    with pytest.raises(Forbidden, match="the test keys are public"):
        Actor(7, user=5, deployment=record, market=MARKET).wallet()


def test_the_deployment_is_named_by_the_user(elsewhere: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="never taken from the market"):
        Actor(7, **elsewhere | {"deployment": ""}).client()


def test_what_is_signed_is_shown_and_asked_for(
    elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    actor = Actor(7, **elsewhere)
    with pytest.raises(Forbidden, match="repeat the command with --yes"):
        actor._approve(Statement("Deposit", (("amount", "5 dollars"), ("to", "you\x1b[2J"))))
    assert capsys.readouterr().err == "Deposit:\n  amount  5 dollars\n  to      you?[2J\n"
    terminal(monkeypatch)
    for says, error in (("y\n", None), ("n\n", typer.Abort), ("\n", typer.Abort)):
        answer(monkeypatch, says)
        if error is None:
            actor._approve(Statement("Deposit", (("amount", "5 dollars"),)))
        else:
            with pytest.raises(error):
                actor._approve(Statement("Deposit", (("amount", "5 dollars"),)))
    Actor(7, **elsewhere, is_agreed=True)._approve(Statement("Deposit", (("amount", "5 dollars"),)))


def test_a_password_comes_from_a_file_or_from_a_terminal(
    password: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_password(password, "Password") == "secret"
    with pytest.raises(NotFound, match=r"no file .*none: name one with --password-file"):
        read_password(tmp_path / "none", "Password")
    with pytest.raises(Forbidden, match="--password-file or ETH_PASSWORD"):
        read_password(None, "Password")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match=r"binary is not text: name a file with --password-file"):
        read_password(tmp_path / "binary", "Password")
    terminal(monkeypatch)
    prompted: list[dict[str, Any]] = []
    monkeypatch.setattr(typer, "prompt", lambda _text, **options: prompted.append(options) or "typed")
    assert read_password(None, "Password", is_new=True) == "typed"
    assert prompted == [{"hide_input": True, "confirmation_prompt": True, "err": True}]


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(actor_module, "sys", fake)


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def confirm(_question: str, **_options: object) -> None:
        if text != "y\n":
            raise typer.Abort

    monkeypatch.setattr(typer, "confirm", confirm)


# The wallet commands


def test_a_wallet_is_made_listed_and_never_replaced(password: Path) -> None:
    made = type_in("wallet", "new", "bob", "--password-file", str(password))
    assert made.exit_code == 0, made.output
    account = made.output.strip()
    assert type_in("wallet", "list").output == f"bob  {account}\n"
    assert type_in("wallet", "address", "bob").output == f"{account}\n"
    (Keystores().folder / "notes").write_text("not a wallet")
    assert "notes  " in type_in("wallet", "list").output
    again = type_in("wallet", "new", "bob", "--password-file", str(password))
    assert "never overwritten" in str(again.exception)


def test_a_key_is_imported_from_a_file(password: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"0x{KEY.hex()}\n")
    made = type_in("wallet", "import", "bob", "--key-file", str(tmp_path / "key"), ETH_PASSWORD=str(password))
    assert made.output.strip() == LocalKey(KEY).account
    (tmp_path / "key").write_text("0x12")
    wrong = type_in(
        "wallet", "import", "eve", "--key-file", str(tmp_path / "key"), ETH_PASSWORD=str(password)
    )
    assert isinstance(wrong.exception, InvalidInput)
    missing = type_in("wallet", "import", "eve", "--key-file", str(tmp_path / "none"))
    assert "name one with --key-file" in str(missing.exception)
    assert Keystores().names() == ["bob"]


def test_without_a_terminal_nothing_is_made_of_a_guessed_password() -> None:
    assert isinstance(type_in("wallet", "new", "bob").exception, Forbidden)
    assert isinstance(type_in("wallet", "import", "bob").exception, Forbidden)
    imported = type_in("wallet", "import", "bob", ETH_PASSWORD="file")
    assert "name a file with --key-file" in str(imported.exception)
    Path("empty").write_text("\n")
    empty = type_in("wallet", "new", "bob", "--password-file", "empty")
    assert "an empty password protects nothing" in str(empty.exception)
    assert Keystores().names() == []
    assert some_account("nobody") not in type_in("wallet", "list").output
