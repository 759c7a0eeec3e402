"""Measures settling 10,000 receipts: validated, built into a batch, published, committed on chain.

Settler, sender, indexer and contracts are real, on a local chain.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.chain.local_node import LocalNode
from backend.db.migrate import upgrade
from backend.deployment.deployment_file import save_deployment
from backend.deployment.local import DOLLAR, deploy_local
from backend.domain.hashing import (
    accepted_hash,
    ascii_word,
    receipt_id,
    record_argument,
    snapshot_id,
    version_id,
)
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, DatanetId
from backend.domain.money import PPM
from backend.domain.receipt import Share, Slice
from backend.domain.serving import NewReceipt
from backend.domain.voucher import ClientVoucher, SignedVoucher, Voucher
from backend.installation.installation import Installation
from benchmarks.api import market
from benchmarks.api.figures import Row, Timed
from tools.labels import some_hash, some_key
from tools.local_market import CREATOR, OPERATOR, LocalMarket

if TYPE_CHECKING:
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.keys import LocalSigner
    from backend.domain.ids import ChannelId
    from backend.domain.receipt import SignedReceipt

NUM_RECEIPTS, NUM_CONTRIBUTORS, NUM_PAYERS = 10_000, 64, 20
DEPOSIT = 10 * DOLLAR
GAS_MONEY = hex(10**20)


class WideMarket(LocalMarket):
    """A market with one adapter of `NUM_CONTRIBUTORS` contributors, and `NUM_PAYERS` payers."""

    def __init__(self, chain: ChainClient) -> None:
        super().__init__(chain)
        accepted = accepted_hash([True] * NUM_CONTRIBUTORS)
        snapshot = snapshot_id(DatanetId(1), NUM_CONTRIBUTORS, accepted)
        self.adapter = replace(self.adapter, snapshots=(snapshot,))
        self.payers = [some_key(f"payer {number}") for number in range(NUM_PAYERS)]

    def build(self) -> None:
        contributors = [some_key(f"contributor {number}") for number in range(NUM_CONTRIBUTORS)]
        for key in (*contributors, *self.payers):
            self.rpc("hardhat_setBalance", key.account, GAS_MONEY)
        self.send(OPERATOR, "DatasetRegistry", "createDatanet", ascii_word("docs"), some_hash("about"))
        contents = [some_hash(f"content {number}") for number in range(NUM_CONTRIBUTORS)]
        for contributor, content in zip(contributors, contents, strict=True):
            named = {"datanetId": 1, "contentHash": content, "cidDigest": content}
            self.send(
                contributor,
                "DatasetRegistry",
                "contribute",
                named | {"licence": ascii_word("MIT"), "rows": 1},
            )
        reviews = [{"contentHash": content, "isAccepted": True, "reason": 0} for content in contents]
        self.send(OPERATOR, "DatasetRegistry", "review", 1, reviews)
        self.send(OPERATOR, "DatasetRegistry", "freeze", 1, NUM_CONTRIBUTORS)
        self.send(CREATOR, "AdapterRegistry", "register", record_argument(self.adapter))
        for payer in self.payers:
            self.send(local_account(0), "TestUSD", "mint", payer.account, DEPOSIT)
            self._deposit(payer, DEPOSIT, ZERO_ACCOUNT)

    def receipts(self, payer: LocalSigner, count: int, rng: random.Random) -> list[SignedReceipt]:
        """The next `count` receipts on the payer's channel, with random shares."""
        channel, served_at = self.channel_of(payer), self.chain.head().timestamp
        return [self._receipt(channel, served_at, rng) for _ in range(count)]

    def _receipt(self, channel: ChannelId, served_at: int, rng: random.Random) -> SignedReceipt:
        parts = [rng.randint(1, PPM // NUM_CONTRIBUTORS) for _ in range(NUM_CONTRIBUTORS)]
        parts[0] += PPM - sum(parts)
        shares = tuple(map(Share, range(NUM_CONTRIBUTORS), parts))
        slices = (Slice(version_id(self.adapter), PPM, shares),)
        tokens = rng.randint(10, 500), rng.randint(10, 500)
        return self._answer(channel, slices, [self.adapter], tokens, served_at)


def measure(folder: Path, seconds: float, repeats: int) -> list[Row]:  # noqa: ARG001 - the size is fixed
    """Seconds per batch. The repeats are consecutive batches on the same chain."""
    home = folder / "home"
    home.mkdir()
    with LocalNode.start(folder / "node.log") as node:
        installation = Installation(market.build_settings(home, rpc_url=node.url, confirmations=0))
        try:
            wide = _start_market(installation, node)
            rng = random.Random(0)  # noqa: S311 - a fixed seed, so that runs are comparable
            runs = []
            for number in range(1, repeats + 1):
                _store_receipts(installation, wide, rng)
                runs.append(_settle(installation, number))
        finally:
            installation.close()
    method = (
        f"{NUM_RECEIPTS} receipts of {NUM_CONTRIBUTORS} contributors each, {NUM_PAYERS} channels, from "
        "SQLite to the event of their commit, on Hardhat with automine; every repeat but the first "
        "audits the previous batch, as the settler does"
    )
    busy = tuple(run.other_cpu for run in runs)
    cpu = {"cpu_seconds": [round(run.cpu_seconds, 2) for run in runs]}
    return [Row("batch_10000_s", method, tuple(run.wall_seconds for run in runs), busy, cpu)]


def _start_market(installation: Installation, node: LocalNode) -> WideMarket:
    save_deployment(deploy_local(node.url), installation.settings.deployment_file)
    upgrade(installation.database.engine)
    installation.chain.node.rpc.request("evm_setIntervalMining", 0)
    wide = WideMarket(installation.chain)
    wide.build()
    installation.indexer.catch_up()
    return wide


def _store_receipts(installation: Installation, wide: WideMarket, rng: random.Random) -> None:
    """Store receipts of all payers, and for each payer a voucher that covers them."""
    for payer in wide.payers:
        signed = wide.receipts(payer, NUM_RECEIPTS // NUM_PAYERS, rng)
        operator, key = installation.operator.account, installation.receipt_key.account
        new = [
            NewReceipt(receipt_id(s.receipt), operator, payer.account, s, key, ZERO_HASH, None)
            for s in signed
        ]
        voucher = Voucher(wide.channel_of(payer), 0, signed[-1].receipt.cumulative)
        signature = payer.sign(wide.vault.voucher_digest(voucher))
        with installation.database.begin() as tx:
            tx.receipts.add(*new)
            tx.channels.put_voucher(ClientVoucher(SignedVoucher(voucher, signature), payer.account))


def _settle(installation: Installation, number: int) -> Timed:
    operator = installation.operator.account
    with Timed.measured() as timed:
        progress = installation.settler.run_once(is_forced=True)
        if progress.number != number or progress.skipped:
            raise AssertionError(f"batch {number} was not queued: {progress}")
        while True:
            installation.sender.run_once()
            installation.indexer.catch_up()
            with installation.database.read() as tx:
                timed.count = len(tx.chain.batches(operator))
            if timed.count == number:
                break
            time.sleep(0.05)
    return timed
