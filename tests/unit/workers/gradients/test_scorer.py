"""Scores of answers are those of the index and of gradients at the checkpoint, computed on their own."""

from __future__ import annotations

import json
import shutil
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import Linear, LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from backend.domain.attribution import CHECKPOINT_FILE, INDEX_FILE
from backend.domain.errors import InvalidInput
from backend.ports.gradients import GradientRequest
from backend.services.answers.attribution_index import load_index
from backend.services.train.options import parse_config
from inference.protocol import Message
from tests.fixtures_engine import peft_warnings_ignored
from tests.unit.workers.support import letter_rows
from workers.gradients.scorer import Answer, Scorer
from workers.training.fit import lora_model
from workers.training.gradients import sketch_row_gradients
from workers.training.index import load_adapter
from workers.training.job import run_job
from workers.training.rows import IGNORED, Example, preamble_ids
from workers.training.sketch import SKETCH_SIZE, PartSketch
from workers.training.spec import ADAPTER, ROWS_FILE, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONFIG = {"rank": 4, "learning_rate": 0.01, "batch_size": 8, "epochs": 1, "seed": 11}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with peft_warnings_ignored():
        yield


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter of two contributions."""
    folder = tmp_path_factory.mktemp("job")
    lines = [json.dumps({"contribution": c, "row": row}) for c, row in letter_rows()]
    (folder / ROWS_FILE).write_text("\n".join(lines) + "\n")
    spec = TrainingSpec("ftjob-1", parse_config(CONFIG), ("0xfeed",), ("MIT",), "", str(tiny_base), 1)
    with peft_warnings_ignored():
        run_job(spec, folder, lambda *_: None)
    return folder / ADAPTER


@pytest.fixture(scope="module")
def scorer(tiny_base: Path) -> Scorer:
    return Scorer(tiny_base)


@pytest.fixture
def adapter(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(trained, tmp_path / "adapter")


def answers(scorer: Scorer) -> list[Answer]:
    requests = [
        GradientRequest("", ("unused",), choices, 9, 1.0, messages=(Message("user", text),))
        for text, choices in (
            ("What is 3?", ((11, 12, 13), (14, 15))),
            ("Say something much longer than the others", ((21, 22, 23, 24),)),
        )
    ]
    raw = GradientRequest("", ("unused",), ((31, 32),), 9, 1.0, prompt="once upon a time")
    return [scorer.answer(request) for request in [*requests, raw]]


def expected(tiny_base: Path, folder: Path, answer: Answer) -> dict[int, float]:
    """The formula of `gradient-ridge-4` on a model of its own, one choice after the other."""
    model = lora_model(tiny_base, parse_config(CONFIG))
    load_adapter(model, (folder / CHECKPOINT_FILE).read_bytes())
    preamble = preamble_ids(AutoTokenizer.from_pretrained(tiny_base))
    sketch = PartSketch(model.config.num_hidden_layers)
    total = torch.zeros(SKETCH_SIZE)
    for choice in answer.choices:
        labels = (*[IGNORED] * len(answer.prompt), *choice)
        row = Example(0, "", (*answer.prompt, *choice), labels)
        ((_, sketched),) = sketch_row_gradients(model, [row], preamble, sketch, lambda *_: None)
        total += sketched[0]
    index = load_index(folder / INDEX_FILE, with_gradients=True)
    scores = index.gradient.astype(np.float64) @ total.numpy().astype(np.float64)
    return dict(zip(index.positions.tolist(), scores.tolist(), strict=True))


def test_scores_are_those_of_each_answer_on_its_own(tiny_base: Path, scorer: Scorer, trained: Path) -> None:
    asked = answers(scorer)
    for answer, found in zip(asked, scorer.scores(trained, asked), strict=True):
        wanted = expected(tiny_base, trained, answer)
        scale = max(map(abs, wanted.values()))
        assert found.keys() == wanted.keys() == {0, 1}
        assert found == pytest.approx(wanted, abs=0.01 * scale)


def test_the_same_answers_have_the_same_scores_again(scorer: Scorer, trained: Path) -> None:
    asked = answers(scorer)
    assert scorer.scores(trained, asked) == scorer.scores(trained, asked)


def test_a_prompt_that_the_template_refuses_is_an_error_of_its_request(scorer: Scorer) -> None:
    with pytest.raises(InvalidInput):
        scorer.answer(GradientRequest("", ("unused",), ((1,),), 9, 1.0))


def test_a_checkpoint_whose_gradients_overflow_is_an_error(scorer: Scorer, adapter: Path) -> None:
    path = adapter / CHECKPOINT_FILE
    huge = {name: torch.full_like(weight, 3e38) for name, weight in load_file(path).items()}
    save_file(huge, path)
    with pytest.raises(InvalidInput, match="range of numbers"):
        scorer.scores(adapter, answers(scorer)[:1])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CHECKPOINT_FILE, None),
        (CHECKPOINT_FILE, b"no tensors"),
        (INDEX_FILE, None),
        (INDEX_FILE, b"no tensors"),
        ("adapter_config.json", b"[]"),
        ("adapter_config.json", b'{"r": 100000, "lora_alpha": 1, "target_modules": ["q_proj"]}'),
        ("adapter_config.json", b'{"r": 4, "lora_alpha": 8, "target_modules": ["lm_head"]}'),
        ("adapter_config.json", b'{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}'),
        ("adapter_config.json", b'{"r": 4, "lora_alpha": "much", "target_modules": ["q_proj"]}'),
    ],
)
def test_a_malformed_folder_is_an_error_and_leaves_the_scorer_as_it_was(
    scorer: Scorer, trained: Path, adapter: Path, name: str, content: bytes | None
) -> None:
    asked = answers(scorer)[:1]
    before = scorer.scores(trained, asked)
    (adapter / name).unlink()
    if content is not None:
        (adapter / name).write_bytes(content)
    with pytest.raises(InvalidInput):
        scorer.scores(adapter, asked)
    assert scorer.scores(trained, asked) == before


def test_of_a_checkpoint_no_more_is_read_than_the_adapter_may_have(
    scorer: Scorer, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, path = load_file(adapter / CHECKPOINT_FILE), adapter / CHECKPOINT_FILE
    save_file(weights | {"more": torch.zeros(1 << 24)}, path)
    monkeypatch.setattr("workers.gradients.scorer.load", pytest.fail)
    with pytest.raises(InvalidInput, match="does not fit"):
        scorer.scores(adapter, answers(scorer)[:1])


@pytest.mark.parametrize("step", ["update_layer", "get_delta_weight"])
def test_a_failed_allocation_leaves_the_base_as_it_was(
    scorer: Scorer, trained: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """While an adapter's layers are added, and while they are merged."""
    asked = answers(scorer)[:1]
    before = scorer.scores(trained, asked)
    original, calls = getattr(Linear, step), count()

    def fail_at_third(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Linear, step, fail_at_third)
        with pytest.raises(RuntimeError, match="allocate"):
            scorer.scores(trained, asked)
    assert not any(isinstance(layer, LoraLayer) for layer in scorer._base.modules())
    assert scorer.scores(trained, asked) == before


@pytest.mark.parametrize("change", [lambda w: w * torch.nan, lambda w: w.to(torch.float8_e4m3fn)])
def test_a_checkpoint_with_other_numbers_than_numbers_is_refused(
    scorer: Scorer, adapter: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    weights = load_file(adapter / CHECKPOINT_FILE)
    name = next(iter(weights))
    save_file(weights | {name: change(weights[name])}, adapter / CHECKPOINT_FILE)
    with pytest.raises(InvalidInput, match="does not fit"):
        scorer.scores(adapter, answers(scorer)[:1])
