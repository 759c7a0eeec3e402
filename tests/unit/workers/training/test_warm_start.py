from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.services.train.options import parse_config
from tests.unit.workers.training.support import CONFIG, ignore
from workers.training.fit import lora_model
from workers.training.job import run_job
from workers.training.spec import ADAPTER, RESULT_FILE, TrainingSpec
from workers.training.warm_start import ParentMismatch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def started_from(make_job: Any, name: str, parent: Path, **options: Any) -> tuple[TrainingSpec, Path]:
    spec, folder = make_job(name, parent="0x" + "aa" * 32, **options)
    base = json.loads((parent / "adapter_config.json").read_bytes())["base_model_digest"]
    return replace(spec, parent_folder=str(parent), parent_base="0x" + base), folder


def test_a_warm_start_continues_from_its_parent(make_job: Any) -> None:
    spec, folder = make_job("parent")
    run_job(spec, folder, ignore)
    ended = json.loads((folder / RESULT_FILE).read_bytes())["metrics"]
    losses: dict[str, float] = {}
    warm, warm_folder = started_from(make_job, "warm", folder / ADAPTER)
    run_job(
        warm,
        warm_folder,
        lambda kind, data: losses.update({data["model"]: data["loss"]} if kind == "eval" else {}),
    )
    assert losses["parent"] == pytest.approx(ended["eval_loss_adapter"], rel=1e-3)
    assert losses["adapter"] < losses["parent"] < losses["base"]
    assert f"version `{warm.config.parent}`" in (warm_folder / ADAPTER / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"rank": 8}, "rank"),
        ({"alpha": 8}, "alpha"),
        ({"variant": "dora"}, "variant"),
        ({"targets": ["q_proj"]}, "targets"),
    ],
)
def test_a_parent_of_another_form_is_refused_by_the_option(
    make_job: Any, tmp_path: Path, tiny_base: Path, options: Mapping[str, Any], param: str
) -> None:
    parent = lora_model(tiny_base, parse_config(CONFIG))
    parent.save_pretrained(tmp_path / "parent")
    spec, folder = make_job("other", parent="0x" + "aa" * 32, **options)
    with pytest.raises(ParentMismatch) as refused:
        run_job(replace(spec, parent_folder=str(tmp_path / "parent")), folder, ignore)
    assert refused.value.param == param


def test_a_parent_on_another_base_or_with_a_weight_that_is_no_number_is_refused(
    make_job: Any, tmp_path: Path, tiny_base: Path
) -> None:
    parent = lora_model(tiny_base, parse_config(CONFIG))
    spec, folder = make_job("other", parent="0x" + "aa" * 32)
    with pytest.raises(ParentMismatch, match="base model"):
        run_job(replace(spec, parent_base="0x" + "bb" * 32), folder, ignore)
    next(p for p in parent.parameters() if p.requires_grad).data.fill_(float("nan"))
    parent.save_pretrained(tmp_path / "parent")
    with pytest.raises(ParentMismatch, match="non-finite"):
        run_job(replace(spec, parent_folder=str(tmp_path / "parent")), folder, ignore)
