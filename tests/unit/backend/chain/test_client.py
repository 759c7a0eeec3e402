"""A node that refuses what the services ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.chain.client import ChainClient
from backend.chain.contract_wallets import WalletCalls
from backend.chain.node import Node
from backend.chain.rpc import Rpc
from backend.domain.errors import Unavailable
from tests.support.answering import JSON, answering
from tests.support.market import some_account, some_hash
from tests.support.terminal import scripted_deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFUSAL = '{"jsonrpc": "2.0", "id": 0, "error": {"code": -32000, "message": "header not found"}}'


@pytest.fixture
def node() -> Iterator[Node]:
    with answering(200, JSON, REFUSAL) as url:
        node = Node(Rpc(url, retries=1))
        yield node
        node.close()


@pytest.mark.parametrize(
    "ask",
    [
        ChainClient.head,
        ChainClient.gas_price,
        ChainClient.check,
        lambda chain: chain.block(1),
        lambda chain: chain.balance(some_account("operator")),
        lambda chain: chain.call("PaymentVault", "potOf", some_account("a"), some_account("b")),
        lambda chain: chain.called(some_hash("transaction")),
        lambda chain: chain.outcome(some_hash("transaction")),
    ],
)
def test_a_refusal_of_the_node_is_an_outage_for_the_services(
    node: Node, ask: Callable[[ChainClient], object]
) -> None:
    with pytest.raises(Unavailable, match="header not found"):
        ask(ChainClient(node, scripted_deployment()))


def test_a_refusal_to_show_a_wallets_code_is_an_outage(node: Node) -> None:
    with pytest.raises(Unavailable, match="header not found"):
        WalletCalls(node).accepts(some_account("wallet"), bytes(32), "0x")
