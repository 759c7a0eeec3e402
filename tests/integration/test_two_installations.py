"""Two operators on one chain: one publishes an adapter, the other finds, fetches, serves and settles it, and
the first one's contributors are paid for that.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import httpx
import pytest

from backend.domain.content import cid_digest
from backend.domain.contribution import ReviewReason
from backend.domain.dataset import canonical_row
from backend.domain.hashing import accepted_hash, ascii_word, snapshot_id, to_hash
from backend.domain.ids import DatanetId
from backend.domain.money import AMOUNT
from backend.installation.base_model import BaseModelInfo
from backend.installation.watcher import WatchOptions, open_watcher
from backend.services.contribute.snapshot import ContributionWithdrawn
from backend.services.contribute.staging import DATA_FILE, MANIFEST_FILE
from tests.integration.api.conftest import sign_in
from tests.support.running_operator import RunningOperator, listening, new_operator, serving
from tests.support.two_operators import TwoOperators
from tests.support.waiting import wait_for
from tools.labels import some_hash
from tools.local_market import CONTRIBUTORS, OPERATOR, LocalMarket
from workers.training.dataset import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.keys import LocalSigner
    from backend.chain.local_node import LocalNode
    from backend.domain.ids import Account, Cid, Hash32, SnapshotId
    from backend.services.accounts.claims import Claimable


@pytest.fixture
def operators(chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path) -> Iterator[TwoOperators]:
    with ExitStack() as stack:
        yield TwoOperators(chain, hardhat_node.url, tmp_path, stack)


def test_an_adapter_of_one_operator_is_served_by_the_other_and_its_contributors_are_paid(
    operators: TwoOperators,
) -> None:
    home, away = operators.home, operators.away
    assert not away.installation.blobs.has(operators.cid)
    with operators.client() as client:
        answer = client.chat.completions.create(
            model=operators.version, messages=[{"role": "user", "content": "hello"}], max_tokens=12
        )
        assert operators.version in {model.version_id for model in client.models.list()}  # type: ignore[attr-defined]
    bill = (answer.model_extra or {})["loraledger"]
    assert AMOUNT.parse(bill["charge"]) > 0
    assert away.installation.blobs.has(operators.cid)  # and hands it on in its turn

    operator = away.installation.operator.account
    listed = {each["account"]: each for each in httpx.get(f"{home.url}/v1/operators").json()["data"]}
    seen = listed[operator]
    assert seen["endpoint"] == away.url
    assert seen["card"]["bases"][0]["name"] == "tiny"
    assert seen["card"]["active_adapters"] == [
        away.installation.catalogue.record(operators.version).adapter_digest
    ]
    assert (seen["uptime_ppm"], seen["latency_ms"] >= 0) == (1_000_000, True)
    assert listed[home.installation.operator.account]["card"]["active_adapters"] == []

    away.installation.settler.run_once(is_forced=True)
    away.pump()
    with open_watcher(home.installation, WatchOptions(can_answer=False), threading.Event()) as watcher:
        (news,) = watcher.run_once()
    assert (news.what, news.operator) == ("right", operator)

    operators.market.pass_time(60)
    away.installation.indexer.catch_up()
    away.installation.settler.run_once()
    away.pump()
    home.pump()
    for contributor in (CONTRIBUTORS[0].account, CONTRIBUTORS[2].account):
        before = operators.market.dollars(contributor)
        earned = wait_for(partial(audited_earnings, operators, contributor))
        assert earned is not None
        assert earned.operator == operator
        assert earned.units > 0
        home.installation.claims.relay(operator, contributor)
        home.pump()
        assert operators.market.dollars(contributor) == before + earned.units
    assert_explained(operators, bill["receipt_id"], CONTRIBUTORS[0])


def audited_earnings(operators: TwoOperators, contributor: Account) -> Claimable | None:
    """What the contributor can claim, once `home` has fetched and audited the batch."""
    (found,) = operators.home.installation.claims.claimable(contributor).found
    return found if found.unverifiable is None else None


def assert_explained(operators: TwoOperators, receipt: str, contributor: LocalSigner) -> None:
    """The contributor sees at `home` why it earned at `away`, and proves it with openings from there."""
    with signed_in(operators.home.url, contributor) as at_home:
        (entry,) = at_home.get("/v1/earnings/entries").json()["data"]
        shown = at_home.get(f"/v1/earnings/entries/{entry['receipt_id']}").json()
        (claimable,) = at_home.get("/v1/earnings").json()["data"]
    assert (entry["receipt_id"], entry["state"]) == (receipt, "claimed")
    assert entry["amount"] == shown["amount"] == claimable["cumulative"]
    assert shown["proof_url"] == f"{operators.away.url}/v1/receipts/{receipt}/proof"
    with signed_in(operators.away.url, contributor) as at_away:
        proof = at_away.get(shown["proof_url"]).json()
    assert proof["batch_hash"] == shown["batch_hash"]
    (proven,) = (entry for entry in proof["entries"] if entry["account"] == contributor.account)
    assert proven["opening"]["value"] == entry["amount"]["micro_units"]


def signed_in(url: str, signer: LocalSigner) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"authorization": f"Bearer {sign_in(url, signer)}"})


def test_data_that_one_took_in_the_other_learns_from_until_it_is_taken_back(
    chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path
) -> None:
    rows = b"".join(canonical_row({"text": text}) + b"\n" for text in ("one", "two"))
    facts = BaseModelInfo("tiny", some_hash("base"), "")
    with ExitStack() as stack:
        market = LocalMarket(chain)
        listener, url = stack.enter_context(listening())
        home = RunningOperator(tmp_path / "home", market, facts, hardhat_node.url, url)
        cid = home.installation.blobs.add_folder({DATA_FILE: rows, MANIFEST_FILE: b"{}"})
        snapshot = recorded(market, rows, cid)
        home.announce()
        stack.enter_context(serving(home, listener))
        keys = new_operator(tmp_path / "away_keys", market)
        away = RunningOperator(tmp_path / "away", market, facts, hardhat_node.url, "", **keys)
        stack.callback(away.installation.close)
        (tmp_path / "away_keys" / "keys").rename(tmp_path / "away" / "keys")
        away.pump()
        store = away.installation.blobs
        assert not store.has(cid)
        dataset = write_rows(away.installation.datanets.fetching_snapshots, snapshot, tmp_path / "rows.jsonl")
        assert (dataset.num_rows, dataset.num_contributions) == (2, 1)
        assert store.has(cid)

        refusal = {"contentHash": content_hash(rows), "isAccepted": False, "reason": ReviewReason.WITHDRAWN}
        market.send(OPERATOR, "DatasetRegistry", "review", 1, [refusal])
        away.pump()
        away.installation.datanets.withdrawn_content.sweep()
        assert not store.has(cid)
        with pytest.raises(ContributionWithdrawn):
            list(away.installation.datanets.fetching_snapshots.rows(snapshot))


def content_hash(rows: bytes) -> Hash32:
    return to_hash(sha256(rows).digest())


def recorded(market: LocalMarket, rows: bytes, cid: Cid) -> SnapshotId:
    """A snapshot of one contribution, accepted."""
    contribution = {
        "datanetId": 1,
        "contentHash": content_hash(rows),
        "cidDigest": cid_digest(cid),
        "licence": ascii_word("MIT"),
        "rows": 2,
    }
    accepted = {"contentHash": content_hash(rows), "isAccepted": True, "reason": 0}
    market.send(CONTRIBUTORS[0], "DatasetRegistry", "createDatanet", ascii_word("docs"), some_hash("about"))
    market.send(CONTRIBUTORS[0], "DatasetRegistry", "contribute", contribution)
    market.send(OPERATOR, "DatasetRegistry", "review", 1, [accepted])
    market.send(OPERATOR, "DatasetRegistry", "freeze", 1, 1)
    return snapshot_id(DatanetId(1), 1, accepted_hash([True]))
