"""Recomputation of a trained adapter's index, honest and forged, on a tiny base model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from backend.domain.attribution import (
    ANSWERS_FILE,
    CHECKPOINT_FILE,
    GRADIENT_METHOD,
    INDEX_FILE,
    MAX_ANSWER_TOKENS,
)
from backend.domain.attribution_checks import index_checks
from backend.services.train.options import parse_config
from inference.lora.files import adapter_digest
from tests.fixtures_engine import peft_warnings_ignored
from tests.unit.workers.support import letter_rows
from workers.attribution import parse_recomputed
from workers.training.answers import Answer, read_answers, serialise_answers
from workers.training.gradients import row_gradients
from workers.training.job import run_job
from workers.training.published import MalformedFolder
from workers.training.spec import ADAPTER, ROWS_FILE, TrainingSpec, VerificationSpec
from workers.training.verification import recompute_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from workers.training.rows import Example

CONFIG = {"rank": 4, "learning_rate": 0.01, "batch_size": 4, "epochs": 2, "seed": 11, "max_length": 128}
NUM_CONTRIBUTIONS = 4


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job's folder, with its rows and its adapter."""
    folder = tmp_path_factory.mktemp("job")
    lines = [(number % NUM_CONTRIBUTIONS, row) for number, (_, row) in enumerate(letter_rows())]
    content = "".join(json.dumps({"contribution": c, "row": row}) + "\n" for c, row in lines)
    (folder / ROWS_FILE).write_text(content)
    spec = TrainingSpec("ftjob-1", parse_config(CONFIG), ("0xfeed",), ("MIT",), "", str(tiny_base), 1)
    with peft_warnings_ignored():
        run_job(spec, folder, lambda _kind, _data: None)
    return folder


Verify: TypeAlias = "Callable[..., dict[str, bool | None]]"


@pytest.fixture
def verify(trained: Path, tiny_base: Path, tmp_path: Path) -> Verify:
    """Results by check of a copy of the folder that `forge` has changed."""

    def run(forge: Callable[[Path], None] = lambda _: None, *, has_rows: bool = True) -> dict[str, Any]:
        job = tmp_path / "job"
        shutil.rmtree(job, ignore_errors=True)
        shutil.copytree(trained, job)
        forge(job / ADAPTER)
        digest = adapter_digest(job / ADAPTER)
        spec = VerificationSpec(str(job / ADAPTER), digest, "", str(tiny_base), 1, has_rows)
        found = json.loads(json.dumps(recompute_index(spec, job, lambda _kind, _data: None)))
        checks = index_checks(parse_recomputed(found))
        return {check.name: check.is_right for check in checks}

    return run


def change(path: Path, change_: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    """Rewrite a safetensors file."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    tensors = load_file(path)
    change_(tensors, metadata)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def forge_index(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def forge(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
        for name, apply in changes.items():
            key = name.replace("__", ".")
            tensors[key] = apply(tensors[key])

    return lambda folder: change(folder / INDEX_FILE, forge)


def wrong(found: Mapping[str, bool | None]) -> set[str]:
    return {name for name, is_right in found.items() if is_right is False}


def test_an_index_that_training_wrote_is_right(verify: Verify) -> None:
    assert verify() == {
        "rows": True,
        "distilled-1": True,
        "distilled-error-1": True,
        GRADIENT_METHOD: True,
        "error-ridge-1": True,
        "hidden-cosine-1": True,
        "prompts": True,
        "answers": True,
        "agreement of distilled-1": True,
        "agreement of distilled-error-1": True,
        "kept out": True,
    }


def test_only_gradients_of_rows_that_are_compared_are_held_in_memory(
    verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    def counted(model: Any, rows: Sequence[Example], *others: Any) -> torch.Tensor:
        held.append(len(rows))
        return row_gradients(model, rows, *others)

    monkeypatch.setattr("workers.training.verification.MAX_ROWS_COMPARED", 4)
    monkeypatch.setattr("workers.training.verification.row_gradients", counted)
    assert verify()[GRADIENT_METHOD]
    assert held == [4, 46]  # the second: of the generated answers, whose number is bounded


def pay_the_first(vectors: torch.Tensor) -> torch.Tensor:
    """The first contribution scores as all others together."""
    return torch.cat([vectors.sum(0, keepdim=True), vectors[1:]])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"distilled__bias": lambda b: b + torch.eye(len(b))[0]}, "distilled-1"),
        ({"distilled__weights": pay_the_first}, "distilled-1"),
        ({"distilled_error__bias": lambda b: b + torch.eye(len(b))[0]}, "distilled-error-1"),
        ({"distilled_error__weights": pay_the_first}, "distilled-error-1"),
        ({"gradient__vectors": pay_the_first}, GRADIENT_METHOD),
        ({"error__vectors": pay_the_first}, "error-ridge-1"),
        ({"hidden__vectors": lambda v: v.flip(0)}, "hidden-cosine-1"),
        ({"hidden__centre": lambda c: c * 2}, "hidden-cosine-1"),
        ({"rows": lambda counts: counts + torch.eye(len(counts), dtype=torch.int64)[0]}, "rows"),
    ],
)
def test_a_forged_part_of_the_index_is_refused(verify: Verify, changes: Any, found: str) -> None:
    assert found in wrong(verify(forge_index(**changes)))


def test_forged_error_vectors_do_not_make_the_maps_that_start_from_them_wrong(verify: Verify) -> None:
    assert wrong(verify(forge_index(error__vectors=pay_the_first))) == {"error-ridge-1"}


def test_a_map_is_not_judged_by_forged_error_vectors(verify: Verify) -> None:
    """Both are changed alike, where no answer is, by less than verification tolerates of error vectors."""

    def forge(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
        change_ = torch.zeros_like(tensors["error.vectors"])
        change_[0, 0] = tensors["error.vectors"][0].norm() / 100
        tensors["error.vectors"] += change_
        tensors["distilled_error.weights"] += change_ * 100

    assert "distilled-error-1" in wrong(verify(lambda folder: change(folder / INDEX_FILE, forge)))


def forge_answers(forge: Callable[[list[Answer]], list[Answer]]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / ANSWERS_FILE
        path.write_bytes(serialise_answers(forge(read_answers(path))))

    return rewrite


def test_answers_that_the_adapter_would_not_generate_are_refused(verify: Verify) -> None:
    def chosen(answers: list[Answer]) -> list[Answer]:
        """Each prompt has the answer of the next one."""
        others = [*answers[1:], answers[0]]
        return [replace(a, token_ids=b.token_ids) for a, b in zip(answers, others, strict=True)]

    assert "answers" in wrong(verify(forge_answers(chosen)))


def test_answers_that_are_cut_off_are_refused(verify: Verify) -> None:
    def cut(answers: list[Answer]) -> list[Answer]:
        return [replace(answers[0], token_ids=answers[0].token_ids[:1]), *answers[1:]]

    assert "answers" in wrong(verify(forge_answers(cut)))


@pytest.mark.parametrize(
    "changes", [{"seed": 5}, {"is_kept_out": True}, {"token_ids": (7, 7, 7)}], ids=["seed", "split", "prompt"]
)
def test_answers_to_chosen_prompts_seeds_or_splits_are_refused(verify: Verify, changes: Any) -> None:
    def forge(answers: list[Answer]) -> list[Answer]:
        return [replace(answers[0], prompt=replace(answers[0].prompt, **changes)), *answers[1:]]

    assert "prompts" in wrong(verify(forge_answers(forge)))


def test_fewer_answers_than_the_rows_determine_are_refused(verify: Verify) -> None:
    assert "prompts" in wrong(verify(forge_answers(lambda answers: answers[:-1])))


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("distilled_agreement", "0.99", "agreement of distilled-1"),
        ("distilled_error_agreement", "0.99", "agreement of distilled-error-1"),
        ("distilled_agreement", "nan", "agreement of distilled-1"),
        ("num_kept_out", "1000", "kept out"),
    ],
)
def test_forged_evidence_is_refused(verify: Verify, name: str, value: str, found: str) -> None:
    def forge(_tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        metadata[name] = value

    assert found in wrong(verify(lambda folder: change(folder / INDEX_FILE, forge)))


def test_without_rows_the_maps_and_the_answers_are_still_judged(verify: Verify) -> None:
    results = verify(forge_index(distilled__weights=pay_the_first), has_rows=False)
    assert wrong(results) >= {"distilled-1"}
    assert results["answers"]
    assert not {"rows", "prompts", GRADIENT_METHOD, "error-ridge-1"} & results.keys()


@pytest.mark.parametrize("changes", [{"split": ""}, {"arithmetic": ""}, {"arithmetic": "bfloat16"}])
def test_an_index_that_nobody_can_compute_again_is_open(verify: Verify, changes: dict[str, str]) -> None:
    def age(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        for name in [name for name in tensors if name.startswith("distilled")]:
            del tensors[name]
        metadata["methods"] = "gradient-ridge-3 error-ridge-1 hidden-cosine-1"
        metadata |= changes

    assert verify(lambda folder: change(folder / INDEX_FILE, age)) == {"index": None}


def test_an_index_without_what_training_writes_is_reported(verify: Verify) -> None:
    def hide_options(_tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        del metadata["config"]

    with pytest.raises(MalformedFolder, match="follow from"):
        verify(lambda folder: (folder / ANSWERS_FILE).unlink())
    with pytest.raises(MalformedFolder, match="follow from"):
        verify(lambda folder: change(folder / INDEX_FILE, hide_options))


@pytest.mark.parametrize("method", ["distilled-1", "distilled-error-1", GRADIENT_METHOD, "error-ridge-1"])
def test_an_index_that_leaves_out_a_method_is_reported(verify: Verify, method: str) -> None:
    def leave_out(_tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        metadata["methods"] = " ".join(each for each in metadata["methods"].split() if each != method)

    with pytest.raises(MalformedFolder, match=f"lacks {method}"):
        verify(lambda folder: change(folder / INDEX_FILE, leave_out))


def test_an_index_with_gradients_of_both_versions_is_judged_by_the_current_one(verify: Verify) -> None:
    def rename(_tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        metadata["methods"] = metadata["methods"].replace(
            GRADIENT_METHOD, f"gradient-ridge-3 {GRADIENT_METHOD}"
        )

    def forge(folder: Path) -> None:
        forge_index(distilled__weights=pay_the_first)(folder)
        change(folder / INDEX_FILE, rename)

    assert "distilled-1" in wrong(verify(forge))


def test_a_direction_that_no_compared_answer_has_is_refused(verify: Verify) -> None:
    """The first vector grows by a hundredth of its norm where all gradients of rows and answers are zero."""

    def forge(vectors: torch.Tensor) -> torch.Tensor:
        unused = int(vectors.abs().sum(0).argmin())
        assert not vectors[:, unused].any()
        changed = vectors.clone()
        changed[0, unused] = vectors[0].norm() / 100
        return changed

    assert wrong(verify(forge_index(gradient__vectors=forge))) == {GRADIENT_METHOD}


@pytest.mark.parametrize("name", [INDEX_FILE, ANSWERS_FILE, CHECKPOINT_FILE])
def test_a_file_that_cannot_be_read_is_reported(verify: Verify, name: str) -> None:
    with pytest.raises(MalformedFolder):
        verify(lambda folder: (folder / name).write_bytes(b"no tensors"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_other_weights_than_numbers_is_reported(verify: Verify, value: float) -> None:
    def forge(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
        next(iter(tensors.values()))[0, 0] = value

    with pytest.raises(MalformedFolder, match="not finite"):
        verify(lambda folder: change(folder / CHECKPOINT_FILE, forge))


@pytest.mark.parametrize("part", ["prompt", "answer"])
def test_answers_longer_than_training_writes_are_reported(verify: Verify, part: str) -> None:
    def forge(answers: list[Answer]) -> list[Answer]:
        first = answers[0]
        if part == "answer":
            return [replace(first, token_ids=(7,) * (MAX_ANSWER_TOKENS + 1)), *answers[1:]]
        return [replace(first, prompt=replace(first.prompt, token_ids=(7,) * 100_000)), *answers[1:]]

    with pytest.raises(MalformedFolder, match="tokens"):
        verify(forge_answers(forge))


def test_tokens_that_the_base_model_lacks_are_reported(verify: Verify) -> None:
    def forge(answers: list[Answer]) -> list[Answer]:
        return [replace(answers[0], token_ids=(10**9,)), *answers[1:]]

    with pytest.raises(MalformedFolder, match="tokens"):
        verify(forge_answers(forge))
