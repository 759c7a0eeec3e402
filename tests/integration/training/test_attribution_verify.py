"""`loraledger attribution verify` on registered versions: honest, forged, and with what is missing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from backend.chain.local_node import ROOT
from backend.cli.main import app
from backend.cli.operator import attribution
from backend.domain.attribution import GRADIENT_METHOD, INDEX_FILE
from backend.domain.content import cid_digest
from backend.domain.hashing import record_argument, to_hash, version_id
from backend.domain.ids import Hash32
from backend.installation.base_model import BaseModelInfo
from backend.services.contribute.snapshot import ContributionWithdrawn
from backend.services.train.options import parse_config
from inference.model.base_model import base_model_digest
from tests.fixtures_engine import make_model, peft_warnings_ignored
from tests.support.running_operator import RunningOperator
from tests.unit.workers.support import InMemoryRows, letter_rows
from tools.local_market import CREATOR, LocalMarket
from workers.training.job import run_job
from workers.training.spec import ADAPTER, RESULT_FILE, ROWS_FILE, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from backend.chain.client import ChainClient
    from backend.chain.local_node import LocalNode
    from backend.domain.ids import SnapshotId, VersionId
    from backend.installation.installation import Installation

GUIDE = ROOT / "docs" / "attribution.md"
CONFIG = {"rank": 4, "learning_rate": 0.01, "batch_size": 4, "epochs": 2, "max_length": 128}
ROWS = [(number % 4, row) for number, (_, row) in enumerate(letter_rows())]


class WithdrawnRows(InMemoryRows):
    def rows(self, snapshot_id: SnapshotId) -> Iterator[tuple[int, Mapping[str, Any]]]:
        raise ContributionWithdrawn("contribution 2 of datanet 1 was withdrawn: freeze a new snapshot")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of an adapter of `ROWS`, its digest). Tests do not change it."""
    job = tmp_path_factory.mktemp("training") / "job"
    digest: str = train(job, model)["adapter_digest"]
    return job / ADAPTER, digest


@pytest.fixture
def running(
    chain: ChainClient, hardhat_node: LocalNode, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningOperator]:
    market = LocalMarket(chain)
    market._contribute()
    facts = BaseModelInfo("model", to_hash(bytes.fromhex(base_model_digest(model))), str(model))
    url = "http://127.0.0.1:1"
    made = RunningOperator(
        tmp_path / "home", market, facts, hardhat_node.url, url, base_model=str(model), model_cache=tmp_path
    )

    @contextmanager
    def opened() -> Iterator[Installation]:
        yield made.installation

    monkeypatch.setattr(attribution, "open_installation", opened)
    made.installation.datanets.__dict__["fetching_snapshots"] = InMemoryRows(ROWS)
    yield made
    made.installation.close()


def train(folder: Path, base_folder: Path) -> dict[str, Any]:
    """The job's result."""
    folder.mkdir()
    lines = [json.dumps({"contribution": place, "row": row}) + "\n" for place, row in ROWS]
    (folder / ROWS_FILE).write_text("".join(lines))
    spec = TrainingSpec("ftjob-1", parse_config(CONFIG), ("0x",), ("MIT",), "", str(base_folder), 1)
    with peft_warnings_ignored():
        run_job(spec, folder, lambda *_: None)
    result: dict[str, Any] = json.loads((folder / RESULT_FILE).read_bytes())
    return result


def register(running: RunningOperator, folder: Path, digest: str, **changes: Any) -> VersionId:
    cid = running.installation.blobs.add_directory(folder)
    fields = {
        "adapter_digest": Hash32(digest),
        "cid_digest": cid_digest(cid),
        "base_model": running.installation.base_model.digest,
    }
    record = replace(running.market.adapter, **(fields | changes))
    running.market.send(CREATOR, "AdapterRegistry", "register", record_argument(record))
    running.pump()
    return version_id(record)


def command(version: VersionId) -> list[str]:
    """Arguments of the command of the page."""
    [line] = re.findall(r"^loraledger (attribution verify .*)$", GUIDE.read_text(), re.MULTILINE)
    return shlex.split(line.replace("$VERSION", version))


def verify(version: VersionId) -> tuple[int, dict[str, bool | None]]:
    """(exit code, results by check)."""
    done = CliRunner().invoke(app, [*command(version), "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, {each["name"]: each["is_right"] for each in json.loads(done.stdout)}


def pay_the_first(folder: Path) -> None:
    """Add half of every contribution's map to the first one's."""
    path = folder / INDEX_FILE
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for part in ("weights", "bias"):
        tensors[f"distilled.{part}"][0] += tensors[f"distilled.{part}"].sum(0) / 2 + 1
    save_file(tensors, path, metadata)


def test_a_forged_map_is_refused(running: RunningOperator, trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, digest = trained
    code, found = verify(register(running, folder, digest))
    assert (code, set(found.values())) == (0, {True})
    assert found.keys() >= {"rows", "distilled-1", GRADIENT_METHOD, "prompts", "answers"}

    forged = shutil.copytree(folder, tmp_path / "forged")
    pay_the_first(forged)
    code, found = verify(register(running, forged, digest, name="forged"))
    assert code == 1
    assert [name for name, is_right in found.items() if is_right is False] == ["distilled-1"]


def test_what_cannot_be_checked_is_named(
    running: RunningOperator, trained: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = register(running, *trained)
    with monkeypatch.context() as patch:
        patch.setattr("workers.attribution.training_command", lambda _: [sys.executable, "-c", "exit(1)"])
        assert verify(honest) == (3, {"attribution": None})

    running.installation.datanets.__dict__["fetching_snapshots"] = WithdrawnRows(ROWS)
    code, found = verify(honest)
    assert (code, found["rows"]) == (3, None)
    assert found["distilled-1"]
    assert GRADIENT_METHOD not in found

    other = Hash32("0x" + "ab" * 32)
    version = register(running, *trained, name="other", base_model=other)
    assert verify(version) == (3, {"attribution": None})


def test_a_broken_index_is_wrong_and_a_missing_one_is_named(
    running: RunningOperator, trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, digest = shutil.copytree(trained[0], tmp_path / "adapter"), trained[1]
    (folder / INDEX_FILE).write_bytes(b"no tensors")
    assert verify(register(running, folder, digest, name="broken")) == (1, {"attribution": False})
    (folder / INDEX_FILE).unlink()
    without = register(running, folder, digest, name="without")
    assert verify(without) == (3, {"attribution": None})
    shown = CliRunner().invoke(app, command(without)).stdout
    assert "open   attribution: cannot be checked: its folder has no attribution index" in shown
    assert "Not checked: that the adapter and its checkpoint result from training" in shown


def test_an_adapter_that_is_deleted_while_its_rows_are_fetched_is_fetched_again(
    running: RunningOperator, trained: tuple[Path, str]
) -> None:
    class DeletingRows(InMemoryRows):
        def rows(self, snapshot_id: SnapshotId) -> Iterator[tuple[int, Mapping[str, Any]]]:
            shutil.rmtree(running.installation.settings.home / "adapters")
            yield from super().rows(snapshot_id)

    running.installation.datanets.__dict__["fetching_snapshots"] = DeletingRows(ROWS)
    code, found = verify(register(running, *trained))
    assert (code, set(found.values())) == (0, {True})
