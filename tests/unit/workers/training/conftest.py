from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.services.train.options import parse_config
from tests.fixtures_engine import peft_warnings_ignored
from tests.unit.workers.support import letter_rows
from tests.unit.workers.training.support import CONFIG, contents, ignore
from workers.training.job import run_job
from workers.training.spec import ADAPTER, ROWS_FILE, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with peft_warnings_ignored():
        yield


@pytest.fixture
def make_job(tiny_base: Path, tmp_path: Path) -> Callable[..., tuple[TrainingSpec, Path]]:
    def make(name: str = "job", rows: Any = None, **config: Any) -> tuple[TrainingSpec, Path]:
        folder = tmp_path / name
        folder.mkdir()
        lines = letter_rows() if rows is None else rows
        content = "".join(json.dumps({"contribution": c, "row": row}) + "\n" for c, row in lines)
        (folder / ROWS_FILE).write_text(content)
        parsed = parse_config({**CONFIG, **config})
        return TrainingSpec("ftjob-1", parsed, ("0xfeed",), ("MIT",), "", str(tiny_base), 1), folder

    return make


@pytest.fixture
def undisturbed(make_job: Any) -> dict[str, bytes]:
    spec, folder = make_job("undisturbed")
    run_job(spec, folder, ignore)
    return contents(folder / ADAPTER)
