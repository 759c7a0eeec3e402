from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from benchmarks.attribution.__main__ import main
from benchmarks.attribution.page import CHART, KEPT, MISSING, PAGE, chart, page, write
from benchmarks.attribution.retrain import Run, midway_file, retrain, weights_file
from benchmarks.attribution.signals import error_vectors
from benchmarks.attribution.study import Plan, report, train
from tests.fixtures_engine import peft_warnings_ignored
from workers.training.folders import lock_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONTRIBUTORS = {"asyncio": 3, "email": 4, "logging": 3, "unittest": 2}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("benchmarks.attribution.data.CONTRIBUTORS", CONTRIBUTORS)
    monkeypatch.setattr("benchmarks.attribution.answers.ANSWER_TOKENS", 3)
    with peft_warnings_ignored():
        yield


@pytest.fixture
def plan(tiny_model: Path, tmp_path: Path) -> Plan:
    return Plan(tmp_path, 4, 3, 1, str(tiny_model))


def ignore(kind: str, data: Mapping[str, Any]) -> None:
    pass


def test_a_report_ranks_all_methods_and_becomes_a_page(plan: Plan) -> None:
    train(plan, ignore)
    found = json.loads(json.dumps(report(plan)))
    assert list(found["methods"]) == ["uniform by rows", "hidden states", "error vector", "gradient"]
    assert (found["num_subsets"], found["num_repeats"], found["num_answers"]) == (4, 3, 20)
    assert found["num_by_kind"] == {"generated": 4, "held-out": 8, "in-sample": 8}
    assert found["methods"]["gradient"]["cost"] > 0
    assert -1 <= found["ceiling"] <= 1
    text = page(found)
    assert MISSING not in text
    assert f"**{found['methods']['gradient']['lds']:.2f}**" in text
    assert "gradients by `gradient-ridge-3`" in text
    assert "run is incomplete" not in text
    assert "2 of 3 repeats" in page({**found, "num_repeats": 2})
    assert chart(found).count('class="point"') == 4
    assert set(found["gaming"]) == set(found["methods"])
    assert "| copy under another wallet |" in text
    assert MISSING in page(None)


def test_the_page_matches_its_report(tmp_path: Path) -> None:
    docs = Path("docs")
    report = json.loads((docs / KEPT).read_bytes()) if (docs / KEPT).exists() else None
    write(tmp_path, report)
    for name in (PAGE, *(() if report is None else (CHART, KEPT))):
        assert (tmp_path / name).read_bytes() == (docs / name).read_bytes()


def test_what_is_trained_stays_and_what_another_process_trains_is_left_to_it(plan: Plan) -> None:
    run = Run((0, 1), 0)
    rows = plan.study.rows_of(run.contributors)
    scratch = plan.work / "scratch" / run.name
    scratch.mkdir(parents=True)
    with lock_folder(scratch), pytest.raises(BlockingIOError):
        retrain(run, rows, plan.base, plan.work, ignore)
    path = retrain(run, rows, plan.base, plan.work, ignore)
    assert path == weights_file(run, plan.work)
    assert midway_file(run, plan.work).exists()
    assert not scratch.exists()
    changed = path.stat().st_mtime_ns
    retrain(run, rows, plan.base, plan.work, ignore)
    assert path.stat().st_mtime_ns == changed


def test_too_few_retrainings_make_no_report(plan: Plan) -> None:
    with pytest.raises(FileNotFoundError):
        report(plan)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["--nonsense"])


def test_an_error_vector_is_the_gradient_with_respect_to_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("benchmarks.attribution.signals.TOP_TOKENS", 50)  # all of them
    states, head = torch.randn(6, 8, requires_grad=True), torch.randn(50, 8)
    labels = torch.randint(0, 50, (6,))
    logits = states @ head.T
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    assert torch.allclose(error_vectors(logits.detach(), labels, head), states.grad, atol=1e-5)
