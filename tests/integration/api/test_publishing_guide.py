"""docs/publishing-adapters.md, typed: every command on the page, in its order. Workers are simulated.

What needs a hub, or an adapter's files, is in `test_hub.py`.
"""

from __future__ import annotations

import re
import shlex
import time
from contextlib import nullcontext
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.chain.local_node import ROOT
from backend.cli.main import app
from backend.cli.operator import adapter_folders
from backend.client.node import Mined
from backend.client.signing import AskedCall, Wallet
from backend.domain.adapter_files import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE
from backend.domain.errors import Conflict, NotFound
from backend.domain.screening import Inspection
from backend.domain.training import Step
from backend.services.market.adapter_folders import AdapterFolders
from backend.services.market.screening import Screening
from backend.services.train.leases import Leases
from backend.services.train.publication import Listing
from tests.integration.api.test_adapters import RESULT
from tests.support.terminal import act_as_payer

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from backend.domain.training import TrainingJob
    from backend.services.train.leases import LeasedJob
    from tests.integration.api.conftest import Api

GUIDE = ROOT / "docs" / "publishing-adapters.md"


@pytest.fixture(autouse=True)
def _at_the_api(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line finds the API of the test, and signs with its payer's key."""
    act_as_payer(api, monkeypatch)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-adapter"
    folder.mkdir()
    for name in (*MAX_BYTES, "README.md"):
        (folder / name).write_text(name)


def type_in(command: str) -> Result:
    program, *arguments = shlex.split(command)
    assert program == "loraledger"
    return CliRunner().invoke(app, arguments)


def newest(api: Api) -> TrainingJob | None:
    found = api.installation.services.imported_adapters.list(api.installation.payer.account)
    return found[0] if found else None


def taken(api: Api, step: Step) -> LeasedJob:
    """Once it was brought: the one that is not over, as the clock stands still and none is the newest."""
    imports, payer = api.installation.services.imported_adapters, api.installation.payer.account
    while (job := next((one for one in imports.list(payer) if not one.is_over), None)) is None:
        time.sleep(0.05)
    held = Leases(api.installation.database, api.installation.payments).acquire(job.id, step)
    assert held is not None
    return held


def publish(api: Api) -> None:
    """As a worker does."""
    database = api.installation.database
    leases, screening = Leases(database, api.installation.payments), Screening(database)
    leases.complete_import(taken(api, Step.VALIDATE), RESULT)
    screening.add(Inspection(RESULT.adapter_digest, RESULT.base_model, bytes(range(64)) * 4, {}))
    leases.complete_publication(
        taken(api, Step.PUBLISH), api.installation.blobs.add_folder({"README.md": b"card"})
    )


def refuse(api: Api) -> None:
    error = {"code": "adapter_refused", "message": "weights: it is pickle", "reason": "adapter_pickle"}
    Leases(api.installation.database, api.installation.payments).fail(taken(api, Step.VALIDATE), error)


def type_beside(work: Callable[[Api], None], api: Api, command: str) -> Result:
    worker = Thread(target=work, args=(api,))
    worker.start()
    result = type_in(command)
    worker.join()
    return result


def register(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain confirms what the wallet sends."""
    publication = api.installation.services.publication

    def send(_wallet: Wallet, asked: AskedCall, _prepared: dict[str, Any]) -> Mined:
        assert asked.function == "register"
        listing = Listing("poems", 2_000_000, 4_000_000, 200_000, 300_000)
        job = newest(api)
        assert job is not None
        api.installation.view.register(publication.record(job, listing))
        api.installation.descriptions.refresh()
        publication.record_registrations()
        return Mined("0x", 1)

    monkeypatch.setattr(Wallet, "send", send)


def fetchable(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home of the command has what was published."""
    folders = AdapterFolders(api.installation.blobs, Path("adapters"))
    home = SimpleNamespace(database=api.installation.db, check_database=lambda: None, adapter_folders=folders)
    monkeypatch.setattr(adapter_folders, "open_installation", lambda: nullcontext(home))


def guide_commands() -> list[str]:
    return re.findall(r"^```sh\n(.*?)\n```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def hub_commands() -> list[str]:
    """The commands that publish from a hub, and export."""
    return [command for command in guide_commands() if " hf:" in command or " export " in command]


def test_every_command_of_the_guide_does_what_the_page_says(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = set(hub_commands())
    commands = [command for command in guide_commands() if command not in elsewhere]
    assert (len(commands), len(elsewhere)) == (6, 2)
    register(api, monkeypatch)
    first = type_beside(publish, api, commands[0])
    assert first.exit_code == 0, (first.output, first.exception)
    job = newest(api)
    assert job is not None
    adapter = job.id
    assert f"{adapter} is validating; not uploaded: README.md" in first.output
    assert (
        f"{adapter} succeeded\n  loss on the general set: 1.5000 without it, 1.2500 with it" in first.output
    )
    said = [type_in(command.replace("$ADAPTER", adapter)) for command in commands[1:3]]
    assert [result.exit_code for result in said] == [0, 0], [r.output for r in said]
    assert said[0].output.startswith(f"{adapter} succeeded\n")
    assert "no risk score: too few adapters are known" in said[1].output
    version = api.installation.services.imported_adapters.get(adapter).version_id
    assert f"{api.installation.payer.account}/poems is version {version}" in said[1].output
    assert type_in("loraledger adapter status").output.startswith(f"{adapter} succeeded, version {version}")
    fetchable(api, monkeypatch)
    listed, shown, pulled = (type_in(command.replace("$MODEL", str(version))) for command in commands[3:])
    assert f"{RESULT.adapter_digest}  Apache-2.0" in listed.output
    assert f"version_id: {version}\n" in shown.output
    assert pulled.exit_code == 0, (pulled.output, pulled.exception)
    assert Path("a-copy", "README.md").read_text() == "card"
    assert isinstance(type_in(f"loraledger adapter pull {version} a-copy").exception, Conflict)
    assert isinstance(type_in("loraledger adapter pull tiny another").exception, NotFound)
    assert not Path("another").exists()


def test_a_refused_adapter_is_told_by_name_and_ends_the_command_with_one(api: Api) -> None:
    result = type_beside(refuse, api, "loraledger adapter publish my-adapter --licence MIT")
    assert result.exit_code == 1
    assert "refused: weights: it is pickle [adapter_pickle]" in result.output


def test_a_folder_that_is_no_adapter_is_not_sent(api: Api) -> None:
    Path("my-adapter", WEIGHTS_FILE).unlink()
    result = type_in("loraledger adapter publish my-adapter --licence MIT")
    assert isinstance(result.exception, NotFound)
    assert "has no adapter_model.safetensors" in str(result.exception)
    assert not api.installation.services.transfers.find(api.installation.payer.account)


def test_a_folder_that_was_sent_in_part_is_not_sent_again(api: Api) -> None:
    """What a refused attempt had brought is still there."""
    type_beside(refuse, api, "loraledger adapter publish my-adapter --licence MIT")
    before = {one.id for one in api.installation.services.transfers.find(api.installation.payer.account)}
    Path("my-adapter", CONFIG_FILE).write_text("mended")
    type_beside(refuse, api, "loraledger adapter publish my-adapter --licence MIT")
    after = {one.id for one in api.installation.services.transfers.find(api.installation.payer.account)}
    assert len(before) == 2
    assert len(after - before) == 1
