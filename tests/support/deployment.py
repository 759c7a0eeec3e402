"""Deploys a market on production terms."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from backend.chain.keys import LocalSigner
from backend.chain.local_node import ROOT, LocalNode, command, wait_until_ready
from backend.deployment.builds import load_build
from backend.deployment.deploy import launch
from backend.deployment.deployer import Deployer
from backend.deployment.profiles import DAY, ETHEREUM
from backend.deployment.quorum import TOKEN
from backend.deployment.terms import TIMELOCK, Terms
from backend.domain.hashing import keccak
from backend.loopback import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.node import Node
    from backend.deployment.record import Record
    from backend.domain.ids import Account
    from backend.ports.keys import Signer

EXAMPLE = ROOT / "deployments" / "terms.example.toml"
COIN = 10**20


@cache
def key(label: str) -> LocalSigner:
    """A deterministic key, derived from a label."""
    return LocalSigner(keccak(label.encode()))


HOLDERS = tuple(key(f"holder {n}") for n in range(3))
DEPLOYER, GUARDIAN, CURATOR, OUTSIDER = map(key, ("deployer", "guardian", "curator", "outsider"))


def production_terms(payment_token: Account, chain_id: int = 31337, **changes: Any) -> Terms:
    terms = Terms(
        chain_id=chain_id,
        profile=ETHEREUM,
        payment_token=payment_token,
        treasury=TIMELOCK,
        guardian=GUARDIAN.account,
        curators=(CURATOR.account,),
        thaw_seconds=14 * DAY,
        timelock_seconds=2 * DAY,
        voting_rules={
            "votingDelay": DAY,
            "votingPeriod": 5 * DAY,
            "proposalThreshold": 100 * TOKEN,
            "quorumPercent": 20,
            "lateQuorumExtension": DAY,
        },
        first_set={
            "feePpm": 50_000,
            "stakeCoverPpm": 100_000,
            "disputeWindow": 3 * DAY,
            "minContributorsPpm": 300_000,
            "minOperatorPpm": 50_000,
            "maxOperatorPpm": 500_000,
            "challengerPpm": 250_000,
        },
        supply=1_000 * TOKEN,
        distribution={TIMELOCK: 550 * TOKEN} | {holder.account: 150 * TOKEN for holder in HOLDERS},
    )
    return replace(terms, **changes)


@contextmanager
def public_node(folder: Path, chain_id: int) -> Iterator[LocalNode]:
    """A node with a public chain's id, which mines every second."""
    port = free_port()
    with (folder / "hardhat.log").open("ab") as output:
        process = subprocess.Popen(
            [*command(port, folder / "hardhat"), "--chain-id", str(chain_id)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with LocalNode(process, f"http://127.0.0.1:{port}") as node:
        wait_until_ready(node.url, process, folder / "hardhat.log")
        yield node


def fund(node: Node, *accounts: Account) -> None:
    """Set balances of the chain's own coin."""
    for account in accounts:
        node.rpc.request("hardhat_setBalance", account, hex(COIN))


def put_token(node: Node, at: Account, contract: str = "TestUSD") -> None:
    """Put the code of this ERC-20 at this address."""
    node.rpc.request("hardhat_setCode", at, "0x" + load_build(contract).runtime.hex())


def deploy(node: Node, folder: Path, terms: Terms, signer: Signer = DEPLOYER) -> Record:
    fund(node, signer.account)
    put_token(node, terms.payment_token)
    return launch(node, signer, terms, folder, confirmations=0)


def acting(node: Node, record: Record, signer: Signer) -> Deployer:
    """The market's contracts, called with this key."""
    fund(node, signer.account)
    sender = Deployer(node, signer)
    sender.addresses = dict(record.addresses)
    return sender
