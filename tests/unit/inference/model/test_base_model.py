"""The bundled base model, SmolLM2-135M-Instruct, from its GGUF; converted once and cached for all tests."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from inference.config import EngineConfig
from inference.engine import Engine
from inference.errors import ModelNotFoundError
from inference.model.base_model import base_model_digest
from inference.model.sources import BUNDLED_NAME, resolve_model
from inference.protocol import Generate, Message, Sampling
from tests.fixtures_engine import Oracle, run_all

CACHE = Path(os.environ.get("LORALEDGER_MODEL_CACHE", ".loraledger/cache/models"))


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return resolve_model("", CACHE)


def test_the_bundled_model_answers_as_transformers_does(smollm2: Path) -> None:
    engine = Engine(EngineConfig(smollm2, dtype="float32", num_threads=1, kv_budget_bytes=64 * 2**20))
    question = (Message("user", "What is the capital of France?"),)
    other = Generate("o", prompt="def add(a, b):", sampling=Sampling(max_tokens=4, temperature=0.0))
    ask = Generate("q", messages=question, sampling=Sampling(max_tokens=12, temperature=0.0))
    answers = run_all(engine, ask, other)
    assert answers["q"].text == "The capital of France is Paris."
    assert answers["q"].last.finish_reason == "stop"
    prompt = engine.tokenizer.encode_prompt(question, None)
    Oracle(smollm2).check_greedy(prompt, answers["q"].token_ids, None)
    engine.close()


def test_preparing_again_returns_the_same_folder(smollm2: Path) -> None:
    assert resolve_model("", CACHE) == smollm2
    assert smollm2.name == BUNDLED_NAME


def test_the_digest_names_the_content_and_not_who_wrote_it(tiny_llama: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    digest = base_model_digest(tiny_llama)
    (copy / "README.md").write_text("hello")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "0"}, indent=9))
    assert base_model_digest(copy) == digest
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert base_model_digest(copy) != digest


def test_weights_that_are_not_read_do_not_count(tiny_llama: Path, tmp_path: Path) -> None:
    """A repository of a hub may have the same weights in a second layout, which only some tools download."""
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    shutil.copy(copy / "model.safetensors", copy / "consolidated.safetensors")
    assert base_model_digest(copy) == base_model_digest(tiny_llama)


def test_the_files_that_an_index_names_count(tiny_llama: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"any": "model-00001-of-00001.safetensors"}}))
    digest = base_model_digest(copy)
    (copy / "consolidated.safetensors").write_bytes(b"")
    assert base_model_digest(copy) == digest
    (copy / "model-00001-of-00001.safetensors").write_bytes(b"other")
    assert base_model_digest(copy) != digest
    (copy / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="cannot read"):
        base_model_digest(copy)


def test_every_weight_and_tokenizer_file_counts(tiny_llama: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        copy = Path(shutil.copytree(tiny_llama, tmp_path / name))
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        assert base_model_digest(copy) != base_model_digest(tiny_llama)


def test_a_bfloat16_engine_stays_close_to_fp32(tiny_llama: Path) -> None:
    """Same prompt, both dtypes: the mean states differ by rounding only."""
    states = []
    for dtype in ("float32", "bfloat16"):
        engine = Engine(EngineConfig(tiny_llama, dtype=dtype, num_threads=1, kv_budget_bytes=2**22))
        engine.embed("e", list(range(20, 60)), [], None)
        states.append(torch.tensor(next(iter(engine.run())).probe.prompt))
        engine.close()
    assert torch.nn.functional.cosine_similarity(*states, dim=0) > 0.99
