"""A payer leaves its operator on a real chain, while no market answers."""

from __future__ import annotations

import json
import re
from time import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.chain.contracts import interface
from backend.chain.local_keys import local_private_key
from backend.cli import vault
from backend.cli.main import app
from backend.client import node as node_module
from backend.client import payments
from backend.client.comparison import SignatureRefused
from backend.client.keystore import Keystores, LocalKey, parse_private_key
from backend.client.node import NodeRefusal, NotMined
from backend.client.signing import Statement, Wallet
from backend.deployment.deployment_file import save_deployment
from backend.domain.chain import Reverted
from backend.domain.eip712 import build_typed_data
from backend.domain.errors import Conflict, InvalidInput, NotFound, Unavailable
from backend.domain.hashing import GRANT_TYPE, MOVE_TYPE
from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.money import AMOUNT, UNIT
from tests.support.answering import JSON, answering
from tests.support.faulty_rpc import Answer, Faults, RealNode, serving
from tests.support.market import some_account
from tests.support.quick_keys import encrypt_quickly
from tools.local_market import OPERATOR, PAYERS, LocalMarket

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from click.testing import Result

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode

PAYER, PAYER_INDEX, SESSION_KEY = PAYERS[0], 7, some_account("session key")
DEPOSIT = 5_000_000
NO_MARKET = "http://127.0.0.1:9"
WITH_OPERATOR = ("--operator", OPERATOR.account)
MONEY_THAWS = "the money thaws until"


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


@pytest.fixture
def pauses(market: LocalMarket, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lengths of the pauses of `withdraw --wait`, in which the chain's time passes."""
    found: list[float] = []

    def pause(seconds: float) -> None:
        found.append(seconds)
        behind = time() - market.chain.head().timestamp  # of the clock that the command reads
        market.pass_time(int(seconds + max(behind, 0)) + 1)

    monkeypatch.setattr(vault, "sleep", pause)
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
    assert early.exception.thawed_at == channel["thawedAt"]
    pass_the_thaw(market)
    assert re.fullmatch(
        r"withdrawn 2 dollars in transaction 0x[0-9a-f]{64}\n", say("withdraw", *WITH_OPERATOR)
    )
    assert market.dollars(PAYER.account) == before + 2_000_000
    assert "nothing is thawing; `loraledger withdraw DOLLARS`" in str(
        run("withdraw", *WITH_OPERATOR).exception
    )


def test_without_an_operator_the_market_is_asked_which_it_is_and_nothing_else(
    market: LocalMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200, JSON, json.dumps({"account": OPERATOR.account})) as url:
        assert say("withdraw", "2", "--market", url).startswith("thawing 2 dollars")
    assert on_chain(market)["thawing"] == 2_000_000 * UNIT
    down = run("withdraw", "2")
    assert isinstance(down.exception, Unavailable)
    assert "is not reachable" in str(down.exception)
    assert str(down.exception).endswith("; with --operator ACCOUNT, no market is asked")
    monkeypatch.delenv("LORALEDGER_MARKET")
    unnamed = run("withdraw", "2")
    assert isinstance(unnamed.exception, NotFound)
    assert str(unnamed.exception).endswith("; with --operator ACCOUNT, no market is asked")


@pytest.mark.usefixtures("market")
def test_an_operator_that_is_no_account_is_wrong_input() -> None:
    assert isinstance(run("withdraw", "2", "--operator", "alice").exception, InvalidInput)


def test_what_thaws_is_not_replaced_unless_asked_for(market: LocalMarket) -> None:
    say("withdraw", "2", *WITH_OPERATOR)
    thawed_at = on_chain(market)["thawedAt"]
    market.pass_time(10)
    refused = run("withdraw", "3", *WITH_OPERATOR)
    assert isinstance(refused.exception, Conflict)
    assert str(refused.exception).startswith("already thawing: 2 dollars, which `loraledger withdraw`")
    assert "--replace has 3 dollars thaw" in str(refused.exception)
    assert isinstance(run("withdraw", "2", *WITH_OPERATOR).exception, vault.StillThawing)
    assert (on_chain(market)["thawing"], on_chain(market)["thawedAt"]) == (2_000_000 * UNIT, thawed_at)
    say("withdraw", "3", "--replace", *WITH_OPERATOR)
    assert on_chain(market)["thawing"] == 3_000_000 * UNIT
    assert on_chain(market)["thawedAt"] > thawed_at


def test_an_amount_that_has_thawed_is_withdrawn_when_it_is_named_again(market: LocalMarket) -> None:
    say("withdraw", "2", *WITH_OPERATOR)
    pass_the_thaw(market)
    assert say("withdraw", "2", *WITH_OPERATOR).startswith("withdrawn 2 dollars")
    assert on_chain(market)["balance"] == 3_000_000 * UNIT


def test_zero_cancels_a_thaw(market: LocalMarket) -> None:
    assert isinstance(run("withdraw", "0", *WITH_OPERATOR).exception, Conflict)
    say("withdraw", "2", *WITH_OPERATOR)
    assert say("withdraw", "0", "--wait", *WITH_OPERATOR) == "the thaw is cancelled\n"
    assert on_chain(market)["thawing"] == on_chain(market)["thawedAt"] == 0


@pytest.mark.usefixtures("market")
def test_what_is_replaced_needs_an_amount() -> None:
    result = run("withdraw", "--replace", *WITH_OPERATOR)
    assert result.exit_code == 2
    assert "needs DOLLARS" in result.output


@pytest.mark.usefixtures("market")
def test_more_than_the_channel_holds_is_refused_in_dollars() -> None:
    refused = run("withdraw", "6", *WITH_OPERATOR).exception
    assert str(refused) == "the channel holds 5 dollars, less than 6 dollars"


def test_waiting_sleeps_until_the_money_has_thawed(market: LocalMarket, pauses: list[float]) -> None:
    result = run("withdraw", "2", "--wait", *WITH_OPERATOR)
    assert result.exit_code == 0, result.exception
    assert "withdrawn 2 dollars in transaction 0x" in result.stdout
    assert result.stderr.count(MONEY_THAWS) == len(pauses) == 1
    assert market.channels()[0]["balance"] == 3_000_000 * UNIT


def test_waiting_says_from_time_to_time_that_it_waits(
    pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "NOTICE_SECONDS", 120)
    result = run("withdraw", "2", "--wait", *WITH_OPERATOR)
    assert result.exit_code == 0, result.exception
    assert result.stderr.count(MONEY_THAWS) == len(pauses) > 1
    assert max(pauses) == 120


@pytest.mark.usefixtures("market")
def test_waiting_for_nothing_ends_at_once(pauses: list[float]) -> None:
    assert "nothing is thawing" in str(run("withdraw", "--wait", *WITH_OPERATOR).exception)
    assert pauses == []


class FailingNode(Faults):
    """Answers the next calls of a method so, after those that it spares."""

    def __init__(self, method: str, *answers: Answer, spared: int = 0) -> None:
        super().__init__(seed=0, rate=0)
        self.answers = list(answers)
        self._method, self._spared = method, spared

    def take_in(self, method: str) -> None:
        if method != self._method or not self.answers:
            return
        if not self._spared:
            raise self.answers.pop(0)
        self._spared -= 1


def refusing(name: str, *args: Any) -> Answer:
    """As a node answers that does not have the newest block yet."""
    (error,) = (one for one in interface("PaymentVault").errors.values() if one.name == name)
    data = error.encode(args)
    refusal = {"code": 3, "message": "execution reverted", "data": "0x" + data.hex()}
    return Answer(200, json.dumps({"error": refusal}).encode())


def refusing_with(code: int, message: str, status: int = 200) -> Answer:
    return Answer(status, json.dumps({"error": {"code": code, "message": message}}).encode())


FAILURES = (refusing_with(-32603, "Internal error", status=500), refusing_with(-32000, "header not found"))


def test_waiting_outlasts_a_node_that_fails_or_is_behind(
    market: LocalMarket, hardhat_node: LocalNode, pauses: list[float]
) -> None:
    say("withdraw", "2", *WITH_OPERATOR)
    pass_the_thaw(market)
    behind = refusing("StillThawing", market.channel_of(PAYER), on_chain(market)["thawedAt"])
    node = FailingNode("eth_estimateGas", Answer(429), Answer(0), behind, *FAILURES)
    with serving(RealNode(hardhat_node.url), node) as url:
        result = run("withdraw", "--wait", *WITH_OPERATOR, "--rpc-url", url)
    assert result.exit_code == 0, result.exception
    assert (len(pauses), node.answers) == (5, [])
    assert min(pauses) >= vault.RETRY_SECONDS
    for said in (MONEY_THAWS, "is not reachable", "answered 429", "Internal error", "header not found"):
        assert said in result.stderr


def test_waiting_outlasts_a_node_that_fails_to_read_the_channel(
    market: LocalMarket, hardhat_node: LocalNode, pauses: list[float]
) -> None:
    say("withdraw", "2", *WITH_OPERATOR)
    pass_the_thaw(market)
    node = FailingNode("eth_call", *FAILURES, spared=1)
    with serving(RealNode(hardhat_node.url), node) as url:
        result = run("withdraw", "--wait", *WITH_OPERATOR, "--rpc-url", url)
    assert result.exit_code == 0, result.exception
    assert (pauses, node.answers) == ([vault.RETRY_SECONDS] * 2, [])


def test_a_node_that_reverts_without_data_is_asked_again_once_the_money_has_thawed(
    market: LocalMarket, hardhat_node: LocalNode, pauses: list[float]
) -> None:
    say("withdraw", "2", *WITH_OPERATOR)
    with serving(NodeWithoutData(hardhat_node.url), Faults(seed=0, rate=0)) as url:
        result = run("withdraw", "--wait", *WITH_OPERATOR, "--rpc-url", url)
    assert result.exit_code == 0, result.exception
    assert "refuses eth_estimateGas: execution reverted; waiting" in result.stderr
    (pause,) = pauses
    assert pause > vault.RETRY_SECONDS


class NodeWithoutData(RealNode):
    """Says of a call that reverts no more than that."""

    def answer(self, method: str, params: list[Any]) -> Any:
        try:
            return super().answer(method, params)
        except Answer:
            raise refusing_with(-32000, "execution reverted") from None


def test_a_withdrawal_that_the_node_does_not_take_ends_the_wait(
    market: LocalMarket, hardhat_node: LocalNode, pauses: list[float]
) -> None:
    market.send(PAYER, "PaymentVault", "thaw", OPERATOR.account, market.settlement.contract, UNIT)
    pass_the_thaw(market)
    node = FailingNode("eth_sendRawTransaction", refusing_with(-32000, "underpriced"))
    with serving(RealNode(hardhat_node.url), node) as url:
        result = run("withdraw", "--wait", *WITH_OPERATOR, "--rpc-url", url)
    assert isinstance(result.exception, NodeRefusal)
    assert (len(result.exception.details["tx_hash"]), pauses, node.answers) == (66, [], [])


def test_waiting_begins_though_the_node_does_not_show_the_thaw_yet(
    market: LocalMarket, hardhat_node: LocalNode, pauses: list[float]
) -> None:
    lagging = LaggingNode(market)
    with serving(RealNode(hardhat_node.url), lagging) as url:
        result = run("withdraw", "2", "--wait", *WITH_OPERATOR, "--rpc-url", url)
    assert result.exit_code == 0, result.exception
    assert len(pauses) == 1


class LaggingNode(Faults):
    """Shows a thaw only in the seconds after it."""

    def __init__(self, market: LocalMarket) -> None:
        super().__init__(seed=0, rate=0)
        self._market = market

    def take_in(self, method: str) -> None:
        thawed_at = on_chain(self._market)["thawedAt"]
        has_just_begun = thawed_at - self._market.chain.head().timestamp == 300
        if method == "eth_estimateGas" and has_just_begun:
            raise refusing("NothingThawing", self._market.channel_of(PAYER))


def test_a_withdrawal_that_is_not_seen_mined_is_not_sent_again(
    market: LocalMarket, hardhat_node: LocalNode, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "MINING_SECONDS", -1)
    market.send(PAYER, "PaymentVault", "thaw", OPERATOR.account, market.settlement.contract, UNIT)
    pass_the_thaw(market)
    node = FailingNode("eth_getTransactionReceipt", Answer(429))
    with serving(RealNode(hardhat_node.url), node) as url:
        result = run("withdraw", "--wait", *WITH_OPERATOR, "--rpc-url", url)
    assert isinstance(result.exception, NotMined)
    assert (pauses, node.answers) == ([], [])


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


class Withholding:
    """A market that has grants and moves signed with the nonce that it chooses, and sends none of them."""

    def __init__(self, market: LocalMarket, nonce: int, node_url: str = "") -> None:
        self.statements: list[Statement] = []
        key = LocalKey(local_private_key(PAYER_INDEX))
        self.wallet = Wallet(key, market.chain.deployment, self.statements.append, node_url)
        self.held: tuple[str, tuple[Any, ...]] = ("", ())
        """Function and arguments of the transaction that is withheld."""
        self._market, self._nonce = market, nonce

    def grant(self) -> Self:
        expiry = self._market.chain.head().timestamp + 60
        channel: Any = SimpleNamespace(id=self._market.channel_of(PAYER), operator=OPERATOR.account)
        payments.grant_session(self, channel, some_account("withheld key"), 1, expiry)  # type: ignore[arg-type]
        return self

    def move(self) -> Self:
        payments.move(self, some_account("another collector"), UNIT)  # type: ignore[arg-type]
        return self

    def send(self) -> None:
        function, args = self.held
        self._market.send(OPERATOR, "PaymentVault", function, *args)

    def get(self, _path: str) -> Any:
        stated = {"id": self._market.channel_of(PAYER), "operator": OPERATOR.account, "sessions": []}
        amounts = dict.fromkeys(payments.CHANNEL_AMOUNTS, AMOUNT.render(UNIT))
        return {"data": [stated | amounts | {"collector": self._market.settlement.contract}]}

    def post(self, path: str, body: Any) -> Any:
        match path:
            case "/v1/sessions/prepare":
                terms = {**body, "cap": str(AMOUNT.read(body["cap"]))}
                channel = self._market.channel_of(PAYER)
                return self._typed(GRANT_TYPE, {"channelId": channel, **terms, "nonce": self._nonce})
            case "/v1/moves/prepare":
                return self._typed(MOVE_TYPE, self._moved()) | {"move": "as it is"}
            case "/v1/sessions/relay":
                pair = (OPERATOR.account, self._market.settlement.contract)
                args = (PAYER.account, *pair, body["grant"], self._nonce, body["signature"])
                self.held = ("grantSessionWithSig", args)
            case "/v1/moves/relay":
                moved = self._moved()
                moved["grant"] = {name: moved[name] for name in ("key", "cap", "expiry")}
                self.held = ("moveBalance", (PAYER.account, moved, 1, body["signature"]))
        return {"amount": AMOUNT.render(0)}

    def wait_confirmed(self, _queued: Any) -> None: ...

    def _typed(self, declaration: str, message: dict[str, Any]) -> dict[str, Any]:
        return {"typed_data": build_typed_data(self._market.vault.fields, declaration, message)}

    def _moved(self) -> dict[str, Any]:
        return {
            "payer": PAYER.account,
            "operator": OPERATOR.account,
            "collector": self._market.settlement.contract,
            "newCollector": some_account("another collector"),
            "maxAmount": UNIT,
            "key": ZERO_ACCOUNT,
            "cap": 0,
            "expiry": 0,
            "nonce": self._nonce,
            "deadline": self._market.chain.head().timestamp + 60,
        }


@pytest.mark.parametrize("message", ["grant", "move"])
def test_a_withheld_message_is_void_once_its_nonce_is_cancelled(market: LocalMarket, message: str) -> None:
    """One with a later nonce needs a second cancellation."""
    now, later = (getattr(Withholding(market, nonce), message)() for nonce in (0, 1))
    for nonce, withheld in enumerate((now, later)):
        assert ("nonce", str(nonce)) in withheld.statements[0].terms
        say("cancel-nonce")
        with pytest.raises(Reverted, match="InvalidAccountNonce"):
            withheld.send()
    getattr(Withholding(market, 2), message)().send()


def test_a_later_nonce_is_not_signed_where_a_node_is_named(
    market: LocalMarket, hardhat_node: LocalNode
) -> None:
    withholding = Withholding(market, 1, hardhat_node.url)
    for ask in (withholding.grant, withholding.move):
        with pytest.raises(SignatureRefused, match="the nonce 1, and PaymentVault accepts 0 now; nothing"):
            ask()
    assert (withholding.statements, withholding.held) == ([], ("", ()))
    Withholding(market, 0, hardhat_node.url).grant().send()


def test_a_balance_is_read_while_no_market_answers(market: LocalMarket) -> None:
    channel = market.channel_of(PAYER)
    stated = f"channel {channel} with operator {OPERATOR.account}: balance 5 dollars, thawing "
    assert say("balance", *WITH_OPERATOR) == f"{stated}0 dollars\n"
    say("withdraw", "2", *WITH_OPERATOR)
    assert say("balance", *WITH_OPERATOR).startswith(f"{stated}2 dollars; can be withdrawn from 20")
    (read,) = json.loads(say("balance", "--json", *WITH_OPERATOR))
    assert (read["id"], AMOUNT.read(read["thawing"])) == (channel, 2_000_000 * UNIT)
