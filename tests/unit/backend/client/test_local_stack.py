"""Funds of the local network, on a real chain."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.client.local_stack import PORTS_FILE, LocalStack
from backend.deployment.deployment_file import save_deployment
from backend.domain.errors import Forbidden
from tests.support.market import some_account

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment


def stack(home: Path, deployment: Deployment, port: int) -> LocalStack:
    ports = home / PORTS_FILE
    ports.parent.mkdir(parents=True)
    ports.write_text(json.dumps({"api": 1, "chain": port}))
    save_deployment(deployment, home / "deployment.json")
    return LocalStack(home)


def test_an_account_is_given_dollars_votes_and_coin(
    tmp_path: Path, hardhat_node: LocalNode, chain: ChainClient
) -> None:
    account = some_account("newcomer")
    stack(tmp_path, chain.deployment, int(hardhat_node.url.rpartition(":")[2])).fund(account)
    assert chain.call("TestUSD", "balanceOf", account) == 1_000 * 10**6
    assert chain.call("MarketToken", "balanceOf", account) == 50_000 * 10**18
    assert chain.balance(account) == 10**18


def test_a_node_that_up_did_not_start_is_found_by_its_url(tmp_path: Path, deployment: Deployment) -> None:
    own = stack(tmp_path, deployment, 7)
    assert (own.api_url, own.node_url) == ("http://127.0.0.1:1", "http://127.0.0.1:7")
    (tmp_path / PORTS_FILE).write_text(json.dumps({"api": 1, "chain": 7, "rpc": "http://node:8545"}))
    assert LocalStack(tmp_path).node_url == "http://node:8545"


def test_no_other_chain_has_test_dollars(tmp_path: Path, deployment: Deployment) -> None:
    with pytest.raises(Forbidden, match="on chain 31337 only, not 10"):
        stack(tmp_path, replace(deployment, chain_id=10), 1).fund(some_account("newcomer"))
