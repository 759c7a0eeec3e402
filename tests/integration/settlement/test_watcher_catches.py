"""The watcher against the attacks of `tools.attack`; `make attack` runs them all in real time."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.deployment.deployment_file import save_deployment
from backend.installation.installation import Installation
from backend.installation.watcher import WatchOptions, open_watcher
from backend.settings import Settings
from backend.storage.embedded import EmbeddedStore
from tools.attack.attack_market import AttackMarket
from tools.attack.attacks import ATTACKS
from tools.attack.play import play

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.domain.batch import Header
    from backend.services.watch.watcher import Watcher


@contextmanager
def at_watch(chain: ChainClient, node: LocalNode, home: Path, task: WatchOptions) -> Iterator[Watcher]:
    """A watcher in a home folder with only the addresses and a block store."""
    save_deployment(chain.deployment, home / "deployment.json")
    installation = Installation(Settings(home=home, rpc_url=node.url))
    try:
        with open_watcher(installation, task, threading.Event()) as watcher:
            yield watcher
    finally:
        installation.close()


def test_every_way_to_commit_a_wrong_batch_is_caught_and_undone_to_the_unit(
    chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path
) -> None:
    challengers, operators = tmp_path / "challenger", tmp_path / "operator"
    challengers.mkdir()
    operators.mkdir()
    (operators / "ipfs").symlink_to(challengers / "ipfs")
    market = AttackMarket(chain, EmbeddedStore(challengers / "ipfs", is_durable=False), tmp_path)
    challenge = WatchOptions(can_challenge=True, can_answer=False, evidence=market.evidence)
    right: set[str] = set()
    try:
        with (
            at_watch(chain, hardhat_node, challengers, challenge) as challenger,
            at_watch(chain, hardhat_node, operators, WatchOptions()) as operator,
        ):

            def step() -> None:
                market.pass_time(1)
                list(operator.run_once())
                right.update(news.batch_hash for news in challenger.run_once() if news.what == "right")

            def is_right(header: Header) -> bool:
                return header.hash in right

            rounds = [play(market, attack, is_right, step) for attack in ATTACKS]
    finally:
        market.close()
    assert sum(bool(round_.proof) for round_ in rounds) >= 11  # ten corrupted, one withheld
    assert all(round_.paid_units > 0 for round_ in rounds)
