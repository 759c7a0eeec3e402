"""A wallet's node, by plain JSON-RPC, on a real chain."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.chain.local_keys import local_private_key
from backend.client import node as node_module
from backend.client.keystore import LocalKey
from backend.client.node import Node, NodeRefusal, NoGas, NotMined, WrongChain
from backend.client.signing import AskedCall, Statement, Wallet
from backend.domain.chain import Reverted
from backend.domain.errors import InvalidInput, Unavailable
from tests.support.answering import JSON, PAGE, answering
from tests.support.faulty_rpc import Answer, Faults, RealNode, serving
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.client.signing import Approve
    from backend.domain.deployment import Deployment

HOLDER = local_account(0)


def wallet(node: LocalNode, deployment: Deployment, approve: Approve) -> Wallet:
    return Wallet(LocalKey(local_private_key(0)), deployment, approve, node.url)


def delegation(chain: ChainClient) -> tuple[AskedCall, dict[str, object]]:
    prepared = chain.prepare("MarketToken", "delegate", HOLDER.account)
    asked = AskedCall(Statement("Delegate", ()), "MarketToken", "delegate", {"delegatee": HOLDER.account})
    return asked, {"chain_id": prepared.chain_id, "to": prepared.to, "data": prepared.data, "value": 0}


def test_a_transaction_is_shown_sent_and_mined(hardhat_node: LocalNode, chain: ChainClient) -> None:
    statements: list[Statement] = []
    mined = wallet(hardhat_node, chain.deployment, statements.append).send(*delegation(chain))
    assert chain.call("MarketToken", "delegates", HOLDER.account) == HOLDER.account
    assert mined.block_number == chain.head().number
    names = [name for name, _ in statements[0].terms]
    assert names == ["contract", "gas", "chain"]


def test_another_chain_is_refused_before_anything_is_signed(
    hardhat_node: LocalNode, chain: ChainClient
) -> None:
    asked, prepared = delegation(chain)
    other = replace(chain.deployment, chain_id=10)
    with pytest.raises(WrongChain, match="is on chain 31337, the market's deployment on chain 10"):
        wallet(hardhat_node, other, pytest.fail).send(asked, prepared | {"chain_id": 10})
    twin = replace(chain.deployment, block_hash=some_hash("elsewhere"))
    with pytest.raises(WrongChain, match="on another chain of id 31337"):
        wallet(hardhat_node, twin, pytest.fail).send(asked, prepared)
    later = replace(chain.deployment, block_number=1 << 40)
    with pytest.raises(WrongChain, match="on another chain of id 31337"):
        wallet(hardhat_node, later, pytest.fail).send(asked, prepared)


def test_a_call_that_the_contract_refuses_is_not_sent(hardhat_node: LocalNode, chain: ChainClient) -> None:
    args = {"operator": some_account("operator"), "collector": chain.address("Settlement")}
    asked = AskedCall(Statement("Withdraw", ()), "PaymentVault", "withdraw", args)
    prepared = chain.prepare("PaymentVault", "withdraw", *args.values())
    transaction = {"chain_id": prepared.chain_id, "to": prepared.to, "data": prepared.data, "value": 0}
    with pytest.raises(Reverted, match="NothingThawing"):
        wallet(hardhat_node, chain.deployment, pytest.fail).send(asked, transaction)


def test_a_wallet_without_coin_for_gas_is_told_before_it_signs(
    hardhat_node: LocalNode, chain: ChainClient
) -> None:
    poor = LocalKey("0x" + "07" * 32)
    asked, prepared = delegation(chain)
    with pytest.raises(NoGas, match=rf"{poor.account} has 0\.000000000 of the chain's coin.* up to 0\.000"):
        Wallet(poor, chain.deployment, pytest.fail, hardhat_node.url).send(asked, prepared)


def test_a_function_is_read(hardhat_node: LocalNode, chain: ChainClient) -> None:
    with Node(hardhat_node.url, chain.deployment) as node:
        assert node.read("Parameters", "current") == chain.call("Parameters", "current")


@pytest.mark.parametrize(
    ("kind", "body"),
    [(PAGE, "<html>"), (JSON, "[]"), (JSON, "{}"), (JSON, '{"error": null}'), (JSON, "[" * 100_000)],
)
def test_a_server_that_is_no_node_is_named(kind: str, body: str, deployment: Deployment) -> None:
    with (
        answering(200, kind, body) as url,
        Node(f"{url}/secret-key", deployment) as node,
        pytest.raises(Unavailable, match="does not speak JSON-RPC") as refused,
    ):
        node.check()
    assert "secret-key" not in str(refused.value)


def test_revert_data_of_another_form_are_left_out(deployment: Deployment) -> None:
    body = '{"error": {"message": "no", "data": "0xabc"}}'
    with (
        answering(200, JSON, body) as url,
        Node(url, deployment) as node,
        pytest.raises(NodeRefusal, match="no") as refused,
    ):
        node.check()
    assert refused.value.revert_data == b""


@pytest.mark.parametrize("url", ["http://[::1", "http://node:port", "http://\n"])
def test_what_is_no_url_of_a_node_is_refused(url: str, deployment: Deployment) -> None:
    with pytest.raises(InvalidInput, match="the node is not named by a URL"):
        Node(url, deployment)


def test_a_node_that_is_not_there_is_named(deployment: Deployment) -> None:
    with Node("http://127.0.0.1:1", deployment) as node, pytest.raises(Unavailable, match="--rpc-url"):
        node.check()


BUSY, LOST = Answer(429, b"too many requests"), Answer(0)
LIMITED = Answer(200, b'{"error": {"code": -32005, "message": "limit exceeded"}}')
DROPPED = Answer(200, b'{"result": "0x"}')
SEND, LOOK_UP = "eth_sendRawTransaction", "eth_getTransactionReceipt"


class Failing(Faults):
    """Answers the next requests of a method so. `keeps`: whether the chain gets what it does not answer."""

    def __init__(self, method: str, *answers: Answer, keeps: bool = True) -> None:
        super().__init__(seed=0, rate=0)
        self._method, self._answers, self._keeps = method, list(answers), keeps

    def take_in(self, method: str) -> None:
        if not self._keeps:
            self._fail(method)

    def pass_on(self, method: str, result: Any) -> Any:
        self._fail(method)
        return result

    def _fail(self, method: str) -> None:
        if method == self._method and self._answers:
            raise self._answers.pop(0)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "POLL_SECONDS", 0)


def send_through(faults: Faults, node: LocalNode, chain: ChainClient) -> str:
    """Hash of a transaction that a failing node sends."""
    with serving(RealNode(node.url), faults) as url:
        key = LocalKey(local_private_key(0))
        return Wallet(key, chain.deployment, lambda _: None, url).send(*delegation(chain)).tx_hash


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(
    "faults",
    [
        Failing(LOOK_UP, BUSY, LOST, LIMITED, Answer(503, b"<html>")),
        Failing(SEND, LOST),
        Failing(SEND, BUSY, LOST, keeps=False),
        Failing(SEND, Answer(200, b'{"error": {"message": "already known"}}')),
    ],
    ids=["looking it up", "the answer to the broadcast", "the broadcast", "refused though taken"],
)
def test_a_node_that_fails_after_the_broadcast_is_asked_again(
    faults: Faults, hardhat_node: LocalNode, chain: ChainClient
) -> None:
    before = int(chain.node.rpc.request("eth_getTransactionCount", HOLDER.account, "latest"), 16)
    tx_hash = send_through(faults, hardhat_node, chain)
    assert chain.node.rpc.request("eth_getTransactionReceipt", tx_hash)["status"] == "0x1"
    after = int(chain.node.rpc.request("eth_getTransactionCount", HOLDER.account, "latest"), 16)
    assert after == before + 1


@pytest.mark.parametrize(
    ("faults", "broadcast", "failure"),
    [
        (Failing(LOOK_UP, BUSY), "was broadcast", "answered 429"),
        (Failing(LOOK_UP, LOST), "was broadcast", "is not reachable"),
        (Failing(SEND, LOST), "may have been broadcast", "is not reachable"),
        (Failing(SEND, DROPPED, keeps=False), "was broadcast", ""),
    ],
)
def test_a_transaction_that_is_not_seen_mined_is_named(
    faults: Faults,
    broadcast: str,
    failure: str,
    hardhat_node: LocalNode,
    chain: ChainClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_module, "MINING_SECONDS", -1)
    with pytest.raises(NotMined, match="look it up before you repeat the command") as missed:
        send_through(faults, hardhat_node, chain)
    tx_hash = missed.value.details["tx_hash"]
    assert f"transaction {tx_hash} {broadcast}, and was not seen mined" in str(missed.value)
    assert failure in missed.value.details.get("latest failure", "")
    was_taken = chain.node.rpc.request("eth_getTransactionByHash", tx_hash) is not None
    assert was_taken == bool(failure), "the hash is that of the transaction"


def test_a_transaction_that_the_node_does_not_take_is_refused_at_once(
    hardhat_node: LocalNode, chain: ChainClient
) -> None:
    faults = Failing(SEND, Answer(200, b'{"error": {"message": "underpriced"}}'), keeps=False)
    with pytest.raises(NodeRefusal, match="refuses eth_sendRawTransaction: underpriced") as refused:
        send_through(faults, hardhat_node, chain)
    assert len(refused.value.details["tx_hash"]) == 66


@pytest.mark.parametrize("status", [429, 502])
def test_a_node_that_is_busy_is_not_taken_for_another_server(status: int, deployment: Deployment) -> None:
    with (
        answering(status, PAGE, "<html>") as url,
        Node(url, deployment) as node,
        pytest.raises(Unavailable, match=f"answered {status}; try again later"),
    ):
        node.check()
