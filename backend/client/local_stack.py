"""The stack of `loraledger up` on this machine, found by the home folder of its installation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from backend.client.deployments import read_deployment
from backend.domain.deployment import LOCAL_CHAIN_ID, LOCAL_TOKEN
from backend.domain.errors import Forbidden, NotFound
from backend.domain.money import COIN

if TYPE_CHECKING:
    from backend.client.keystore import LocalKey
    from backend.domain.deployment import Deployment
    from backend.domain.ids import Account

PORTS_FILE = "run/ports.json"
FUNDS = ((LOCAL_TOKEN, "mint", 1_000 * 10**6), ("MarketToken", "transfer", 50_000 * 10**18))
"""A thousand dollars, and votes for the quorum of the local network, which is 40,000."""


class LocalStack:
    """Ports, contracts and test accounts. Its own deployment file is what it deployed itself."""

    def __init__(self, home: Path | None = None) -> None:
        """Errors: `NotFound` if nothing was started in this home."""
        self.home = home or default_home()
        urls = read_urls(self.home)
        if urls is None:
            raise NotFound(
                f"nothing runs in this home (no {self.home / PORTS_FILE}): start `loraledger up`, or "
                "name a market with --market"
            )
        self.api_url, self.node_url = urls

    @property
    def deployment(self) -> Deployment:
        """Errors: `NotFound`, `InvalidInput`."""
        return read_deployment(self.home / "deployment.json")

    def user_key(self, index: int) -> LocalKey:
        """The key of a test account. It is public."""
        from backend.chain.local_keys import local_private_key
        from backend.client.keystore import LocalKey

        return LocalKey(local_private_key(index))

    def fund(self, account: Account) -> None:
        """Give an account dollars, votes and coin of the local network, from test account 0.

        Errors: `Forbidden` on any other chain; those of `Node`.
        """
        from backend.chain.contracts import interface
        from backend.client.node import Node

        deployment = self.deployment
        if deployment.chain_id != LOCAL_CHAIN_ID:
            raise Forbidden(f"test dollars exist on chain {LOCAL_CHAIN_ID} only, not {deployment.chain_id}")
        giver = self.user_key(0).unlock()
        with Node(self.node_url, deployment) as node:
            node.check()
            for contract, function, amount in FUNDS:
                data = interface(contract).function(function, [account, amount]).encode([account, amount])
                to = deployment.address(contract)
                call = {"from": giver.address, "to": to, "data": "0x" + data.hex(), "value": "0x0"}
                node.send(giver, node.fill(contract, function, call))
            call = {"from": giver.address, "to": account, "data": "0x", "value": hex(COIN)}
            node.send(giver, node.fill("the account", "receive", call))


def default_home() -> Path:
    """The home folder of the installation that this process would use."""
    return Path(os.environ.get("LORALEDGER_HOME") or ".loraledger")


def read_urls(home: Path) -> tuple[str, str] | None:
    """URLs of API and node under the current or the last `loraledger up`."""
    path = home / PORTS_FILE
    if not path.is_file():
        return None
    ports = json.loads(path.read_text())
    return f"http://127.0.0.1:{ports['api']}", ports.get("rpc") or f"http://127.0.0.1:{ports['chain']}"
