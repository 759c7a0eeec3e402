"""GGUF files of every family, converted and compared with the checkpoint that they were written from."""

from __future__ import annotations

import shutil
import struct
from typing import TYPE_CHECKING

import gguf
import pytest
import torch
from safetensors.torch import load_file

from inference.errors import ModelNotFoundError, UnsupportedModelError
from inference.model import gguf as conversion
from inference.model.sources import resolve_model
from tests.fixtures_engine import greedy, make_model, run_all
from tests.support.gguf import write_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.engine import Engine

Q8_0, F16, F32 = (getattr(gguf.GGMLQuantizationType, name) for name in ("Q8_0", "F16", "F32"))


@pytest.fixture
def tiny_gguf(tiny_llama: Path, tmp_path: Path) -> Path:
    return write_gguf(tiny_llama, tmp_path / "tiny.gguf")


@pytest.mark.parametrize(("family", "head_dim"), [("llama", 16), ("qwen2", 16), ("qwen3", 128)])
def test_every_weight_survives_the_conversion(family: str, head_dim: int, tmp_path: Path) -> None:
    """The conversion knows no other width of heads for Qwen3 than the one of all its sizes."""
    model = make_model(tmp_path / "model", family, head_dim=head_dim)
    folder = resolve_model(str(write_gguf(model, tmp_path / "m.gguf")), tmp_path / "cache")
    converted = load_file(folder / "model.safetensors")
    for name, tensor in load_file(model / "model.safetensors").items():
        torch.testing.assert_close(converted[name], tensor, atol=0, rtol=0)


def test_the_engine_answers_from_gguf_as_from_the_checkpoint(
    tiny_gguf: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    prompts = {"x": list(range(40, 60))}
    engines = make_engine(), make_engine(resolve_model(str(tiny_gguf), tmp_path / "cache"))
    answers = [run_all(engine, greedy("x"), prompts=prompts)["x"].token_ids for engine in engines]
    assert answers[0] == answers[1]


def test_quantised_weights_are_kept_in_bf16_and_full_ones_in_fp32(tiny_llama: Path, tmp_path: Path) -> None:
    for kind, dtype in ((Q8_0, torch.bfloat16), (F16, torch.float32)):
        path = write_gguf(tiny_llama, tmp_path / f"{kind.name}.gguf", kind)
        folder = resolve_model(str(path), tmp_path / "cache")
        name = "model.layers.0.mlp.down_proj.weight"
        tensor = load_file(folder / "model.safetensors")[name]
        assert (folder.name, tensor.dtype) == (kind.name, dtype)
        original = load_file(tiny_llama / "model.safetensors")[name]
        torch.testing.assert_close(tensor.float(), original, atol=0.01, rtol=0.01)


def test_a_file_is_converted_once_for_all_of_its_paths(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve_model(str(tiny_gguf), tmp_path / "cache")
    moved = tmp_path / "elsewhere" / tiny_gguf.name
    moved.parent.mkdir()
    shutil.move(tiny_gguf, moved)
    monkeypatch.setattr(conversion, "_convert", None)
    assert resolve_model(str(moved), tmp_path / "cache") == folder


def test_another_content_under_the_same_path_is_another_model(tiny_gguf: Path, tmp_path: Path) -> None:
    first = resolve_model(str(tiny_gguf), tmp_path / "cache")
    write_gguf(make_model(tmp_path / "other", "qwen2"), tiny_gguf)
    assert resolve_model(str(tiny_gguf), tmp_path / "cache") != first


def test_a_conversion_that_fails_leaves_nothing_to_be_taken_for_a_model(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ModelNotFoundError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_convert", fail)
        with pytest.raises(ModelNotFoundError, match="disk full"):
            resolve_model(str(tiny_gguf), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("config.json"))
    assert (resolve_model(str(tiny_gguf), tmp_path / "cache") / "model.safetensors").is_file()


@pytest.mark.parametrize("length", [4, 30, 3000, -2000])
def test_a_truncated_file_is_refused(length: int, tiny_gguf: Path, tmp_path: Path) -> None:
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:length])
    with pytest.raises(ModelNotFoundError, match=r"tiny\.gguf .*fetch it again"):
        resolve_model(str(tiny_gguf), tmp_path / "cache")


def test_a_number_of_tensors_that_cannot_be_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    content = bytearray(tiny_gguf.read_bytes())
    content[8:16] = struct.pack("<Q", 2**60)
    tiny_gguf.write_bytes(content)
    with pytest.raises(ModelNotFoundError, match="not a complete GGUF file"):
        resolve_model(str(tiny_gguf), tmp_path / "cache")


def test_an_array_of_more_items_than_the_file_has_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    key, array, of_bytes = struct.pack("<Q1s", 1, b"a"), 9, 0
    path.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IIQ", array, of_bytes, 2**60)
    )
    with pytest.raises(ModelNotFoundError, match="it ends before the value at byte 49"):
        resolve_model(str(path), tmp_path / "cache")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"llama.expert_count": 8}, "mixtures of experts"),
        ({"llama.rope.scaling.type": "yarn"}, "rotary scaling"),
    ],
)
def test_a_model_that_the_conversion_cannot_represent_is_refused(
    fields: dict[str, int | str], named: str, tiny_llama: Path, tmp_path: Path
) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf", fields=fields)
    with pytest.raises(UnsupportedModelError, match=named):
        resolve_model(str(path), tmp_path / "cache")


def test_a_missing_tensor_is_refused_and_not_made_up(tiny_llama: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_llama, tmp_path / "m.gguf", without="layers.1.mlp.up_proj")
    with pytest.raises(UnsupportedModelError, match=r"lacks model\.layers\.1\.mlp\.up_proj"):
        resolve_model(str(path), tmp_path / "cache")


def test_a_tensor_too_many_is_refused_and_not_dropped(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", attention_bias=True)
    with pytest.raises(UnsupportedModelError, match="28 tensors, of which 20"):
        resolve_model(str(write_gguf(model, tmp_path / "m.gguf")), tmp_path / "cache")


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match="'gpt2' is not one of"):
        resolve_model(str(tmp_path / "m.gguf"), tmp_path / "cache")
