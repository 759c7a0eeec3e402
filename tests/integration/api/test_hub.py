"""Adapters from a hub to the market and back: published, registered, exported, and published again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.client.api import ApiClient
from backend.client.errors import NotAMarket
from backend.client.hub import HubAdapterRefused
from backend.domain.adapter_files import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE
from backend.domain.content import ContentCorrupt, cid_digest
from backend.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from backend.domain.training import About, Step, TrainingResult
from backend.services.train.leases import Leases
from backend.settings import Settings
from inference.lora.files import adapter_digest
from tests.fixtures_engine import edit_adapter, make_adapter, make_model, peft_warnings_ignored
from tests.integration.api.conftest import running_server
from tests.integration.api.test_publishing_guide import hub_commands, taken, type_in
from tests.support.hub import Hub, running_hub
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation
from tests.support.terminal import act_as_payer
from workers.imported import fetch_files
from workers.training.spec import UPLOADED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result
    from fastapi import FastAPI

    from backend.db.unit_of_work import Database
    from backend.domain.ids import VersionId
    from inference.protocol import AdapterRef
    from tests.integration.api.conftest import Api

COMMIT = "c" * 40
MAX_UPLOAD = 1 << 20
ON_HUB = f"hf:owner/name@{COMMIT}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    """An adapter as PEFT saves it, of a base that is called as the market's."""
    made = make_adapter(tmp_path_factory.mktemp("trained"), model)
    return edit_adapter(made, base_model_name_or_path="owner/tiny")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FastAPI, str]]:
    with running_server(Settings(max_upload_bytes=MAX_UPLOAD)) as found:
        yield found


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    return ScriptedInstallation(tmp_path, sqlite_database, max_upload_bytes=MAX_UPLOAD)


@pytest.fixture
def hub(trained: AdapterRef) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in Path(trained.path).iterdir()}
    with running_hub(files, COMMIT) as server:
        server.card = {"license": "apache-2.0", "tags": ["verse"]}
        yield server


@pytest.fixture(autouse=True)
def _at_the_terminal(api: Api, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as_payer(api, monkeypatch)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.chdir(tmp_path)


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["adapter", *arguments])


class Worker:
    """Publishes one import as workers do, without measuring it."""

    def __init__(self, api: Api, folder: Path) -> None:
        self._api = api
        self._folder = folder
        self.digest = ""
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._thread.join(60)

    def _run(self) -> None:
        installation = self._api.installation
        leases = Leases(installation.database, installation.payments)
        held = taken(self._api, Step.VALIDATE)
        assert held.job.imported is not None
        self._folder.mkdir()
        fetch_files(installation.services.transfers, held.job.creator, held.job.imported, self._folder)
        uploaded = self._folder / UPLOADED
        self.digest = f"0x{adapter_digest(uploaded)}"
        losses = {"general_loss_base": 2.0, "general_loss_adapter": 2.5}
        leases.complete_import(held, TrainingResult(self.digest, some_hash("base model"), losses))  # type: ignore[arg-type]
        (uploaded / "README.md").write_text("---\ntags: [verse]\n---\n# Sonnets\n\nFourteen lines.\n")
        leases.complete_publication(
            taken(self._api, Step.PUBLISH), installation.blobs.add_directory(uploaded)
        )


def register(api: Api, digest: str, name: str = "poems", **changes: Any) -> VersionId:
    """The newest import, as its creator registers it."""
    installation = api.installation
    job = installation.services.imported_adapters.list(installation.payer.account)[0]
    assert job.cid is not None
    docs = installation.catalogue.record(installation.version)
    record = replace(
        docs,
        creator=job.creator,
        name=name,
        adapter_digest=digest,  # type: ignore[arg-type]
        cid_digest=cid_digest(job.cid),
        snapshots=(),
    )
    version = installation.view.register(replace(record, **changes))
    installation.descriptions.refresh()
    return version


@pytest.fixture
def published(api: Api, tmp_path: Path) -> str:
    """The digest of an adapter that was published from the hub."""
    with Worker(api, tmp_path / "job") as worker:
        result = type_in(hub_commands()[0])
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"hf:owner/name@{COMMIT}: " in result.output
    return worker.digest


def test_from_a_hub_to_the_market_and_back_the_digest_stays(
    api: Api, trained: AdapterRef, model: Path, published: str, tmp_path: Path
) -> None:
    assert published == f"0x{trained.digest}"
    job = api.installation.services.imported_adapters.list(api.installation.payer.account)[0]
    assert job.imported is not None
    assert job.imported.licence == "Apache-2.0"
    assert job.imported.about == About("", ("verse",), ON_HUB)
    version = register(api, published)
    result = type_in(hub_commands()[1].replace("$MODEL", version))
    assert result.exit_code == 0, (result.output, result.exception)
    assert f"version {version}, digest {published}, published as {job.cid}" in result.output
    folder = Path("exported")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", *MAX_BYTES]
    card = (folder / "README.md").read_text()
    assert 'base_model: "owner/tiny"' in card
    assert "license: apache-2.0" in card
    assert '- "verse"' in card
    load_with_peft(model, folder)
    with Worker(api, tmp_path / "again") as worker:
        options = ("--licence", "Apache-2.0", "--description", "Answers in verse.", "--tag", "poetry")
        again = typed("publish", str(folder), *options)
    assert again.exit_code == 0, (again.output, again.exception)
    assert "not uploaded: README.md" in again.output
    assert worker.digest == published
    newest = api.installation.services.imported_adapters.list(api.installation.payer.account)
    said = [one.imported.about for one in newest if one.imported is not None]
    assert About("Answers in verse.", ("poetry",)) in said


def load_with_peft(model: Path, folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with peft_warnings_ignored():
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder)
    assert any("lora_A" in name for name, _ in loaded.named_parameters())


def test_a_branch_is_shown_as_a_commit_and_needs_consent(api: Api) -> None:
    result = typed("publish", "hf:owner/name@main", "--licence", "Apache-2.0")
    assert f"hf:owner/name@{COMMIT}: " in result.output
    assert "licence apache-2.0" in result.output
    assert isinstance(result.exception, Forbidden)
    assert "--yes" in str(result.exception)
    assert not api.installation.services.transfers.find(api.installation.payer.account)


def test_code_in_the_repository_is_refused_before_anything_is_sent(api: Api, hub: Hub) -> None:
    hub.files = {**hub.files, "training_args.bin": b"pickle"}
    result = typed("publish", ON_HUB)
    assert isinstance(result.exception, HubAdapterRefused)
    assert "'training_args.bin'" in str(result.exception)
    assert not api.installation.services.transfers.find(api.installation.payer.account)


def test_an_adapter_of_another_base_model_is_refused_before_its_weights_are_read(api: Api, hub: Hub) -> None:
    config = json.loads(hub.files[CONFIG_FILE]) | {"base_model_name_or_path": "owner/huge"}
    hub.files = {**hub.files, CONFIG_FILE: json.dumps(config).encode()}
    result = typed("publish", ON_HUB)
    assert isinstance(result.exception, HubAdapterRefused)
    assert "'owner/huge'; this market serves 'tiny'" in str(result.exception)
    assert not [path for path in hub.paths if path.endswith(WEIGHTS_FILE)]


def test_a_folder_needs_a_licence_and_a_reference_a_form(tmp_path: Path, trained: AdapterRef) -> None:
    for arguments, says in (
        (("publish", trained.path), "state the adapter's licence"),
        (("publish", "hf:owner"), "hf:owner/name@revision"),
        (("publish", ON_HUB, "--licence", "MIT"), "is under the licence 'apache-2.0', not MIT"),
    ):
        result = typed(*arguments)
        assert isinstance(result.exception, InvalidInput), arguments
        assert says in str(result.exception)
    missing = typed("publish", str(tmp_path / "none"), "--licence", "MIT").exception
    assert isinstance(missing, NotFound)


def test_nothing_is_overwritten(api: Api, published: str, tmp_path: Path) -> None:
    version = register(api, published)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    for taken_place in (full, full / "mine.txt"):
        result = typed("export", str(version), str(taken_place))
        assert isinstance(result.exception, Conflict)
        assert "nothing is overwritten" in str(result.exception)
    assert (full / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert typed("export", str(version), str(tmp_path / "empty")).exit_code == 0


def test_a_name_is_exported_and_the_base_model_is_not(api: Api, published: str) -> None:
    register(api, published)
    name = f"{api.installation.payer.account}/poems"
    assert typed("export", name, "by-name").exit_code == 0
    assert typed("export", published, "by-digest").exit_code == 0
    result = typed("export", "tiny", "base")
    assert isinstance(result.exception, InvalidInput)
    assert "no adapter to export" in str(result.exception)


def test_files_that_are_not_the_registered_ones_are_not_written(api: Api, published: str) -> None:
    other = some_hash("another adapter")
    forged = register(api, published, "forged", adapter_digest=other)
    for version, error, says in (
        (forged, ContentCorrupt, f"not the registered {other}"),
        (register(api, published, "absent", cid_digest=some_hash("nowhere")), NotFound, "does not store"),
        (
            register(
                api,
                published,
                "cardless",
                cid_digest=cid_digest(api.installation.blobs.add_folder({"README.md": b"x"})),
            ),
            ContentCorrupt,
            "is missing, empty or larger",
        ),
    ):
        result = typed("export", str(version), "exported")
        assert isinstance(result.exception, error), result.exception
        assert says in str(result.exception)
        assert not Path("exported").exists()
        assert not list(Path().glob(".exported*"))


def test_a_market_that_sends_another_version_is_not_believed(
    api: Api, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = register(api, published)
    other = register(api, published, "other", creator=some_account("other"))
    get = ApiClient.get

    def lie(client: ApiClient, path: str, **params: Any) -> Any:
        return get(client, path.replace(mine, other), **params)

    monkeypatch.setattr(ApiClient, "get", lie)
    result = typed("export", str(mine), "exported")
    assert isinstance(result.exception, NotAMarket)
    assert "another version" in str(result.exception)


def test_an_interrupted_export_leaves_nothing(
    api: Api, published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(api, published)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("backend.client.adapter_export.render_card", interrupt)
    assert typed("export", str(version), "exported").exit_code != 0
    assert not list(Path().glob("*exported*"))
    shutil.rmtree("job", ignore_errors=True)
