"""Deploys a market for development to the local chain and funds its accounts.

Accounts by index of the development mnemonic: 0 deployer, guardian and treasury; 1 operator and curator;
2 the operator's receipt key; 3 to 8 users; 9 watcher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.chain.node import Node
from backend.deployment.contracts import create_market
from backend.deployment.deployer import Deployer
from backend.deployment.profiles import LOCAL
from backend.deployment.quorum import TOKEN
from backend.deployment.terms import Terms
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.errors import Forbidden
from backend.domain.hashing import TypedDomain

if TYPE_CHECKING:
    from backend.domain.ids import Account

DOLLAR = 10**6
FIRST_USER, NUM_USERS, WATCHER = 3, 6, 9
MIN_WINDOW = 4
"""Seconds: the shortest dispute window of the profile `local`."""
LOCAL_SUPPLY = 1_000_000 * TOKEN
LOCAL_STAKE = 10_000 * DOLLAR
LOCAL_FUNDS = 10_000 * DOLLAR
LOCAL_VOTES = 100_000 * TOKEN


def local_terms(
    payment_token: Account,
    *,
    treasury: Account,
    guardian: Account,
    curators: tuple[Account, ...],
    dispute_window: int = MIN_WINDOW,
) -> Terms:
    """Terms with windows of seconds, under which the deployer keeps the supply of market tokens.

    The time for answers to demands is an eighth of this dispute window, at least a second.
    """
    return Terms(
        chain_id=LOCAL_CHAIN_ID,
        profile=LOCAL,
        payment_token=payment_token,
        treasury=treasury,
        guardian=guardian,
        curators=curators,
        thaw_seconds=300,
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
            "disputeWindow": dispute_window,
            "minContributorsPpm": 300_000,
            "minOperatorPpm": 50_000,
            "maxOperatorPpm": 500_000,
            "challengerPpm": 250_000,
        },
        supply=LOCAL_SUPPLY,
    )


def deploy_local(rpc_url: str, *, dispute_window: int = MIN_WINDOW) -> Deployment:
    """Deploy all contracts with profile `local`, fund the users and stake for the operator.

    A later window is in seconds and may change by vote; the time for answers, an eighth of this one, may not.
    Errors: `Forbidden` on any chain but 31337, `Unavailable` without a node.
    """
    node = Node.connect(rpc_url)
    try:
        if node.chain_id != LOCAL_CHAIN_ID:
            raise Forbidden(
                f"profile `local` with its windows of seconds is refused on chain {node.chain_id}",
                param="rpc_url",
            )
        deployer = Deployer(node, local_account(0))
        first = deployer.create("TestUSD")
        council, curator = deployer.account, local_account(1).account
        token = deployer.addresses["TestUSD"]
        terms = local_terms(
            token, treasury=council, guardian=council, curators=(curator,), dispute_window=dispute_window
        )
        create_market(deployer, terms)
        _fund(deployer)
        return Deployment(node.chain_id, first.block_number, first.block_hash, dict(deployer.addresses))
    finally:
        node.close()


def _fund(deployer: Deployer) -> None:
    """Give the operator its stake and receipt key, and the users test dollars and undelegated votes."""
    at = deployer.addresses
    operator, receipt_key = local_account(1), local_account(2)
    deployer.send("TestUSD", "mint", operator.account, LOCAL_STAKE)
    domain = TypedDomain(LOCAL_CHAIN_ID, at["OperatorRegistry"])
    consent = receipt_key.sign(domain.receipt_key_digest(operator.account))
    as_operator = deployer.with_signer(operator)
    as_operator.send("TestUSD", "approve", at["OperatorRegistry"], LOCAL_STAKE)
    as_operator.send("OperatorRegistry", "stake", LOCAL_STAKE)
    as_operator.send("OperatorRegistry", "addReceiptKey", receipt_key.account, consent)
    # The watcher pays bonds for demands.
    deployer.send("TestUSD", "mint", local_account(WATCHER).account, LOCAL_FUNDS)
    for index in range(FIRST_USER, FIRST_USER + NUM_USERS):
        user = local_account(index).account
        deployer.send("TestUSD", "mint", user, LOCAL_FUNDS)
        deployer.send("MarketToken", "transfer", user, LOCAL_VOTES)
