"""How the worker of an installation is wired."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.settings import Settings
from workers.installation import Workers
from workers.training.folders import sweep_folders

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("chain_id", "stated", "arithmetic"),
    [
        (LOCAL_CHAIN_ID, None, "bfloat16"),
        (LOCAL_CHAIN_ID, "float32", "float32"),
        (8453, None, "float32"),
        (8453, "bfloat16", "bfloat16"),
    ],
)
def test_indices_can_be_verified_wherever_money_is_real_unless_a_setting_says_otherwise(
    chain_id: int, stated: Any, arithmetic: str
) -> None:
    deployment = SimpleNamespace(chain_id=chain_id)
    installation: Any = SimpleNamespace(settings=Settings(index_arithmetic=stated), deployment=deployment)
    assert Workers(installation)._arithmetic == arithmetic


def test_a_worker_sweeps_the_folders_of_jobs_and_of_imports(tmp_path: Path) -> None:
    names = "database transfers adapter_folders screening leases publication training imported_adapters"
    installation: Any = SimpleNamespace(
        **{name: object() for name in names.split()},
        settings=Settings(home=tmp_path),
        deployment=SimpleNamespace(chain_id=LOCAL_CHAIN_ID),
        datanets=SimpleNamespace(fetching_snapshots=None),
        base_models={},
    )
    sweeps: Any = Workers(installation).steps._options.sweeps
    found = [(sweep.func, *sweep.args) for sweep in sweeps]
    jobs = (installation.training, installation.imported_adapters)
    assert found == [(sweep_folders, tmp_path / "training", each) for each in jobs]
