"""Every adapter that the engine cannot serve exactly is refused by an error of its own."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from inference import errors
from inference.lora.adapter import Adapter, AdapterLoader, load_adapter
from inference.lora.files import WEIGHTS_FILE, adapter_digest
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from inference.protocol import AdapterRef
from tests.fixtures_engine import edit_adapter, make_adapter, make_model, read_tensors, rewrite_tensors
from tests.support.adapters import pairs

if TYPE_CHECKING:
    from collections.abc import Callable

BASE_DIGEST = "b" * 64
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def original(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterRef:
    return make_adapter(
        tmp_path_factory.mktemp("adapter") / "a", tiny_llama, rank=4, targets=("q_proj", "down_proj")
    )


@pytest.fixture
def ref(original: AdapterRef, tmp_path: Path) -> AdapterRef:
    """A copy that the test may corrupt."""
    shutil.copytree(original.path, tmp_path / "copy")
    return AdapterRef(original.digest, str(tmp_path / "copy"))


@pytest.fixture
def load(tiny_llama: Path) -> Callable[..., Adapter]:
    architecture = read_architecture(tiny_llama)

    def load(ref: AdapterRef, max_rank: int = 8, dtype: torch.dtype = torch.float32) -> Adapter:
        base = BaseWeights.open(tiny_llama, architecture, dtype)
        return load_adapter(Path(ref.path), ref.digest, base, BASE_DIGEST, max_rank)

    return load


def test_a_good_adapter_is_read_with_its_scaling_folded_in(
    ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    adapter, tensors = load(ref), read_tensors(ref)
    assert set(pairs(adapter)) == {(layer, name) for layer in range(2) for name in ("q_proj", "down_proj")}
    pair = pairs(adapter)[0, "q_proj"]
    torch.testing.assert_close(pair.shrink, tensors[f"{Q_PROJ}.lora_A.weight"])
    torch.testing.assert_close(pair.expand, tensors[f"{Q_PROJ}.lora_B.weight"].T * 2.0)
    assert [block.rank for block in adapter.blocks] == [4, 4]
    assert adapter.num_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_adapters_of_a_layout_that_is_known_are_read_and_refused_as_the_first_one(
    tiny_llama: Path, original: AdapterRef, tmp_path: Path
) -> None:
    """Numbers, scaling, faults and sizes are each one's own."""
    loader = AdapterLoader(
        BaseWeights.open(tiny_llama, read_architecture(tiny_llama), torch.float32), BASE_DIGEST, 8
    )

    def load(ref: AdapterRef) -> Adapter:
        return loader.load(Path(ref.path), ref.digest)

    def changed(name: str, factor: float) -> AdapterRef:
        shutil.copytree(original.path, tmp_path / name)
        copy = AdapterRef(original.digest, str(tmp_path / name))
        return rewrite_tensors(copy, {key: value * factor for key, value in read_tensors(copy).items()})

    first, doubled = pairs(load(original)), pairs(load(changed("doubled", 2.0)))
    for key, pair in first.items():
        torch.testing.assert_close(doubled[key].shrink, pair.shrink * 2)
        torch.testing.assert_close(doubled[key].expand, pair.expand * 2)
    rescaled = pairs(load(edit_adapter(changed("rescaled", 1.0), lora_alpha=4)))
    torch.testing.assert_close(rescaled[0, "q_proj"].expand, first[0, "q_proj"].expand / 2)
    with pytest.raises(errors.AdapterNotFiniteError):
        load(changed("endless", math.inf))
    longer = changed("longer", 1.0)
    with (Path(longer.path) / WEIGHTS_FILE).open("ab") as file:
        file.write(b"more")
    with pytest.raises(errors.AdapterHeaderError):
        load(AdapterRef(adapter_digest(Path(longer.path)), longer.path))


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"use_dora": True}, errors.AdapterShapeError),
        ({"use_dora": "yes"}, errors.AdapterConfigError),
        ({"use_rslora": 1}, errors.AdapterConfigError),
        ({"peft_type": "IA3"}, errors.AdapterUnsupportedError),
        ({"fan_in_fan_out": True}, errors.AdapterUnsupportedError),
        ({"rank_pattern": [4]}, errors.AdapterConfigError),
        ({"rank_pattern": {"(a+)+": 4}}, errors.AdapterPatternError),
        ({"rank_pattern": {"\\": 4}}, errors.AdapterPatternError),
        ({"rank_pattern": {f"x{i}": 4 for i in range(17)}}, errors.AdapterPatternError),
        ({"alpha_pattern": {f"x{i}": 4 for i in range(17)}}, errors.AdapterPatternError),
        ({"rank_pattern": {"q_proj": 0}}, errors.AdapterRankError),
        ({"use_later_invention": True}, errors.AdapterUnsupportedError),
        ({"init_lora_weights": "pissa_niter_4"}, errors.AdapterUnsupportedError),
        ({"target_parameters": ["q_proj.weight"]}, errors.AdapterUnsupportedError),
        ({"bias": "all"}, errors.AdapterBiasError),
        ({"lora_bias": True}, errors.AdapterBiasError),
        ({"modules_to_save": ["lm_head"]}, errors.AdapterModulesToSaveError),
        ({"base_model_digest": "c" * 64}, errors.AdapterWrongBaseError),
        ({"r": 5}, errors.AdapterShapeError),
        ({"r": "4"}, errors.AdapterRankError),
        ({"r": 0}, errors.AdapterRankError),
        ({"lora_alpha": None}, errors.AdapterConfigError),
        ({"lora_alpha": 10**400}, errors.AdapterConfigError),
        ({"lora_alpha": 1e300}, errors.AdapterNotFiniteError),
    ],
)
def test_what_the_configuration_asks_for_and_cannot_have(
    config: dict[str, object], error: type[Exception], ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    with pytest.raises(error):
        load(edit_adapter(ref, **config))


def test_the_declared_base_is_accepted_when_it_is_ours(ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    load(edit_adapter(ref, base_model_digest=BASE_DIGEST))


@pytest.mark.parametrize("name", ["adapter_model.bin", "training_args.BIN", "x.pt", "x.pkl"])
def test_a_pickle_anywhere_in_the_folder_is_refused(
    name: str, ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    (Path(ref.path) / name).write_bytes(b"\x80\x04.")
    with pytest.raises(errors.AdapterPickleError, match=name):
        load(ref)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(name: str, ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    (Path(ref.path) / name).unlink()
    with pytest.raises(errors.AdapterFileMissingError, match=name):
        load(ref)


@pytest.mark.parametrize("keep", [0, 4, 60, -7])
def test_truncated_weights_are_refused(keep: int, ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    path = Path(ref.path) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(errors.AdapterCorruptError):
        load(AdapterRef(adapter_digest(Path(ref.path)), ref.path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"r": NaN}', "[" * 100_000, '"' + '\\"' * 400_000])
def test_a_broken_configuration_is_refused(text: str, ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    (Path(ref.path) / "adapter_config.json").write_text(text)
    with pytest.raises(errors.AdapterConfigError):
        load(ref)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(
    value: float, ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    tensors = read_tensors(ref)
    tensors[f"{Q_PROJ}.lora_B.weight"][3, 1] = value
    with pytest.raises(errors.AdapterNotFiniteError, match="q_proj"):
        load(rewrite_tensors(ref, tensors))


def test_values_that_overflow_in_the_engines_dtype_are_refused(
    ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    tensors = read_tensors(ref)
    tensors[f"{Q_PROJ}.lora_B.weight"][3, 1] = 60_000.0
    large = rewrite_tensors(ref, tensors)
    load(large)
    with pytest.raises(errors.AdapterNotFiniteError):
        load(large, dtype=torch.float16)


def test_weights_of_eight_bits_are_refused(ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    """They would grow more than the cache reserves for them."""
    tensors = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in read_tensors(ref).items()}
    with pytest.raises(errors.AdapterUnsupportedError, match="16 or 32 bits"):
        load(rewrite_tensors(ref, tensors))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", errors.AdapterShapeError),
        ("base_model.model.lm_head.lora_A.weight", errors.AdapterShapeError),
        ("base_model.model.lm_head.base_layer.weight", errors.AdapterModulesToSaveError),
        ("base_model.model.model.layers.0.mlp.q_proj.lora_A.weight", errors.AdapterTargetError),
        ("base_model.model.model.layers.0.input_layernorm.weight", errors.AdapterTargetError),
        (f"{Q_PROJ}.lora_B.bias", errors.AdapterBiasError),
        (f"{Q_PROJ}.lora_magnitude_vector", errors.AdapterShapeError),
        ("base_model.model.lm_head.modules_to_save.weight", errors.AdapterModulesToSaveError),
        ("base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", errors.AdapterWrongBaseError),
        ("base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight", errors.AdapterShapeError),
    ],
)
def test_tensors_that_do_not_belong_are_refused(
    name: str, error: type[Exception], ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    with pytest.raises(error):
        load(rewrite_tensors(ref, {**read_tensors(ref), name: torch.ones(4, 64)}))


def test_an_adapter_of_another_hidden_size_is_refused(tmp_path: Path, load: Callable[..., Adapter]) -> None:
    other = make_model(tmp_path / "model", hidden_size=32)
    with pytest.raises(errors.AdapterWrongBaseError, match="32"):
        load(make_adapter(tmp_path / "adapter", other))


def test_a_rank_over_the_limit_is_refused(ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    with pytest.raises(errors.AdapterRankError, match="limit of 3"):
        load(ref, max_rank=3)


def test_bytes_other_than_the_digests_are_refused(ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    with pytest.raises(errors.AdapterDigestMismatchError) as refusal:
        load(AdapterRef("0" * 64, ref.path))
    assert (refusal.value.expected, refusal.value.actual) == ("0" * 64, ref.digest)


def test_the_digest_is_what_its_documentation_says(ref: AdapterRef) -> None:
    folder = Path(ref.path)
    config = json.dumps(
        json.loads((folder / "adapter_config.json").read_text()),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    weights = (folder / "adapter_model.safetensors").read_bytes()
    parts = b"".join(hashlib.sha256(part).digest() for part in (config.encode(), weights))
    assert adapter_digest(folder) == hashlib.sha256(b"loraledger/adapter/v1\0" + parts).hexdigest()


def test_the_digest_ignores_layout_and_readme_but_no_value(ref: AdapterRef) -> None:
    folder = Path(ref.path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "README.md").write_text("hello")
    (folder / "adapter_config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert adapter_digest(folder) == ref.digest
    assert edit_adapter(ref, lora_alpha=9).digest != ref.digest
