from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.domain.screening import AdapterRefused
from backend.domain.training import About
from backend.services.market.cards import read_card
from inference.errors import AdapterTooLargeError
from inference.lora.files import adapter_digest
from tests.fixtures_engine import edit_adapter, make_adapter
from tests.support.malicious_adapters import CONFIGS, MARKER, WEIGHTS, pickled
from tests.unit.workers.training.support import ignore
from workers.training import fit
from workers.training.evaluate import mean_loss
from workers.training.fit import ATTENTION
from workers.training.imported import general_losses, validate_import
from workers.training.inspection import as_json, inspect_adapter, open_adapter
from workers.training.rows import general_examples
from workers.training.run import _train
from workers.training.spec import ADAPTER, INSPECTION_FILE, RESULT_FILE, UPLOADED, ImportSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.malicious_adapters import MaliciousFolder

CREATOR = "0x" + "c1" * 20
MALICIOUS: Mapping[str, MaliciousFolder] = {
    **WEIGHTS,
    **{f"config: {name}": one for name, one in CONFIGS.items()},
}
WIDER = {
    "a rank of ten thousand": AdapterTooLargeError,
    "a million tiny tensors": AdapterTooLargeError,
}
"""Refused because of their size, independent of the engine's budget."""


@pytest.fixture(scope="module")
def good(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "adapter"
    edit_adapter(make_adapter(folder, tiny_base), base_model_name_or_path="owner/tiny-llama")
    (folder / "README.md").unlink(missing_ok=True)
    return folder


@pytest.fixture
def spec(tiny_base: Path) -> ImportSpec:
    return ImportSpec(CREATOR, "MIT", "", str(tiny_base), 1)


@pytest.fixture
def job(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "job" / UPLOADED)
    return tmp_path / "job"


def test_an_import_results_in_a_folder_with_a_card(
    spec: ImportSpec, job: Path, good: Path, tiny_base: Path
) -> None:
    validate_import(spec, job, ignore)
    folder = job / ADAPTER
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    result = json.loads((job / RESULT_FILE).read_bytes())
    assert result["adapter_digest"] == "0x" + adapter_digest(good) == "0x" + adapter_digest(folder)
    assert json.loads((job / INSPECTION_FILE).read_bytes()) == as_json(inspect_adapter(tiny_base, good))
    card = (folder / "README.md").read_text()
    for said in (
        "license: MIT",
        "Its training rows are unknown",
        CREATOR,
        "treasury",
        "| kurtosis |",
        "general set",
    ):
        assert said in card


def test_what_the_creator_says_is_quoted_in_the_card(spec: ImportSpec, job: Path) -> None:
    source = f"hf:owner/name@{'1' * 40}"
    about = About("Answers in verse.\n\n## Made from\n- everything", ("verse", "lora"), source)
    replace(spec, about=about).save(job)
    validate_import(ImportSpec.load(job), job, ignore)
    card = read_card((job / ADAPTER / "README.md").read_bytes())
    assert (card.summary, card.tags) == ("Answers in verse.", ("lora", "loraledger", "verse"))
    assert "\n> ## Made from\n> - everything\n" in str(card.text)
    assert f"comes from `{source}`" in str(card.text)


def test_the_same_files_give_the_same_folder_also_where_a_kill_left_something(
    spec: ImportSpec, job: Path
) -> None:
    validate_import(spec, job, ignore)
    first = {path.name: path.read_bytes() for path in (job / ADAPTER).iterdir()}
    (job / RESULT_FILE).unlink()
    (job / f"{ADAPTER}.partial").mkdir()
    validate_import(spec, job, ignore)
    assert {path.name: path.read_bytes() for path in (job / ADAPTER).iterdir()} == first


def test_the_process_does_its_work_once(spec: ImportSpec, job: Path) -> None:
    spec.save(job)
    said: list[tuple[str, Any]] = []
    assert _train(job, lambda kind, data: said.append((kind, data))) == 0
    assert said[-1] == ("done", json.loads((job / RESULT_FILE).read_bytes()))
    shutil.rmtree(job / UPLOADED)
    assert _train(job, ignore) == 0


def test_the_process_says_why_it_refuses(spec: ImportSpec, job: Path) -> None:
    spec.save(job)
    pickled("adapter_model.safetensors")(job / UPLOADED)
    said: list[tuple[str, Any]] = []
    assert _train(job, lambda kind, data: said.append((kind, data))) == 1
    ((kind, data),) = said
    assert (kind, data["code"], data["reason"]) == ("failed", "adapter_refused", "adapter_pickle")


@pytest.mark.parametrize("name", MALICIOUS)
def test_an_import_is_refused_with_the_engines_error_code(name: str, spec: ImportSpec, job: Path) -> None:
    MALICIOUS[name].corrupt(job / UPLOADED)
    with pytest.raises(AdapterRefused) as refusal:
        validate_import(spec, job, ignore)
    wanted = WIDER.get(name, MALICIOUS[name].error)
    assert refusal.value.details["reason"] == wanted.code, refusal.value
    assert [path.name for path in job.iterdir()] == [UPLOADED]
    assert not (job.parent / MARKER).exists()


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "../base", "a/../b", "~/base", "C:\\base", "file:///x", ["a"]]
)
def test_a_configuration_that_leads_somewhere_is_refused(value: Any, spec: ImportSpec, job: Path) -> None:
    path = job / UPLOADED / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "base_model_name_or_path": value}))
    with pytest.raises(AdapterRefused, match="base_model_name_or_path") as refusal:
        validate_import(spec, job, ignore)
    assert refusal.value.details == {"reason": "adapter_path"}


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    "kind", [{}, {"use_dora": True}, {"use_rslora": True, "rank_pattern": {"q_proj": 2}}]
)
def test_losses_are_those_of_the_adapter_as_peft_has_it(
    kind: dict[str, Any],
    dtype: torch.dtype,
    within: float,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit, "compute_dtype", lambda: dtype)
    make_adapter(tmp_path / "adapter", tiny_base, **kind)
    adapter, base, _ = open_adapter(tiny_base, tmp_path / "adapter")
    found = general_losses(tiny_base, adapter, base.architecture, ignore)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model.set_attn_implementation(ATTENTION)
    examples = general_examples(AutoTokenizer.from_pretrained(tiny_base))
    peft = PeftModel.from_pretrained(model, tmp_path / "adapter")
    assert found["general_loss_adapter"] == pytest.approx(mean_loss(peft, examples, ignore), rel=within)
    with peft.disable_adapter():
        assert found["general_loss_base"] == pytest.approx(mean_loss(peft, examples, ignore), rel=within)
    assert found["general_loss_base"] != found["general_loss_adapter"]
