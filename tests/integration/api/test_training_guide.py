"""Every snippet of docs/training.md, in the order of the page, against a server; and its tables."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import fields
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.chain.local_node import ROOT
from backend.cli.main import app
from backend.client.errors import ApiError
from backend.client.node import Mined
from backend.client.signing import AskedCall, Wallet
from backend.domain.errors import InvalidInput
from backend.domain.ids import DatanetId, SnapshotId
from backend.domain.money import in_dollars
from backend.domain.registries import Datanet, Snapshot
from backend.domain.training import LINEAR_LAYERS, TrainingConfig
from backend.domain.training_payment import request_bytes
from backend.services.train.leases import Leases
from backend.services.train.options import RANGES
from backend.services.train.publication import Listing
from tests.integration.api.conftest import FUNDS
from tests.integration.api.test_fine_tuning import publish
from tests.support.market import some_hash
from tests.support.terminal import act_as_payer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.api.conftest import Api
    from tests.support.scripted_installation import ScriptedInstallation

PAGE = ROOT / "docs" / "training.md"
MOST = 15_360
"""Micro-units that a job of default options may cost."""
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^```sh\n(loraledger train (?!register).*?)\n```", re.MULTILINE)
REGISTER = re.compile(r"^```sh\n(loraledger train register .*?)\n```", re.MULTILINE)
CREATE = re.compile(r"^```sh\n(loraledger datanet .*?)\n```", re.MULTILINE)
FREEZE = re.compile(r"^```sh\n(loraledger snapshot .*?)\n```", re.MULTILINE)
OPTION = re.compile(r"^\| `(\w+)` \| (\S+) \| (.*) \|$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _recorded(installation: ScriptedInstallation) -> None:
    installation.record_rows(20)


def test_every_snippet_runs(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKET_URL", api.url)
    monkeypatch.setenv("MARKET_SESSION", api.session)
    monkeypatch.setenv("SNAPSHOT", some_hash("snapshot"))
    names: dict[str, Any] = {"__name__": "guide"}
    snippets = SNIPPET.findall(PAGE.read_text())
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)  # noqa: S102
    names["market"].close()
    names["client"].close()
    said = capsys.readouterr().out
    assert len(snippets) == 8
    job = api.installation.services.training.get(json.loads((tmp_path / "request.json").read_bytes())["id"])
    assert (tmp_path / "request.json").read_bytes() == request_bytes(job)
    for line in (
        "0 6 ",
        "given  'What'",
        "trained 'is.'",
        "about 0.00000000036 dollars, with 0.00000001536 reserved",
        "at most 0.00000001536 dollars",
        "continues from 0x",
        "validating_files",
        "info The job is validating.",
        "[]",
        "cancelled",
        "not_published",
    ):
        assert line in said


@pytest.fixture
def _at_the_api(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line finds the API of the test, and signs with its payer's key."""
    act_as_payer(api, monkeypatch)


@pytest.mark.usefixtures("_at_the_api")
def test_every_command_does_what_the_page_says(api: Api) -> None:
    leases = Leases(api.installation.db, api.installation.payments, api.installation.clock)
    commands, said = COMMAND.findall(PAGE.read_text()), []
    assert len(commands) == 5
    for command in commands:
        jobs = api.installation.services.training.list()
        if " watch " in command:
            publish(leases, jobs[0].id, num_tokens=60)
        if " cancel " in command:
            api.installation.clock.pass_seconds(1)
            said.append(type_in(commands[1].replace("$SNAPSHOT", some_hash("snapshot"))))
            jobs = api.installation.services.training.list()
        typed = command.replace("$SNAPSHOT", some_hash("snapshot"))
        said.append(type_in(typed.replace("$JOB", jobs[0].id if jobs else "")))
    estimated, created, listed, watched, _, cancelled = said
    assert "18 rows to train on, 2 not trained" in estimated
    assert "about 0.00000000036 dollars for 180 tokens, at 0.000002 dollars per million tokens" in estimated
    assert "at most 0.00000001536 dollars" in created
    assert "validating_files; at most" in listed
    assert "The job is validating." in watched
    assert "succeeded; 60 tokens, 0.00000000012 dollars, receipt 0x" in watched
    assert "is cancelled; nothing was charged" in cancelled


def type_in(command: str) -> str:
    program, *arguments = shlex.split(command)
    assert program == "loraledger"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def confirm(installation: ScriptedInstallation, snapshot: SnapshotId) -> None:
    """As sender and indexer do, once it is asked for."""
    sent = None
    while sent is None:
        time.sleep(0.05)
        with installation.begin() as tx:
            sent = tx.transactions.by_key(f"freeze:{snapshot}:0")
    installation.view.snapshots[snapshot] = Snapshot(
        snapshot, DatanetId(7), 4, some_hash("bits"), (0, 1, 3), 1
    )
    with installation.begin() as tx:
        tx.transactions.mark_confirmed(sent.id)


@pytest.mark.usefixtures("_at_the_api")
def test_a_snapshot_is_named_once_it_is_on_the_chain(api: Api) -> None:
    installation, snapshot = api.installation, SnapshotId(some_hash("preview (7, 4)"))
    known = Datanet(DatanetId(7), installation.payer.account, "docs", some_hash("description"), 4)
    installation.view.datanet_list.append(known)
    [command] = FREEZE.findall(PAGE.read_text())
    chain = Thread(target=confirm, args=(installation, snapshot))
    chain.start()
    assert type_in(command.replace("$DATANET", "7")) == f"{snapshot}\n"
    chain.join()


@pytest.mark.usefixtures("_at_the_api")
def test_a_datanet_is_named_once_it_is_on_the_chain(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = api.installation

    def send(_wallet: Wallet, asked: AskedCall, _prepared: dict[str, Any]) -> Mined:
        assert ("licence", "CC0-1.0") in asked.statement.terms
        account = installation.payer.account
        installation.view.datanet_list.append(Datanet(DatanetId(9), account, "poems", some_hash("about"), 0))
        return Mined("0x", 1)

    monkeypatch.setattr(Wallet, "send", send)
    [command] = CREATE.findall(PAGE.read_text())
    assert type_in(command) == "9\n"
    assert f"9  poems by {installation.payer.account}: 0 contributions\n" in type_in(
        "loraledger datanet list"
    )


@pytest.mark.usefixtures("_at_the_api")
def test_the_adapter_of_a_job_is_registered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    services, payer = api.installation.services, api.installation.payer.account
    job = services.training.create(payer, SnapshotId(some_hash("snapshot")), {})
    leases = Leases(api.installation.db, api.installation.payments, api.installation.clock)
    publish(leases, job.id, 60, api.installation.blobs.add_folder({"README.md": b"an adapter"}))
    published = services.training.get(job.id)

    def send(_wallet: Wallet, asked: AskedCall, _prepared: dict[str, Any]) -> Mined:
        assert asked.function == "register"
        listing = Listing("docs", 500_000, 1_000_000, 200_000, 300_000)
        api.installation.view.register(services.publication.record(published, listing))
        services.publication.record_registrations()
        return Mined("0x", 1)

    monkeypatch.setattr(Wallet, "send", send)
    [command] = REGISTER.findall(PAGE.read_text())
    said = type_in(command.replace("$JOB", job.id))
    assert f"{payer}/docs is version {services.training.get(job.id).version_id}\n" in said


@pytest.mark.usefixtures("_at_the_api")
def test_a_missing_voucher_is_signed_for_the_most_that_the_job_can_cost(api: Api) -> None:
    installation, create = api.installation, f"loraledger train create {some_hash('snapshot')}"
    installation.fund(FUNDS, cap=0)
    for number in (1, 2):
        assert f"signed a voucher for {in_dollars(number * MOST)} in all" in type_in(create)
        channel = installation.services.channels.get(installation.payer.account, installation.channel)
        balance = channel.balance
        assert (balance.authorised, balance.reserved) == (number * MOST, number * MOST)


@pytest.mark.usefixtures("_at_the_api")
def test_no_voucher_is_signed_where_the_balance_does_not_cover_the_job(api: Api) -> None:
    installation = api.installation
    installation.fund(MOST - 1, cap=0)
    refused = CliRunner().invoke(app, ["train", "create", some_hash("snapshot")])
    assert isinstance(refused.exception, ApiError)
    assert refused.exception.details["code"] == "insufficient_balance"
    with installation.read() as tx:
        assert not tx.channels.vouchers(installation.channel)


@pytest.mark.usefixtures("_at_the_api")
@pytest.mark.parametrize("given", ["rank", "rank=8 --set rank=9"])
def test_an_option_has_a_name_and_a_value(given: str) -> None:
    done = CliRunner().invoke(app, shlex.split(f"loraledger train create 0x --set {given}")[1:])
    assert isinstance(done.exception, InvalidInput)


@pytest.mark.usefixtures("_at_the_api")
def test_a_job_that_failed_ends_its_watch_with_an_error(api: Api) -> None:
    training, payer = api.installation.services.training, api.installation.payer.account
    job = training.create(payer, SnapshotId(some_hash("snapshot")), {})
    training.cancel(job.id, payer)
    done = CliRunner().invoke(app, ["train", "watch", job.id])
    assert done.exit_code == 1
    assert "cancelled; nothing was charged" in done.output


def test_the_table_has_every_option_with_its_default_and_range() -> None:
    default = TrainingConfig()
    shown = {name: (given.strip("`"), allowed) for name, given, allowed in OPTION.findall(PAGE.read_text())}
    assert set(shown) == {field.name for field in fields(TrainingConfig)}
    for name, (given, allowed) in shown.items():
        value = getattr(default, name)
        spelled = {str(value), str(value).lower(), "all-linear" if value == LINEAR_LAYERS else str(value)}
        assert given in spelled, name
        if name in RANGES:
            assert allowed.startswith("{} to {}".format(*RANGES[name])), name
