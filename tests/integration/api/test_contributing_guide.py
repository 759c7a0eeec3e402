"""docs/contributing-data.md, typed: every command on the page, in its order, against a real API."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

import httpx
import pytest
from typer.testing import CliRunner

from backend.chain.local_node import ROOT
from backend.cli.actor import Actor
from backend.cli.main import app
from backend.client import contributions, transfers
from backend.domain.content import cid_digest
from backend.domain.errors import Forbidden
from backend.domain.hashing import licence_word
from backend.domain.ids import DatanetId
from backend.domain.registries import Contribution, Datanet
from tests.support.contributions import jsonl
from tests.support.earning_market import paying, serve_earnings
from tests.support.market import some_account, some_hash
from tests.support.settlement_steps import settle_batches
from tests.support.terminal import act_as_payer, payer_client

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result
    from fastapi import FastAPI

    from backend.client.api import ApiClient
    from tests.integration.api.conftest import Api

GUIDE = ROOT / "docs" / "contributing-data.md"


@pytest.fixture(autouse=True)
def _at_the_api(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line finds the API of the test, and signs with its payer's key."""
    about = cid_digest(api.installation.blobs.add_folder({"README.md": b"# Docs"}))
    known = Datanet(DatanetId(1), some_account("curator"), "docs", about, 4)
    api.installation.view.datanet_list.append(known)
    act_as_payer(api, monkeypatch)
    monkeypatch.setenv("LORALEDGER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def type_in(command: str) -> Result:
    program, *arguments = shlex.split(command)
    assert program == "loraledger"
    return CliRunner().invoke(app, arguments)


def play_recording(api: Api, upload_id: str) -> None:
    """The chain records the upload."""
    account = api.installation.payer.account
    upload = api.installation.services.contributions.status(upload_id)
    report = upload.report
    assert report.content_hash is not None
    assert report.cid is not None
    word = licence_word(report.licence)
    folder = cid_digest(report.cid)
    recorded = Contribution(
        upload.datanet, None, account, report.content_hash, folder, word, report.num_rows, None, 0, 1, 1
    )
    api.installation.view.recorded.append(recorded)


def test_every_command_of_the_guide_does_what_the_page_says(
    api: Api, server: tuple[FastAPI, str], tmp_path: Path
) -> None:
    harness = paying(api.installation.payer.account, tmp_path / "batches")
    settle_batches(harness, 1, answers=4)
    serve_earnings(api, server[0], harness)
    commands = re.findall(r"^```sh\n(.*?)\n```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(commands) == 9
    said: list[str] = []
    for command in commands:
        if "$UPLOAD" in command:
            upload_id = said[-1].split()[0]
            play_recording(api, upload_id)
            command = command.replace("$UPLOAD", upload_id)  # noqa: PLW2901 - as a shell would
        if "$RECEIPT" in command:
            command = command.replace("$RECEIPT", said[-1].split()[0])  # noqa: PLW2901
        result = type_in(command)
        assert result.exit_code == 0, (command, result.output, result.exception)
        said.append(result.output)
    assert "3 rows of json, licence PSF-2.0" in said[0]
    assert "3 valid rows of instruct, 0 defects, licence PSF-2.0" in said[1]
    assert said[1].strip() in said[2]
    assert re.search(r"^upload-\w+ submitted in datanet 1: rows.jsonl$", said[3], re.MULTILINE)
    assert re.match(r"upload-\w+ is withdrawing; ", said[4])
    assert re.match(r"[123]/2: 0\.\d+ dollars pending, entries: \d+\n", said[5])
    assert said[6].startswith("credited_at,operator,batch,receipt_id,")
    assert len(said[6].splitlines()) == len(said[7].splitlines()) + 1
    assert "(this account)" in said[8]
    harness.database.close()


def test_a_refused_file_is_not_signed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl({"text": 1}))
    result = type_in("loraledger data push rows.jsonl --datanet 1 --licence MIT --yes")
    assert result.exit_code == 1
    assert "line 1, text: must be a string, not a number [wrong_type]" in result.output
    assert "refused; nothing was stored" in result.output


def test_a_contribution_to_a_datanet_of_unknown_terms_says_so(api: Api, tmp_path: Path) -> None:
    elsewhere = Datanet(DatanetId(2), some_account("curator"), "docs", some_hash("elsewhere"), 4)
    api.installation.view.datanet_list.append(elsewhere)
    (tmp_path / "rows.jsonl").write_bytes(jsonl({"text": "a"}))
    result = type_in("loraledger data push rows.jsonl --datanet 2 --licence MIT --yes")
    assert result.exit_code == 0, result.output
    unknown = "the licence was not compared with the datanet's terms, which are unknown: a curator decides"
    assert unknown in result.output
    upload_id = type_in("loraledger data status").output.split()[0]
    assert unknown in type_in(f"loraledger data status {upload_id}").output
    page = httpx.get(f"{api.url}/u/{upload_id}", cookies={"loraledger_session": api.session}).text
    assert "not compared with the datanet's terms" in page


def test_nothing_is_signed_without_a_yes(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl({"text": "a"}))

    def connect(actor: Actor) -> ApiClient:
        client = payer_client(api).sign_in()
        client.wallet._approve = actor._approve
        return client

    with monkeypatch.context() as patched:
        patched.setattr(Actor, "connect", connect)
        result = type_in("loraledger data push rows.jsonl --datanet 1 --licence MIT")
    assert isinstance(result.exception, Forbidden)
    assert "--yes" in str(result.exception)
    assert "Contribute data:\n  datanet      1\n  licence      MIT\n  rows         1\n" in result.output
    [line] = type_in("loraledger data status").output.splitlines()
    upload_id = line.split()[0]
    assert line == f"{upload_id} draft in datanet 1: rows.jsonl"
    shown = type_in(f"loraledger data status {upload_id}").output
    assert "1 valid row of text, 0 defects, licence MIT" in shown


def test_a_large_file_goes_on_from_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = jsonl(*({"text": f"{number} is a number"} for number in range(20)))
    (tmp_path / "rows.jsonl").write_bytes(rows)
    for module in (contributions, transfers):
        monkeypatch.setattr(module, "PIECE_BYTES", 100)
    send, begins = transfers._send, []

    def interrupted(market: ApiClient, transfer_id: str, offset: int, piece: bytes) -> int:
        begins.append(offset)
        if len(begins) == 3:
            raise KeyboardInterrupt
        return send(market, transfer_id, offset, piece)

    monkeypatch.setattr(transfers, "_send", interrupted)
    command = "loraledger data push rows.jsonl --datanet 1 --licence MIT --yes"
    first = type_in(command)
    assert first.exit_code == 130
    assert "run the same command within a day to resume" in first.output
    second = type_in(command)
    assert second.exit_code == 0, second.output
    assert "20 valid rows" in second.output
    assert begins == [0, 100, 200, *range(200, len(rows), 100)]


def test_why_a_contribution_was_rejected_is_shown(api: Api, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl({"text": "a"}))
    type_in("loraledger data push rows.jsonl --datanet 1 --licence MIT --yes")
    upload_id = type_in("loraledger data status").output.split()[0]
    play_recording(api, upload_id)
    [recorded] = api.installation.view.recorded
    api.installation.view.recorded[:] = [replace(recorded, is_accepted=False, reason=2)]
    shown = type_in(f"loraledger data status {upload_id}").output
    assert "rejected in datanet 1" in shown
    assert "curators' reason: licence [2]" in shown


def test_the_sound_rows_of_a_file_are_contributed_by_ones_word(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl({"text": "a"}, {"text": 1}, {"text": "b"}))
    command = "loraledger data push rows.jsonl --datanet 1 --licence MIT --yes"
    refused = type_in(command)
    assert refused.exit_code == 1
    assert "--accept-partial contributes the 2 valid rows" in refused.output
    partly = type_in(f"{command} --accept-partial")
    assert partly.exit_code == 0, partly.output
    assert "line 2, text: must be a string, not a number [wrong_type]" in partly.output
    assert "partly accepted: the contribution leaves out 1 line" in partly.output


def test_the_rows_of_a_file_without_its_repetitions_are_contributed_by_ones_word(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl({"text": "a"}, {"text": "a"}))
    partly = type_in("loraledger data push rows.jsonl --datanet 1 --licence MIT --accept-partial")
    assert partly.exit_code == 0, (partly.output, partly.exception)
    assert "partly accepted: the contribution leaves out 1 line" in partly.output
