"""SIGKILL between answer and commit, at any moment and again: no receipt that was promised is missing, none
stands twice, and what was kept for answers that never ended comes free.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.domain.ids import ChargeId, Hash32
from backend.services.channels.charges import sign_overdue
from tests.integration.api.answering_process import BOUND, CHARGE, FUNDS, NUM_CLIENTS, RECEIPT_SECONDS
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

PROGRAM = Path(__file__).with_name("answering_process.py")


def killed_after(seconds: float, folder: Path, url: str, *options: str) -> list[str]:
    """What one process promised, from its first answer until it is killed that much later."""
    command = [sys.executable, str(PROGRAM), str(folder), url, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        timer = threading.Timer(seconds, process.send_signal, (signal.SIGKILL,))
        timer.start()
        rest = process.stdout.read()
        timer.join()
    assert process.returncode == -signal.SIGKILL
    whole = rest[: rest.rfind("\n") + 1]  # the last line may have been cut
    return (first + whole).splitlines()


def survive(database: Database, folder: Path, num_kills: int) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    times = random.Random(num_kills)
    promised = [
        receipt
        for number in range(num_kills)
        for receipt in killed_after(times.uniform(0, 0.5), folder / str(number), url)
    ]
    installation = ScriptedInstallation(folder / "after", database)
    installation.fund(FUNDS)
    with database.read() as tx:
        stored = tx.receipts.page(installation.payer.account, None, 10**6)
        kept = tx.channels.reservations([installation.channel])
        charged = tx.channels.charged([installation.channel])[installation.channel]
    ends = sorted(receipt.signed.receipt.cumulative for receipt in stored)
    assert set(promised) <= {receipt.id for receipt in stored}
    assert len(promised) == len(set(promised))
    assert ends[0] == CHARGE
    assert all(after - before == CHARGE for before, after in pairwise(ends))
    assert charged == ends[-1] == CHARGE * len(stored)
    assert len(stored) - len(promised) <= num_kills * NUM_CLIENTS
    assert {receipt.amount for receipt in kept} <= {BOUND}
    installation.clock.pass_seconds(900)
    balance = installation.services.channels.get(installation.payer.account, installation.channel).balance
    assert balance.available == FUNDS - charged


def survive_charges(database: Database, folder: Path, num_kills: int) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    times = random.Random(num_kills)
    promised = [
        line.split()
        for number in range(num_kills)
        for line in killed_after(times.uniform(0, 0.5), folder / str(number), url, "charges")
    ]
    installation = ScriptedInstallation(folder / "after", database)
    installation.clock.pass_seconds(RECEIPT_SECONDS)
    now, key = int(installation.clock().timestamp()), installation.receipt_key
    signed = None
    while signed != 0:
        with installation.begin() as tx:
            signed = sign_overdue(tx, installation.operator, installation.domain, lambda _: key, now)
    with installation.read() as tx:
        stored = tx.receipts.page(installation.payer.account, None, 10**6)
        charges = {id_: tx.charges.get(ChargeId(Hash32(id_))) for kind, id_ in promised if kind == "charge"}
        charged = tx.channels.charged([installation.channel])[installation.channel]
        settleable = tx.receipts.unsettled(installation.channel, 0, 10**6)
    ids = {receipt.id for receipt in stored}
    assert all(charge is not None and charge.receipt in ids for charge in charges.values())
    assert {id_ for kind, id_ in promised if kind == "receipt"} <= ids
    assert [s.receipt.cumulative for s in settleable] == list(range(CHARGE, charged + 1, CHARGE))
    assert len(ids) == len(stored) == len(settleable)


def test_every_charge_of_a_killed_process_gets_one_receipt(database: Database, tmp_path: Path) -> None:
    survive_charges(database, tmp_path, num_kills=3)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_every_charge_of_many_killed_processes_gets_one_receipt(database: Database, tmp_path: Path) -> None:
    survive_charges(database, tmp_path, num_kills=40)


def test_what_was_promised_outlives_a_killed_process(database: Database, tmp_path: Path) -> None:
    survive(database, tmp_path, num_kills=3)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_what_was_promised_outlives_many_killed_processes(database: Database, tmp_path: Path) -> None:
    survive(database, tmp_path, num_kills=40)
