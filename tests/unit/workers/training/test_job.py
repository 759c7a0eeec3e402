from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file
from transformers import AutoTokenizer

from backend.domain.attribution import ANSWERS_FILE, CHECKPOINT_FILE, INDEX_FILE, served_index_bytes
from backend.domain.screening import AdapterRefused
from backend.services.answers.attribution_index import load_index
from inference.config import EngineConfig
from tests.unit.workers.support import letter_rows
from tests.unit.workers.training.support import NUM_STEPS, contents, ignore
from workers.training.answers import read_answers
from workers.training.gradients import row_gradients
from workers.training.index import IndexTooLarge
from workers.training.job import _discard_other_splits, run_job
from workers.training.memory import OutOfMemory
from workers.training.rows import Example, UnusableRows, general_examples
from workers.training.sketch import SKETCH_SIZE
from workers.training.spec import ADAPTER, CHECKPOINTS, RESULT_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_checkpoints_of_a_release_that_divided_the_rows_otherwise_are_not_continued(tmp_path: Path) -> None:
    checkpoint = tmp_path / CHECKPOINTS / "checkpoint-3"
    checkpoint.mkdir(parents=True)
    _discard_other_splits(checkpoint.parent)
    assert not checkpoint.exists()
    checkpoint.mkdir()
    _discard_other_splits(checkpoint.parent)
    assert checkpoint.exists()


def test_a_job_leaves_a_folder_that_engine_and_attributor_read(make_job: Any, tiny_base: Path) -> None:
    events: list[tuple[str, Mapping[str, Any]]] = []
    spec, folder = make_job()
    run_job(spec, folder, lambda kind, data: events.append((kind, data)))

    result = json.loads((folder / RESULT_FILE).read_bytes())
    metrics = result["metrics"]
    assert metrics["eval_loss_adapter"] < metrics["eval_loss_base"]
    assert metrics["general_loss_base"] != metrics["general_loss_adapter"]
    assert (
        metrics["num_charged_tokens"] == metrics["num_tokens"] > metrics["num_trained_tokens"]
    )  # two epochs
    assert (metrics["num_train_rows"], metrics["num_eval_rows"], metrics["num_steps"]) == (22, 2, NUM_STEPS)
    assert [data["step"] for kind, data in events if kind == "progress"] == list(range(1, NUM_STEPS + 1))
    assert [data["step"] for kind, data in events if kind == "checkpoint"] == [3, 6, 9, 12]
    assert [data["model"] for kind, data in events if kind == "eval"] == ["base", "adapter"]

    adapter = folder / ADAPTER
    assert set(contents(adapter)) == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors"),
        *(INDEX_FILE, CHECKPOINT_FILE, ANSWERS_FILE),
    }
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == tiny_base.name
    assert "0x" + config["base_model_digest"] == result["base_model"]
    index = load_index(adapter / INDEX_FILE, with_gradients=True)
    assert index.positions.tolist() == [0, 1]
    assert index.rows.sum() == 22
    assert index.hidden.shape == index.error.shape == (2, 64)
    assert index.gradient.shape == (2, SKETCH_SIZE)
    assert metrics["midway_step"] == 4
    with safe_open(adapter / INDEX_FILE, framework="pt") as file:
        assert float(file.metadata()["distilled_agreement"]) == metrics["distilled_agreement"]
    answers = read_answers(adapter / ANSWERS_FILE)
    assert metrics["num_kept_out"] == sum(answer.prompt.is_kept_out for answer in answers) == 11
    checkpoint = load_file(adapter / CHECKPOINT_FILE)
    final = load_file(adapter / "adapter_model.safetensors")
    assert checkpoint.keys() == final.keys()
    assert not all(torch.equal(checkpoint[name], final[name]) for name in final)
    card = (adapter / "README.md").read_text()
    assert f"| distilled-1 | {metrics['distilled_agreement']:.2f} |" in card
    losses = [f"{metrics[name]:.4f}" for name in ("eval_loss_adapter", "general_loss_adapter")]
    for fact in ("0xfeed", "MIT", *losses, "torch", "| seed | 11 |", "| largest norm |"):
        assert fact in card
    assert str(folder) not in card


def test_every_variant_of_packed_rows_is_what_the_engine_serves(make_job: Any) -> None:
    for variant in ("rslora", "dora"):
        spec, folder = make_job(variant, variant=variant, packing=True, max_length=96, loss_on="all", steps=4)
        run_job(spec, folder, ignore)
        metrics = json.loads((folder / RESULT_FILE).read_bytes())["metrics"]
        assert metrics["num_steps"] == 4
        assert metrics["eval_loss_adapter"] < metrics["eval_loss_base"]


@pytest.mark.parametrize("packing", [False, True])
def test_a_job_of_one_step_is_charged_an_epoch_of_the_rows_it_may_train_on(
    make_job: Any, packing: bool
) -> None:
    too_long = (0, {"prompt": "x" * 1000, "completion": "y", "source": "long"})
    counts = {}
    for name, options in {"step": {"steps": 1}, "epoch": {"epochs": 1}}.items():
        spec, folder = make_job(name, [*letter_rows(), too_long], packing=packing, **options)
        run_job(spec, folder, ignore)
        metrics = json.loads((folder / RESULT_FILE).read_bytes())["metrics"]
        assert f"rows; {metrics['num_trained_tokens']} tokens" in (folder / ADAPTER / "README.md").read_text()
        counts[name] = (metrics["num_tokens"], metrics["num_charged_tokens"])
    computed, charged = counts["epoch"]
    assert charged == computed == counts["step"][1]
    assert 0 < counts["step"][0] < computed


def test_an_index_states_its_arithmetic(make_job: Any) -> None:
    found = {}
    for arithmetic in ("float32", "bfloat16"):
        spec, folder = make_job(arithmetic, steps=1)
        run_job(replace(spec, arithmetic=arithmetic), folder, ignore)
        with safe_open(folder / ADAPTER / INDEX_FILE, "np") as file:
            found[arithmetic] = file.metadata()["arithmetic"]
    assert found == {"float32": "float32", "bfloat16": "bfloat16"}


def test_another_seed_gives_another_adapter(make_job: Any, undisturbed: dict[str, bytes]) -> None:
    spec, folder = make_job("other", seed=12)
    run_job(spec, folder, ignore)
    name = "adapter_model.safetensors"
    assert contents(folder / ADAPTER)[name] != undisturbed[name]


def test_reading_evaluation_and_index_give_signs_of_life(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.progress.INTERVAL_SECONDS", 0.0)
    signs: list[tuple[str, int, int]] = []

    def emit(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "working":
            signs.append((data["stage"], data["done"], data["total"]))

    spec, folder = make_job(epochs=0.01)
    run_job(spec, folder, emit)
    general = len(general_examples(AutoTokenizer.from_pretrained(spec.base_folder)))
    evaluations = [sign for sign in signs if sign[0] == "evaluation"]
    assert [sign[1:] for sign in evaluations].count((2, 2)) == 2
    assert [sign[1:] for sign in evaluations].count((general, general)) == 2
    stages = [
        ("reading", 24),
        ("answers", 44),
        ("index", 22),
        ("distillation", 44),
        ("gradients", 22),
        ("gradients", 44),
    ]
    others = [(stage, total) for stage, done, total in signs if stage != "evaluation" and done == total]
    assert others == stages


def test_rows_without_an_answer_in_reach_are_refused(make_job: Any) -> None:
    rows = [(0, {"prompt": "x" * 100, "completion": "y", "source": str(i)}) for i in range(3)]
    spec, folder = make_job(rows=rows, max_length=32)
    with pytest.raises(UnusableRows) as refusal:
        run_job(spec, folder, ignore)
    assert refusal.value.param == "max_length"


def test_an_index_of_many_rows_is_computed_in_chunks(
    make_job: Any, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.index.CHUNK_ROWS", 5)
    gradients_of: list[int] = []

    def counted(model: Any, rows: list[Example], *others: Any) -> torch.Tensor:
        gradients_of.append(len(rows))
        return row_gradients(model, rows, *others)

    monkeypatch.setattr("workers.training.index.row_gradients", counted)
    spec, folder = make_job("chunks")
    run_job(spec, folder, ignore)
    assert gradients_of == [44]  # of the generated answers, whose number is bounded
    whole, chunks = load(undisturbed[INDEX_FILE]), load_file(folder / ADAPTER / INDEX_FILE)
    assert chunks.keys() == whole.keys()
    for name, tensor in whole.items():
        difference = (chunks[name] - tensor).double().norm() / tensor.double().norm()
        assert difference < 0.02, name


def test_rows_whose_index_does_not_fit_into_memory_are_refused_before_training(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.training.job.memory_limit", lambda: 500_000)
    spec, folder = make_job()
    with pytest.raises(OutOfMemory, match="22 rows of 2 contributions") as refused:
        run_job(spec, folder, ignore)
    assert refused.value.code == "out_of_memory"
    assert not (folder / CHECKPOINTS).exists()


def test_contributions_whose_index_would_not_be_served_are_refused_before_training(
    make_job: Any, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = load(undisturbed[INDEX_FILE])
    num_served = sum(each.nbytes for name, each in index.items() if name != "gradient.vectors")
    assert served_index_bytes(*index["hidden.vectors"].shape) == num_served
    monkeypatch.setattr("workers.training.job.MAX_INDEX_BYTES", num_served - 1)
    spec, folder = make_job()
    with pytest.raises(IndexTooLarge, match=f"2 contributions has {num_served} bytes"):
        run_job(spec, folder, ignore)
    assert not (folder / CHECKPOINTS).exists()


def test_an_adapter_that_the_engine_cannot_serve_is_not_published(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = make_job(epochs=0.01)
    monkeypatch.setattr("workers.training.index.EngineConfig", partial(EngineConfig, max_rank=2))
    with pytest.raises(AdapterRefused, match="rank 4"):
        run_job(spec, folder, ignore)
    assert not (folder / ADAPTER).exists()
