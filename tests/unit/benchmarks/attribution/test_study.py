from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from backend.domain.attribution import DISTILLED_METHOD, ERROR_METHOD, GRADIENT_METHOD, ROWS_METHOD
from benchmarks.attribution.__main__ import main
from benchmarks.attribution.accuracy_tables import CHART, control
from benchmarks.attribution.data import NUM_HELD_OUT, NUM_PROMPTS, PLAIN_TEMPLATE, encode_row, open_tokenizer
from benchmarks.attribution.measure import CONSTANT
from benchmarks.attribution.page import KEPT, MISSING, PAGE, chart, page, read, write
from benchmarks.attribution.report import combine, measure_costs, report_study
from benchmarks.attribution.retrain import Run, make_model, planned, retrained
from benchmarks.attribution.study import train
from benchmarks.attribution.truth import OtherStudy
from tests.unit.benchmarks.attribution.support import NUM_ROWS, ignore
from workers.training.folders import lock_folder
from workers.training.rows import last_answer, preamble_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.attribution.study import Plan


def test_no_run_is_trained_on_what_is_asked(plan: Plan) -> None:
    study = plan.study
    trained = {last_answer(row)[0] for row in study.rows}
    asked = [last_answer(row)[0] for row in (*study.held_out, *study.prompts)]
    assert len(study.rows) == sum(NUM_ROWS.values())
    assert len(asked) == len(set(asked)) == len(NUM_ROWS) * (NUM_HELD_OUT + NUM_PROMPTS)
    assert not trained & set(asked)


def test_a_study_becomes_a_report_and_a_page(plan: Plan, tmp_path: Path) -> None:
    train(plan, ignore)
    found = json.loads(json.dumps(report_study(plan, ignore)))
    assert (found["num_halves"], found["num_repeats"]) == (3, 3)
    assert found["num_by_kind"] == {"generated": 20, "held-out": 8, "in-sample": 8}
    assert found["num_sampled"] == 10
    methods = found["methods"]
    assert {ROWS_METHOD, ERROR_METHOD, DISTILLED_METHOD, GRADIENT_METHOD} <= set(methods)
    assert methods[ROWS_METHOD]["by_kind"]["generated"]["lead_interval"] == [0, 0]
    assert "loses to attribution has not been measured" in page(combine([found], {}))
    report = json.loads(json.dumps(combine([found], measure_costs(plan, ignore))))
    methods = report["studies"][0]["methods"]
    assert methods[GRADIENT_METHOD]["cost"] == report["serving_cost_stage"] < 1
    write(tmp_path, report)
    assert read(tmp_path) == report
    text = page({**report, "small_studies": [{**found, "base_model": "larger"}]})
    assert "larger, rank 8" in text
    assert f"**{methods[GRADIENT_METHOD]['by_kind']['generated']['lds']:.2f}**" in text
    assert chart(found).count('class="point"') == len(methods)
    assert MISSING.format("bench-attribution-games") in page(None)


@pytest.mark.deep
def test_another_machine_continues_a_study_from_its_truth(plan: Plan, tmp_path: Path) -> None:
    few = replace(plan, home=tmp_path / "elsewhere", num_subsets=1, num_repeats=0)
    train(few, ignore)
    stored = few.read_truth()
    assert stored is not None
    assert set(stored.losses) == set(planned(few.halves, 0))
    train(plan, ignore)
    truth = plan.read_truth()
    assert truth is not None
    assert truth.answers == stored.answers
    assert truth.losses.items() >= stored.losses.items()
    assert set(truth.losses) == set(planned(plan.halves, 3))


def test_a_truth_of_other_texts_is_refused(plan: Plan) -> None:
    train(replace(plan, num_subsets=0, num_repeats=0), ignore)
    text = plan.truth_file.read_text()
    plan.truth_file.write_text(text.replace(plan.study.digest, "0" * 64))
    with pytest.raises(OtherStudy, match="another study: its study is 0000"):
        train(plan, ignore)


def test_a_run_of_another_process_is_left_to_it(plan: Plan) -> None:
    run = Run((0, 1), 0)
    rows = plan.study.rows_of(run.contributors)
    scratch = plan.work / "scratch" / run.name
    scratch.mkdir(parents=True)
    with lock_folder(scratch), pytest.raises(BlockingIOError):
        retrained(run, rows, plan.base, plan.work, ignore).__enter__()
    with retrained(run, rows, plan.base, plan.work, ignore):
        assert scratch.exists()
    assert not scratch.exists()


def test_the_page_matches_its_report(tmp_path: Path) -> None:
    docs = Path("docs")
    report = read(docs)
    write(tmp_path, report)
    studies = [*report["studies"], *report.get("small_studies", [])] if report else []
    charts = [CHART.format(study["name"]) for study in studies]
    for name in (PAGE, *((KEPT, *charts) if report else ())):
        assert (tmp_path / name).read_bytes() == (docs / name).read_bytes()


def test_the_readme_states_the_figures_of_the_report() -> None:
    report = read(Path("docs"))
    assert report is not None
    studies = report["studies"]
    paid, rows = (
        [study["methods"][method]["as_paid"]["generated"] for study in studies]
        for method in (report["paid_method"], ROWS_METHOD)
    )
    ceilings = [study["ceiling"]["generated"] for study in studies]
    text = " ".join(Path("README.md").read_text().split())
    assert f"reach rank correlations of {_listed(paid)} in three studies" in text
    assert f"Counting rows reaches {_listed(rows)}; two retrainings" in text
    assert f"different seeds agree at {_listed(ceilings)}." in text


def test_the_page_says_where_the_control_is_as_good_as_the_method_that_is_paid() -> None:
    report = read(Path("docs"))
    assert report is not None
    for study in report["studies"]:
        study["methods"][CONSTANT]["as_paid"] = {"generated": 0.0, "held-out": 0.0}
    assert f"The control is worse than `{report['paid_method']}` on all of them." in control(report)
    report["studies"][0]["methods"][CONSTANT]["as_paid"]["held-out"] = 1.0
    text = control(report)
    assert f"`{report['paid_method']}` or better on {report['studies'][0]['name']} (held-out)**" in text


def _listed(values: Sequence[float]) -> str:
    *first, last = (f"{value:.2f}" for value in values)
    return f"{', '.join(first)} and {last}"


def test_a_page_is_written_again_from_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--page", str(tmp_path)]) == 1
    assert "attribution.json does not exist" in capsys.readouterr().err
    report = read(Path("docs"))
    assert report is not None
    # As measured, before the order of keys is that of the stored JSON.
    write(tmp_path, _reversed(report))
    written = (tmp_path / PAGE).read_bytes()
    (tmp_path / PAGE).unlink()
    assert main(["--page", str(tmp_path)]) == 0
    assert (tmp_path / PAGE).read_bytes() == written == Path("docs", PAGE).read_bytes()


def _reversed(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    return {name: _reversed(found[name]) for name in reversed(found)}


def test_too_few_retrainings_make_no_report(plan: Plan) -> None:
    with pytest.raises(FileNotFoundError, match="train the study first"):
        report_study(plan, ignore)
    train(replace(plan, num_subsets=2, num_repeats=0), ignore)
    with pytest.raises(ValueError, match="2 retrainings are done"):
        report_study(plan, ignore)


def test_a_base_model_without_a_chat_template_is_asked_in_plain_text(
    plan: Plan, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "base", ignore=shutil.ignore_patterns("chat_template*"))
    tokenizer = open_tokenizer(tmp_path / "base")
    row = encode_row(0, {"prompt": "What of tides?", "completion": "They turn."}, "Answers.", tokenizer)
    prompt, answer = last_answer(row)
    assert tokenizer.decode(prompt) == "Answers.\nQuestion: What of tides?\nAnswer:\n"
    assert tokenizer.decode(answer) == f"They turn.{tokenizer.eos_token}"
    assert tokenizer.decode(preamble_ids(tokenizer, "Answers.")) == "Answers.\nQuestion: "
    assert open_tokenizer(tiny_model).chat_template == plan.tokenizer.chat_template != PLAIN_TEMPLATE


def test_frozen_weights_have_the_precision_of_bf16_on_every_machine(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("benchmarks.attribution.retrain.compute_dtype", lambda dtype=dtype: dtype)
        frozen = [weight for weight in make_model(plan.base).parameters() if not weight.requires_grad]
        assert all(weight.dtype == dtype for weight in frozen)
        assert all(torch.equal(weight, weight.bfloat16().to(dtype)) for weight in frozen)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit):
        main(["--nonsense"])
