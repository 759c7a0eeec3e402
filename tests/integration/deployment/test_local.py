from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.client import ChainClient
from backend.chain.contracts import interface
from backend.chain.keys import local_account
from backend.chain.node import Node
from backend.deployment.contracts import ADMIN, CURATOR, GUARDIAN, create_market
from backend.deployment.deployer import Deployer
from backend.deployment.deployment_file import load_deployment, save_deployment
from backend.deployment.local import DOLLAR, deploy_local, local_terms
from backend.deployment.quorum import TOKEN
from backend.domain.chain import ChainReplaced, Reverted
from backend.domain.errors import Forbidden, InvalidInput, NotFound, Unavailable
from backend.domain.ids import ZERO_ACCOUNT, Account, Hash32
from tests.support.servers import snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.local_node import LocalNode
    from backend.domain.deployment import Deployment

COUNCIL, OPERATOR, RECEIPT_KEY = (local_account(i).account for i in range(3))
USERS = [local_account(i).account for i in range(3, 9)]


def test_the_contracts_know_each_other(chain: ChainClient, deployment: Deployment) -> None:
    at = deployment.addresses
    assert chain.call("Settlement", "vault") == at["PaymentVault"]
    assert chain.call("Settlement", "operators") == at["OperatorRegistry"]
    assert chain.call("OperatorRegistry", "settlement") == at["Settlement"]
    assert chain.call("PaymentVault", "token") == at["TestUSD"]
    assert chain.call("MarketGovernor", "timelock") == at["TimelockController"]
    assert chain.call("MarketGovernor", "token") == at["MarketToken"]
    assert chain.call("Parameters", "current")["treasury"] == COUNCIL


def test_the_operator_has_stake_key_and_curates(chain: ChainClient) -> None:
    assert chain.call("OperatorRegistry", "stakeOf", OPERATOR)["stake"] == 10_000 * DOLLAR * 10**6
    assert chain.call("OperatorRegistry", "operatorOfKey", RECEIPT_KEY) == OPERATOR
    with pytest.raises(Reverted) as as_user:
        chain.prepare("DatasetRegistry", "review", 1, [], sender=USERS[0])
    assert as_user.value.error == "AccessManagedUnauthorized"
    with pytest.raises(Reverted) as as_curator:
        chain.prepare("DatasetRegistry", "review", 1, [(Hash32("0x" + "11" * 32), True, 0)], sender=OPERATOR)
    assert as_curator.value.error != "AccessManagedUnauthorized"


def test_users_hold_dollars_and_undelegated_votes(chain: ChainClient) -> None:
    for user in USERS:
        assert chain.call("TestUSD", "balanceOf", user) == 10_000 * DOLLAR
        assert chain.call("MarketToken", "balanceOf", user) == 100_000 * TOKEN
        assert chain.call("MarketToken", "getVotes", user) == 0


@pytest.mark.parametrize("account", [COUNCIL, OPERATOR, USERS[0]])
def test_only_the_timelock_governs(chain: ChainClient, account: Account) -> None:
    current = chain.call("Parameters", "current")
    for contract, function, args in (
        ("Parameters", "append", (0, current)),
        ("AccessManager", "grantRole", (0, account, 0)),
        ("TimelockController", "grantRole", ("0x" + "00" * 32, account)),
    ):
        with pytest.raises(Reverted):
            chain.prepare(contract, function, *args, sender=account)


def test_only_the_guardian_pauses(chain: ChainClient) -> None:
    assert chain.prepare("Parameters", "pauseCommits", 30, sender=COUNCIL).gas
    with pytest.raises(Reverted):
        chain.prepare("Parameters", "pauseCommits", 30, sender=OPERATOR)


def members(deployer: Deployer, node: Node, contract: str) -> dict[Any, set[Account]]:
    """Holders of each role of a contract, from all logged grants and revocations."""
    events = interface(contract).events
    holders: dict[Any, set[Account]] = {}
    for log in node.logs([deployer.addresses[contract]], 0, node.head().number):
        event = events[log.topics[0]]
        args = event.decode_log(log.topics, log.data)
        if event.name == "RoleGranted":
            holders.setdefault(args.get("role", args.get("roleId")), set()).add(args["account"])
        elif event.name == "RoleRevoked":
            holders[args.get("role", args.get("roleId"))].remove(args["account"])
    return {role: accounts for role, accounts in holders.items() if accounts}


def test_a_deployment_leaves_the_timelock_as_only_administrator(hardhat_node: LocalNode) -> None:
    node = Node.connect(hardhat_node.url)
    with snapshot(hardhat_node.url):
        deployer = Deployer(node, local_account(0))
        deployer.create("TestUSD")
        treasury, guardian, curator = USERS[:3]
        token = deployer.addresses["TestUSD"]
        create_market(deployer, local_terms(token, treasury=treasury, guardian=guardian, curators=(curator,)))
        timelock, governor = (deployer.addresses[c] for c in ("TimelockController", "MarketGovernor"))
        assert members(deployer, node, "AccessManager") == {
            ADMIN: {timelock},
            GUARDIAN: {guardian},
            CURATOR: {curator},
        }
        role = {
            name: deployer.call("TimelockController", name)
            for name in ("DEFAULT_ADMIN_ROLE", "PROPOSER_ROLE", "CANCELLER_ROLE", "EXECUTOR_ROLE")
        }
        assert members(deployer, node, "TimelockController") == {
            role["DEFAULT_ADMIN_ROLE"]: {timelock},
            role["PROPOSER_ROLE"]: {governor},
            role["CANCELLER_ROLE"]: {governor},
            role["EXECUTOR_ROLE"]: {ZERO_ACCOUNT},
        }
        assert deployer.call("Parameters", "current")["treasury"] == treasury
        for contract, function, expected in (
            ("Parameters", "pauseCommits", GUARDIAN),
            ("Parameters", "append", ADMIN),
            ("DatasetRegistry", "review", CURATOR),
        ):
            target, selector = deployer.addresses[contract], interface(contract).selector(function)
            assert deployer.call("AccessManager", "getTargetFunctionRole", target, selector) == expected
    node.close()


def test_profile_local_is_refused_on_another_chain(
    hardhat_node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.deployment.local.LOCAL_CHAIN_ID", 1)
    with pytest.raises(Forbidden, match="refused on chain 31337"):
        deploy_local(hardhat_node.url)


def test_an_unreachable_node_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="is the node running"):
        deploy_local("http://127.0.0.1:9")


def test_a_deployment_file_survives_a_round_trip(deployment: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "deployment.json"
    save_deployment(deployment, path)
    assert load_deployment(path) == deployment


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"chain_id": "x", "block_number": 1})])
def test_a_broken_deployment_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "deployment.json"
    with pytest.raises(NotFound, match="loraledger up"):
        load_deployment(path)
    path.write_text(content)
    with pytest.raises(InvalidInput, match=r"deployment\.json is not a deployment file"):
        load_deployment(path)


def test_another_chain_than_the_deployments_is_an_error(
    hardhat_node: LocalNode, deployment: Deployment
) -> None:
    same = ChainClient.connect(hardhat_node.url, deployment)
    same.check()
    same.close()
    for other in (
        replace(deployment, block_hash=Hash32("0x" + "11" * 32)),
        replace(deployment, block_number=10**6),
        replace(deployment, chain_id=1),
    ):
        client = ChainClient.connect(hardhat_node.url, other)
        with pytest.raises(ChainReplaced, match="is not the one that the contracts were deployed to"):
            client.check()
        client.close()


def test_a_missing_contract_is_an_error_and_not_zero(hardhat_node: LocalNode, deployment: Deployment) -> None:
    addresses = dict(deployment.addresses) | {"TestUSD": COUNCIL}
    client = ChainClient.connect(hardhat_node.url, replace(deployment, addresses=addresses))
    with pytest.raises(ChainReplaced, match="no TestUSD"):
        client.call("TestUSD", "totalSupply")
    client.close()


def test_a_prepared_call_has_a_readable_form(chain: ChainClient) -> None:
    prepared = chain.prepare("TestUSD", "transfer", USERS[1], 5 * DOLLAR, sender=USERS[0])
    assert prepared.decoded == {
        "contract": "TestUSD",
        "function": "transfer",
        "args": {"to": USERS[1], "value": "5000000"},
    }
    assert chain.decode(prepared.to, prepared.data) == prepared.decoded
    assert prepared.gas is not None
    with pytest.raises(Reverted) as refused:
        chain.prepare("TestUSD", "transfer", USERS[1], 10**12, sender=USERS[0])
    assert refused.value.args_by_name["needed"] == 10**12
