from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.domain.screening import SKETCHED, AdapterRefused
from tests.fixtures_engine import edit_adapter, make_adapter
from workers.training.inspection import as_json, build_message, inspect_adapter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.protocol import AdapterRef

WEIGHTS = "adapter_model.safetensors"


def rewrite(source: AdapterRef, folder: Path, change: Callable[[str, Any], Any], **config: Any) -> Path:
    """A copy of an adapter with other tensors, and other words in its configuration."""
    from pathlib import Path
    from shutil import copytree

    copytree(source.path, folder)
    tensors = {name: change(name, weight) for name, weight in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)
    if config:
        edit_adapter(type(source)(source.digest, str(folder)), **config)
    return Path(folder)


@pytest.fixture
def original(tiny_base: Path, tmp_path: Path) -> AdapterRef:
    return make_adapter(tmp_path / "original", tiny_base)


def layers(folder: Path | str, base: Path) -> np.ndarray:
    from pathlib import Path

    return (
        np.frombuffer(inspect_adapter(base, Path(folder)).sketch, "<f2").astype(float).reshape(-1, SKETCHED)
    )


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float((one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum()))


def test_the_same_update_in_other_factors_has_the_same_sketch(
    original: AdapterRef, tiny_base: Path, tmp_path: Path
) -> None:
    def other_factors(name: str, weight: Any) -> Any:
        torch.manual_seed(5)
        mix = torch.linalg.qr(torch.randn(4, 4)).Q * 3
        return mix @ weight if "lora_A" in name else weight @ torch.linalg.inv(mix)

    def wider(name: str, weight: Any) -> Any:
        pad = torch.zeros_like(weight)
        return torch.cat([weight, pad], 0 if "lora_A" in name else 1)

    expected = layers(original.path, tiny_base)
    mixed = rewrite(original, tmp_path / "mixed", other_factors)
    padded = rewrite(original, tmp_path / "padded", wider, r=8, lora_alpha=16)
    half = rewrite(original, tmp_path / "half", lambda _, weight: weight, lora_alpha=4)
    for folder in (mixed, padded, half):
        assert cosine(layers(folder, tiny_base), expected) == pytest.approx(1, abs=1e-4)


def test_noise_leaves_a_copy_recognisable_and_another_adapter_is_not_like_it(
    original: AdapterRef, tiny_base: Path, tmp_path: Path
) -> None:
    def noisy(_: str, weight: Any) -> Any:
        torch.manual_seed(6)
        return weight + 0.1 * weight.std() * torch.randn_like(weight)

    expected = layers(original.path, tiny_base)
    assert cosine(layers(rewrite(original, tmp_path / "noisy", noisy), tiny_base), expected) > 0.95
    other = make_adapter(tmp_path / "other", tiny_base, seed=1)
    assert abs(cosine(layers(other.path, tiny_base), expected)) < 0.3


def test_statistics_are_those_of_the_whole_product(original: AdapterRef, tiny_base: Path) -> None:
    from pathlib import Path

    from transformers import AutoModelForCausalLM

    weights = load_file(Path(original.path) / WEIGHTS)
    base = AutoModelForCausalLM.from_pretrained(tiny_base).state_dict()
    norms, parts, kurtoses = [], [], []
    for name in sorted(name for name in weights if "lora_A" in name):
        product = 2 * weights[name.replace("lora_A", "lora_B")].double() @ weights[name].double()
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        values = torch.linalg.svdvals(product)
        norms.append(float(product.norm() / base[f"{module}.weight"].double().norm()))
        parts.append(float(values[0] ** 2 / values.square().sum()))
        centred = product - product.mean()
        kurtoses.append(float(centred.pow(4).mean() / centred.square().mean() ** 2))
    found = inspect_adapter(tiny_base, Path(original.path)).statistics
    assert found["norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert found["largest_norm"] == pytest.approx(max(norms), rel=1e-4)
    assert found["concentration"] == pytest.approx(np.mean(parts), rel=1e-4)
    assert found["kurtosis"] == pytest.approx(np.mean(kurtoses), rel=1e-4)
    assert 0 < found["entropy"] < 1


def test_an_update_that_leaves_nothing_of_the_base_is_refused(
    original: AdapterRef, tiny_base: Path, tmp_path: Path
) -> None:
    loud = rewrite(original, tmp_path / "loud", lambda _, weight: weight * 30)
    with pytest.raises(AdapterRefused, match="times the weights' norm") as refusal:
        inspect_adapter(tiny_base, loud)
    assert refusal.value.details == {"reason": "adapter_out_of_proportion"}


def test_the_process_sends_an_inspection_or_what_the_engine_refuses(
    original: AdapterRef, tiny_base: Path
) -> None:
    from pathlib import Path

    folder = Path(original.path)
    assert build_message(tiny_base, folder) == as_json(inspect_adapter(tiny_base, folder))
    (folder / "extra.bin").write_bytes(b"x")
    assert build_message(tiny_base, folder)["reason"] == "adapter_pickle"
