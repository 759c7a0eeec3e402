"""A wallet's node, by plain JSON-RPC, on a real chain."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.chain.keys import local_account
from backend.chain.local_keys import local_private_key
from backend.client.keystore import LocalKey
from backend.client.node import Node, NodeRefusal, NoGas, WrongChain
from backend.client.signing import AskedCall, Statement, Wallet
from backend.domain.chain import Reverted
from backend.domain.errors import Unavailable
from tests.support.answering import JSON, PAGE, answering
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


def test_a_node_that_is_not_there_is_named(deployment: Deployment) -> None:
    with Node("http://127.0.0.1:1", deployment) as node, pytest.raises(Unavailable, match="--rpc-url"):
        node.check()
