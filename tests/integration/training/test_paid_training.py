"""Payment of a job on a real chain: registered, reserved, charged, settled, audited and verified."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.chain.local_node import ROOT
from backend.cli.main import app
from backend.cli.operator import verification
from backend.domain.hashing import to_hash
from backend.domain.ids import Cid
from backend.domain.money import UNIT
from backend.domain.training import Dataset, Step
from backend.domain.training_payment import request_bytes
from backend.domain.voucher import SignedVoucher, Voucher
from backend.installation.api_services import api_services
from backend.installation.base_model import BaseModelInfo
from backend.installation.local_network import prepare_bases
from backend.services.train.payments import TrainingNotOffered
from inference.model.base_model import base_model_digest
from tests.fixtures_engine import make_model
from tests.support.running_operator import RunningOperator, deposit
from tests.unit.workers.support import RESULT
from tools.local_market import PAYERS, LocalMarket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.domain.training import TrainingJob
    from backend.installation.installation import Installation

CREATOR, DEPOSIT, TOKENS = PAYERS[0], 1_000_000, 4321
CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
GUIDE = ROOT / "docs" / "training.md"


@pytest.fixture
def running(chain: ChainClient, hardhat_node: LocalNode, tmp_path: Path) -> Iterator[RunningOperator]:
    market = LocalMarket(chain)
    market._contribute()
    model = make_model(tmp_path / "model")
    facts = BaseModelInfo("model", to_hash(bytes.fromhex(base_model_digest(model))), str(model))
    home, url = tmp_path / "home", "http://127.0.0.1:1"
    made = RunningOperator(
        home, market, facts, hardhat_node.url, url, base_model=str(model), model_cache=tmp_path
    )
    yield made
    made.installation.close()


def published(installation: Installation, job: TrainingJob) -> TrainingJob:
    """Complete the job's steps as workers do, without training."""
    leases = installation.leases
    for step in Step:
        taken = leases.acquire(job.id, step)
        assert taken is not None
        if step is Step.VALIDATE:
            leases.complete_validation(taken, Dataset(to_hash(b"\1" * 32), 20, 2))
        elif step is Step.TRAIN:
            leases.complete_training(
                taken, replace(RESULT, metrics={**RESULT.metrics, "num_charged_tokens": TOKENS})
            )
        else:
            return leases.complete_publication(taken, CID)
    raise AssertionError


def test_training_is_paid_settled_and_audited_like_an_answer(
    running: RunningOperator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, market = running.installation, running.market
    prepare_bases(running.settings)
    services = api_services(installation)
    operator = installation.operator.account
    deposit(market, CREATOR, operator, DEPOSIT)
    installation.indexer.catch_up()
    channel = installation.counterparty.channel(CREATOR.account)
    voucher = Voucher(channel, 0, DEPOSIT * UNIT)
    signature = CREATOR.sign(market.vault.voucher_digest(voucher))
    services.channels.add_voucher(CREATOR.account, SignedVoucher(voucher, signature))
    snapshot = market.adapter.snapshots[0]
    with pytest.raises(TrainingNotOffered):
        services.training.create(CREATOR.account, snapshot, {})
    running.pump()
    prepare_bases(running.settings)  # the next start registers nothing again
    running.pump()

    job = published(installation, services.training.create(CREATOR.account, snapshot, {}))
    assert job.payment is not None
    charge = TOKENS * running.settings.training_price
    settled = installation.settler.run_once(is_forced=True)
    assert settled.skipped == {}
    running.pump()
    ledger = installation.audit.auditor.follow(operator)
    assert ledger.collected == {channel: charge}
    assert sum(ledger.balances.values()) == charge
    with installation.database.read() as tx:
        terms = tx.chain.latest_parameter_set()
        names = [version.record.name for version in tx.chain.versions(creator=operator)]
    assert terms is not None
    assert sorted(names) == ["model", "training"]
    assert ledger.balances[operator] == charge - charge * terms.fee_ppm // 10**6
    assert services.catalogue.find()[0].model.name == "model"

    (tmp_path / "request.json").write_bytes(request_bytes(job))
    (tmp_path / "answer.txt").write_text(RESULT.adapter_digest)
    monkeypatch.chdir(tmp_path)
    checks = verified(installation, str(job.payment.receipt_id), monkeypatch)
    assert {check["name"]: check["is_right"] for check in checks} == dict.fromkeys(
        ("hash", "signature", "slices", "charge", "batch", "content"), True
    )


def verified(
    installation: Installation, receipt: str, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Verify with the command of the guide."""

    @contextmanager
    def opened() -> Iterator[Installation]:
        yield installation

    monkeypatch.setattr(verification, "open_installation", opened)
    [command] = re.findall(r"^loraledger (receipts verify .*)$", GUIDE.read_text(), re.MULTILINE)
    arguments = shlex.split(command.replace("$RECEIPT", receipt))
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, [*arguments, "--re-execute"])
    assert "no answer to compute again" in str(again.exception)
    found: list[dict[str, Any]] = json.loads(done.output)
    return found
