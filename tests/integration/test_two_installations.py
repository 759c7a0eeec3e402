"""Two operators on one chain: one publishes an adapter, the other finds, fetches, serves and settles it, and
the first one's contributors are paid for that.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from backend.watching import Task, watching
from tests.support.two import Two
from tools.local_market import CONTRIBUTORS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode


@pytest.fixture
def two(chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path) -> Iterator[Two]:
    with ExitStack() as stack:
        yield Two(chain, hardhat_node.url, tmp_path, stack)


def test_what_one_publishes_the_other_serves_and_the_first_ones_contributors_are_paid(two: Two) -> None:
    home, away = two.home, two.away
    assert not away.installation.blobs.has(two.cid)
    with two.client() as client:
        assert two.version in {model.version_id for model in client.models.list()}  # type: ignore[attr-defined]
        answer = client.chat.completions.create(
            model=two.version, messages=[{"role": "user", "content": "hello"}], max_tokens=12
        )
    bill = (answer.model_extra or {})["loraledger"]
    assert int(bill["charge"]) > 0
    assert away.installation.blobs.has(two.cid)  # and hands it on in its turn

    operator = away.installation.operator.account
    listed = {each["account"]: each for each in httpx.get(f"{home.url}/v1/operators").json()["data"]}
    seen = listed[operator]
    assert seen["endpoint"] == away.url
    assert seen["card"]["bases"][0]["name"] == "tiny"
    assert seen["card"]["active_adapters"] == [away.installation.catalogue.record(two.version).adapter_digest]
    assert (seen["uptime_ppm"], seen["latency_ms"] >= 0) == (1_000_000, True)
    assert listed[home.installation.operator.account]["card"]["active_adapters"] == []

    away.installation.settler.run_once(is_forced=True)
    away.pump()
    with watching(home.installation, Task(can_answer=False), threading.Event()) as watcher:
        (news,) = watcher.run_once()
    assert (news.what, news.operator) == ("right", operator)

    two.market.pass_time(60)
    away.installation.indexer.catch_up()
    away.installation.settler.run_once()
    away.pump()
    home.pump()
    for contributor in (CONTRIBUTORS[0].account, CONTRIBUTORS[2].account):
        before = two.market.dollars(contributor)
        (earned,) = home.installation.claims.claimable(contributor)
        assert earned.operator == operator
        assert earned.units > 0
        home.installation.claims.relay(operator, contributor)
        home.pump()
        assert two.market.dollars(contributor) == before + earned.units
