from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, load_file
from transformers import AutoTokenizer

from backend.domain.attribution import ANSWERS_FILE, CHECKPOINT_FILE, INDEX_FILE
from backend.domain.screening import AdapterRefused
from backend.services.answers.attribution_index import load_index
from backend.services.train.options import parse_config
from inference.config import EngineConfig
from tests.fixtures_engine import peft_warnings_ignored
from tests.unit.workers.support import letter_rows
from workers.training.answers import read_answers
from workers.training.evaluate import BATCH_TOKENS, batches_by_length, mean_loss
from workers.training.fit import NonFiniteLoss, fit, lora_model
from workers.training.gradients import row_gradients
from workers.training.job import run_job
from workers.training.memory import OutOfMemory
from workers.training.rows import Example, UnusableRows, encode, general_examples
from workers.training.run import _train
from workers.training.sketch import SKETCH_SIZE
from workers.training.spec import ADAPTER, CHECKPOINTS, COMPLETE, RESULT_FILE, ROWS_FILE, TrainingSpec
from workers.training.warm_start import ParentMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

CONFIG = {
    "rank": 4,
    "dropout": 0.1,  # draws random numbers, which a resumed run must continue
    "learning_rate": 0.01,
    "batch_size": 4,
    "epochs": 2,
    "checkpoint_steps": 3,
    "seed": 11,
}
NUM_STEPS = 12


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


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


def ignore(kind: str, data: Mapping[str, Any]) -> None:
    pass


def killed_at(step: int) -> Callable[[str, Mapping[str, Any]], None]:
    def emit(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "progress" and data["step"] == step:
            raise Killed

    return emit


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def examples(tiny_base: Path) -> list[Example]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    return [encode(contribution, row, tokenizer, 192) for contribution, row in letter_rows()]


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


@pytest.fixture
def undisturbed(make_job: Any) -> dict[str, bytes]:
    spec, folder = make_job("undisturbed")
    run_job(spec, folder, ignore)
    return contents(folder / ADAPTER)


def test_a_run_killed_anywhere_and_resumed_gives_the_same_bytes(
    make_job: Any, undisturbed: dict[str, bytes]
) -> None:
    spec, folder = make_job("killed")
    for step in (2, 5, 7, NUM_STEPS):  # before the first checkpoint, between, right behind one, at the end
        with pytest.raises(Killed):
            run_job(spec, folder, killed_at(step))
    assert not (folder / RESULT_FILE).exists()
    run_job(spec, folder, ignore)
    assert contents(folder / ADAPTER) == undisturbed


@pytest.mark.parametrize("stage", ["answers", "distillation", "gradients"])
def test_a_run_killed_during_distillation_publishes_nothing_and_gives_the_same_bytes(
    make_job: Any, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("workers.training.progress.INTERVAL_SECONDS", 0.0)
    spec, folder = make_job("killed")

    def kill(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "working" and data["stage"] == stage:
            raise Killed

    with pytest.raises(Killed):
        run_job(spec, folder, kill)
    assert not (folder / ADAPTER).exists()
    assert not (folder / RESULT_FILE).exists()
    run_job(spec, folder, ignore)
    assert contents(folder / ADAPTER) == undisturbed


def test_a_checkpoint_that_was_being_written_is_not_used(
    make_job: Any, undisturbed: dict[str, bytes]
) -> None:
    spec, folder = make_job("torn")
    with pytest.raises(Killed):
        run_job(spec, folder, killed_at(8))
    newest = folder / CHECKPOINTS / "checkpoint-6"
    (newest / COMPLETE).unlink()
    (newest / "trainer_state.json").write_text("{")
    run_job(spec, folder, ignore)
    assert contents(folder / ADAPTER) == undisturbed


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


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    tiny_base: Path, tmp_path: Path
) -> None:
    config = parse_config(CONFIG)
    model = lora_model(tiny_base, config)

    def poison(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "progress" and data["step"] == 4:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))

    with pytest.raises(NonFiniteLoss) as diverged:
        fit(model, examples(tiny_base), config, tmp_path / "checkpoints", poison)
    assert diverged.value.details == {"step": 5}
    assert "step 5" in diverged.value.message
    # The last checkpoint is from before the poison, so nothing infectious is left to resume from.
    assert [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]


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


STOPPING = {"early_stopping": 2, "eval_fraction": 0.3, "epochs": 40, "learning_rate": 0.05, "dropout": 0.0}


def test_training_ends_where_it_brings_nothing_and_keeps_the_best(make_job: Any) -> None:
    spec, folder = make_job(**STOPPING)
    events: list[tuple[str, Mapping[str, Any]]] = []
    run_job(spec, folder, lambda kind, data: events.append((kind, data)))
    metrics = json.loads((folder / RESULT_FILE).read_bytes())["metrics"]
    losses = {data["model"]: data["loss"] for kind, data in events if kind == "eval"}
    deciding = {int(model[5:]): loss for model, loss in losses.items() if model.startswith("step-")}
    best = min(deciding, key=lambda step: (deciding[step], step))
    assert sorted(deciding) == list(range(3, best + 7, 3))  # two in a row that were no better
    assert (metrics["num_steps"], metrics["kept_step"]) == (best + 6, best)
    assert metrics["num_steps"] < 160
    assert metrics["midway_step"] == metrics["num_steps"]  # the planned third lies behind the end
    assert (metrics["num_train_rows"], metrics["num_eval_rows"]) == (17, 3)  # and 4 decide: one object a row


@pytest.mark.parametrize("killed_behind", [1, 4])
def test_a_killed_training_stops_where_it_would_have(make_job: Any, killed_behind: int) -> None:
    spec, folder = make_job("whole", **STOPPING)
    run_job(spec, folder, ignore)
    _, killed = make_job("killed", **STOPPING)
    num_evals = 0

    def kill(kind: str, data: Mapping[str, Any]) -> None:
        nonlocal num_evals
        num_evals += kind == "checkpoint"
        if num_evals == killed_behind and kind == "progress":
            raise Killed

    with pytest.raises(Killed):
        run_job(spec, killed, kill)
    run_job(spec, killed, ignore)
    assert contents(killed / ADAPTER) == contents(folder / ADAPTER)


def test_a_training_that_has_stopped_takes_no_further_step_when_its_job_is_resumed(make_job: Any) -> None:
    spec, folder = make_job("whole", **STOPPING)
    run_job(spec, folder, ignore)
    _, killed = make_job("killed", **STOPPING)
    num_killed = 0
    progressed: list[str] = []

    def kill(kind: str, data: Mapping[str, Any]) -> None:
        nonlocal num_killed
        if num_killed and kind in {"progress", "checkpoint"}:
            progressed.append(kind)
        if kind == "eval" and data["model"] == "adapter":
            num_killed += 1
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            run_job(spec, killed, kill)
    run_job(spec, killed, ignore)
    assert (num_killed, progressed) == (2, [])
    assert contents(killed / ADAPTER) == contents(folder / ADAPTER)


def test_early_stopping_evaluates_no_more_tokens_than_are_trained(make_job: Any) -> None:
    options = {"batch_size": 1, "checkpoint_steps": 1, "eval_fraction": 0.5, "epochs": 2}
    spec, folder = make_job(**STOPPING | options | {"early_stopping": 100})
    events: list[tuple[str, Mapping[str, Any]]] = []
    run_job(spec, folder, lambda kind, data: events.append((kind, data)))
    evaluated = [data["model"] for kind, data in events if kind == "eval"]
    steps = [int(model[5:]) for model in evaluated if model.startswith("step-")]
    assert steps[-1] == 24
    assert all(later - earlier >= 5 for earlier, later in pairwise([0, *steps[:-1]]))  # on 6 short rows


def test_early_stopping_decides_by_a_draw_of_the_rows(make_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.training.job.MAX_STOPPING_ROWS", 2)
    seen: list[frozenset[Example]] = []

    def measure(_model: Any, rows: list[Example], *_: Any) -> float:
        seen.append(frozenset(rows))
        return 1.0

    monkeypatch.setattr("workers.training.stopping.mean_loss", measure)
    spec, folder = make_job(**STOPPING | {"epochs": 1})
    run_job(spec, folder, ignore)
    assert {len(rows) for rows in seen} == {2}
    assert len(set(seen)) == 1


def test_one_held_out_source_cannot_both_decide_and_measure(make_job: Any) -> None:
    spec, folder = make_job(rows=letter_rows(4), early_stopping=1)
    with pytest.raises(UnusableRows, match="early_stopping") as refused:
        run_job(spec, folder, ignore)
    assert refused.value.param == "early_stopping"


def test_a_full_disk_fails_the_job_and_leaves_its_last_checkpoint(make_job: Any) -> None:
    spec, folder = make_job(epochs=0.5)
    spec.save(folder)
    (folder / RESULT_FILE).with_suffix(".partial").symlink_to("/dev/full")
    messages: list[tuple[str, Mapping[str, Any]]] = []
    assert _train(folder, lambda kind, data: messages.append((kind, data))) == 1
    kind, error = messages[-1]
    assert (kind, error["code"], error["step"]) == ("failed", "disk_full", 3)
    assert "step 3 is kept" in error["message"]
    assert (folder / CHECKPOINTS / "checkpoint-3" / COMPLETE).exists()


def test_each_token_weighs_the_same_in_the_mean_loss(tiny_base: Path) -> None:
    model = lora_model(tiny_base, parse_config(CONFIG))
    rows = examples(tiny_base)[:5]
    losses = [mean_loss(model, [row], ignore) for row in rows]
    weights = [row.num_trained for row in rows]
    expected = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
    assert mean_loss(model, rows, ignore) == pytest.approx(expected, rel=2e-2)  # in bf16


@given(lengths=st.lists(st.integers(1, 2 * BATCH_TOKENS), min_size=1, max_size=50))
def test_a_batch_of_evaluation_is_bounded_by_its_tokens(lengths: list[int]) -> None:
    rows = [Example(i, "g", (1,) * length, (1,) * length) for i, length in enumerate(lengths)]
    batches = list(batches_by_length(rows))
    assert sorted(row.contribution for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        padded = len(batch) * max(len(row.token_ids) for row in batch)
        assert padded <= BATCH_TOKENS or len(batch) == 1


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 1e6])
def test_an_adapter_that_diverged_is_refused_by_its_held_out_loss(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    losses = iter([4.0, 4.0, loss])
    monkeypatch.setattr("workers.training.job.mean_loss", lambda *_: next(losses))
    spec, folder = make_job(epochs=0.01)
    spec.save(folder)
    messages: list[tuple[str, Mapping[str, Any]]] = []
    assert _train(folder, lambda kind, data: messages.append((kind, data))) == 1
    kind, error = messages[-1]
    assert (kind, error["code"], error["model"]) == ("failed", "non_finite_loss", "adapter")
    assert "learning rate" in error["message"]
    assert not (folder / ADAPTER).exists()


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


def test_a_result_whose_adapter_is_gone_is_trained_again(make_job: Any) -> None:
    spec, folder = make_job(epochs=0.01)
    spec.save(folder)
    assert _train(folder, ignore) == 0
    kept = contents(folder / ADAPTER)
    shutil.rmtree(folder / ADAPTER)
    assert _train(folder, ignore) == 0
    assert contents(folder / ADAPTER) == kept


def test_a_fresh_adapter_changes_nothing(tiny_base: Path) -> None:
    model = lora_model(tiny_base, parse_config(CONFIG))
    rows = examples(tiny_base)
    with model.disable_adapter():
        base = mean_loss(model, rows, ignore)
    assert mean_loss(model, rows, ignore) == base
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert trained == {torch.float32}


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


def test_an_adapter_that_the_engine_cannot_serve_is_not_published(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = make_job(epochs=0.01)
    monkeypatch.setattr("workers.training.index.EngineConfig", partial(EngineConfig, max_rank=2))
    with pytest.raises(AdapterRefused, match="rank 4"):
        run_job(spec, folder, ignore)
    assert not (folder / ADAPTER).exists()
