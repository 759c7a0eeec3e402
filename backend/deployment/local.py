"""The contracts on a developer's chain, furnished for tests, and the file that says where they are.

Local roles by index of the development mnemonic: 0 deployer, guardian and treasury; 1 operator and curator;
2 the operator's receipt key; 3 and up users.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.chain.node import Node
from backend.deployment.contracts import create_market
from backend.deployment.deployer import ARTIFACTS, Deployer
from backend.deployment.journal import write_durably
from backend.deployment.profiles import LOCAL
from backend.deployment.quorum import TOKEN
from backend.deployment.terms import Terms
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.errors import Forbidden, InvalidInput, NotFound
from backend.domain.hashing import TypedDomain
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from pathlib import Path

DOLLAR = 10**6
FIRST_USER, NUM_USERS, WATCHER = 3, 6, 9
LOCAL_SUPPLY = 1_000_000 * TOKEN
LOCAL_STAKE = 10_000 * DOLLAR
LOCAL_FUNDS = 10_000 * DOLLAR
LOCAL_VOTES = 100_000 * TOKEN


def local_terms(
    payment_token: Account, *, treasury: Account, guardian: Account, curators: tuple[Account, ...]
) -> Terms:
    """Windows of seconds. The supply stays with the deployer."""
    return Terms(
        chain_id=LOCAL_CHAIN_ID,
        profile=LOCAL,
        payment_token=payment_token,
        treasury=treasury,
        guardian=guardian,
        curators=curators,
        thaw_seconds=300,
        unstake_seconds=180,
        timelock_seconds=2,
        voting_rules={
            "votingDelay": 2,
            "votingPeriod": 10,
            "proposalThreshold": 1_000 * TOKEN,
            "quorumPercent": 4,
            "lateQuorumExtension": 2,
        },
        first_set={
            "feePpm": 50_000,
            "stakeCoverPpm": 100_000,
            "disputeWindow": 3,
            "minContributorsPpm": 300_000,
            "minOperatorPpm": 50_000,
            "maxOperatorPpm": 500_000,
            "challengerPpm": 250_000,
            "demandBond": DOLLAR // 100 * 10**6,
        },
        supply=LOCAL_SUPPLY,
    )


def deploy_local(rpc_url: str, artifacts: Path = ARTIFACTS) -> Deployment:
    """All contracts with profile `local` on a developer's chain; test users funded, the operator staked.

    Errors: `Forbidden` on any chain but 31337, `NotFound` without a build, `Unavailable` without a node.
    """
    node = Node.connect(rpc_url)
    try:
        if node.chain_id != LOCAL_CHAIN_ID:
            raise Forbidden(
                f"profile `local` with its windows of seconds is refused on chain {node.chain_id}",
                param="rpc_url",
            )
        deployer = Deployer(node, local_account(0), artifacts)
        first = deployer.create("TestUSD")
        council, curator = deployer.account, local_account(1).account
        token = deployer.addresses["TestUSD"]
        create_market(deployer, local_terms(token, treasury=council, guardian=council, curators=(curator,)))
        _furnish(deployer)
        return Deployment(node.chain_id, first.block_number, first.block_hash, dict(deployer.addresses))
    finally:
        node.close()


def _furnish(deployer: Deployer) -> None:
    """The local operator gets stake and receipt key, everybody dollars and votes. Nobody has delegated."""
    at = deployer.addresses
    operator, receipt_key = local_account(1), local_account(2)
    deployer.send("TestUSD", "mint", operator.account, LOCAL_STAKE)
    domain = TypedDomain(LOCAL_CHAIN_ID, at["OperatorRegistry"])
    consent = receipt_key.sign(domain.receipt_key_digest(operator.account))
    as_operator = deployer.acting_as(operator)
    as_operator.send("TestUSD", "approve", at["OperatorRegistry"], LOCAL_STAKE)
    as_operator.send("OperatorRegistry", "stake", LOCAL_STAKE)
    as_operator.send("OperatorRegistry", "addReceiptKey", receipt_key.account, consent)
    # The watcher's bonds for demands.
    deployer.send("TestUSD", "mint", local_account(WATCHER).account, LOCAL_FUNDS)
    for index in range(FIRST_USER, FIRST_USER + NUM_USERS):
        user = local_account(index).account
        deployer.send("TestUSD", "mint", user, LOCAL_FUNDS)
        deployer.send("MarketToken", "transfer", user, LOCAL_VOTES)


def save(deployment: Deployment, path: Path) -> None:
    """Write whole or not at all."""
    write_durably(path, json.dumps(asdict(deployment), indent=2, sort_keys=True) + "\n")


def load(path: Path) -> Deployment:
    """`NotFound` without the file, `InvalidInput` when it is not a deployment."""
    if not path.is_file():
        raise NotFound(
            f"no deployment file {path}: `loraledger up` makes one for the local network; for another "
            "one put the market's record there",
            param="deployment_file",
        )
    try:
        raw = json.loads(path.read_text())
        addresses = {str(name): Account(address) for name, address in raw["addresses"].items()}
        return Deployment(
            int(raw["chain_id"]), int(raw["block_number"]), Hash32(raw["block_hash"]), addresses
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is not a deployment file: {error!r}", param="deployment_file") from error
