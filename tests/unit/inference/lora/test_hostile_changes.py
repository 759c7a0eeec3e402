"""Folders that change while they are looked at, and bytes that were flipped: never is anything loaded that is
not what its digest says.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from inference import errors
from inference.lora import adapter as adapter_module
from inference.lora import files
from inference.lora.adapter import Adapter, load_adapter
from inference.lora.files import CONFIG_FILE, WEIGHTS_FILE, adapter_digest
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from inference.protocol import AdapterRef
from tests.fixtures_engine import edit_adapter, greedy, make_adapter, read_tensors, rewrite_tensors, run_all
from tests.support.adapters import pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine import Engine

FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=6)


@pytest.fixture(scope="module", params=["plain", "dora"])
def good(
    request: pytest.FixtureRequest, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> AdapterRef:
    folder = tmp_path_factory.mktemp("good") / "a"
    return make_adapter(folder, tiny_llama, targets=("q_proj", "down_proj"), use_dora=request.param == "dora")


@pytest.fixture
def ref(good: AdapterRef, tmp_path: Path) -> AdapterRef:
    """A copy that the test may corrupt."""
    return AdapterRef(good.digest, str(shutil.copytree(good.path, tmp_path / "copy")))


@pytest.fixture(scope="module")
def load(tiny_llama: Path) -> Callable[..., Adapter]:
    base = BaseWeights.open(tiny_llama, read_architecture(tiny_llama), torch.float32)
    return lambda ref, max_bytes=None: load_adapter(Path(ref.path), ref.digest, base, "b" * 64, 32, max_bytes)


def flip(content: bytes, flips: list[tuple[float, int]]) -> bytes:
    corrupted = bytearray(content)
    for place, bit in flips:
        corrupted[int(place * len(corrupted))] ^= 1 << bit
    return bytes(corrupted)


def same(one: Adapter, other: Adapter) -> bool:
    others = pairs(other)
    return one.digest == other.digest and all(
        torch.equal(pair.shrink, others[key].shrink) and torch.equal(pair.expand, others[key].expand)
        for key, pair in pairs(one).items()
    )


def check_is_what_its_file_says(adapter: Adapter, folder: Path) -> None:
    """Against another reader of the same format, and the configuration as plain JSON."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    tensors = load_tensors((folder / WEIGHTS_FILE).read_bytes())
    assert len(tensors) == len(pairs(adapter)) * (3 if config["use_dora"] else 2)
    for (layer, linear), pair in pairs(adapter).items():
        parent = "mlp" if linear == "down_proj" else "self_attn"
        prefix = f"base_model.model.model.layers.{layer}.{parent}.{linear}"
        rank = len(pair.shrink)
        scaling = config["lora_alpha"] / (rank**0.5 if config["use_rslora"] else rank)
        torch.testing.assert_close(pair.shrink, tensors[f"{prefix}.lora_A.weight"].float(), rtol=0, atol=0)
        expand = tensors[f"{prefix}.lora_B.weight"].float().T * scaling
        torch.testing.assert_close(pair.expand, expand, rtol=1e-6, atol=0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([CONFIG_FILE, WEIGHTS_FILE]), flips=FLIPS)
def test_flipped_bytes_under_the_old_digest_are_refused_or_mean_the_same(
    name: str, flips: list[tuple[float, int]], good: AdapterRef, ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    original = (Path(good.path) / name).read_bytes()
    (Path(ref.path) / name).write_bytes(flip(original, flips))
    try:
        adapter = load(ref)
    except errors.AdapterError:
        return
    finally:
        (Path(ref.path) / name).write_bytes(original)
    assert same(adapter, load(good))  # two flips undid each other, or one only touched a blank


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([CONFIG_FILE, WEIGHTS_FILE]), flips=FLIPS, in_front=st.booleans())
def test_flipped_bytes_under_their_own_digest_are_refused_or_are_what_they_say(
    name: str,
    flips: list[tuple[float, int]],
    in_front: bool,
    good: AdapterRef,
    ref: AdapterRef,
    load: Callable[..., Adapter],
) -> None:
    """`in_front`: in the first two thousandths, where lengths and the header are."""
    folder = Path(ref.path)
    original = (Path(good.path) / name).read_bytes()
    chosen = [(place / 50, bit) for place, bit in flips] if in_front else flips
    (folder / name).write_bytes(flip(original, chosen))
    try:
        digest = adapter_digest(folder)
        adapter = load(AdapterRef(digest, ref.path))
        assert adapter.digest == digest
        check_is_what_its_file_says(adapter, folder)
    except errors.AdapterError:
        pass
    finally:
        (folder / name).write_bytes(original)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), length=st.integers(0, 80))
def test_any_header_is_refused_or_read_as_the_format_says(
    text: bytes, length: int, ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    content = length.to_bytes(8, "little") + text
    (Path(ref.path) / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(errors.AdapterError):
        load(AdapterRef(adapter_digest(Path(ref.path)), ref.path))
    with pytest.raises(SafetensorError):
        load_tensors(content)


def test_a_folder_changed_after_its_digest_was_taken(ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    rewrite_tensors(ref, {name: tensor * 2 for name, tensor in read_tensors(ref).items()})
    with pytest.raises(errors.AdapterDigestMismatchError):
        load(ref)


def test_a_configuration_changed_after_its_digest_was_taken(
    ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    edit_adapter(ref, lora_alpha=1000)
    with pytest.raises(errors.AdapterDigestMismatchError):
        load(ref)


@pytest.mark.parametrize("change", [-8, 8])
def test_a_file_that_changes_its_length_while_it_is_read(
    change: int, ref: AdapterRef, load: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(ref.path) / WEIGHTS_FILE
    size, num_seen = path.stat().st_size, 0

    def fstat(descriptor: int) -> os.stat_result:
        nonlocal num_seen
        status = os.stat(descriptor)
        num_seen += status.st_size == size
        if num_seen == 3:  # its head was looked at, it was opened, and now its length is taken
            os.truncate(path, size + change)
        return status

    monkeypatch.setattr(files, "os", type("Os", (), {**vars(os), "fstat": staticmethod(fstat)}))
    with pytest.raises(errors.AdapterChangedError) as refusal:
        load(ref)
    assert refusal.value.is_retryable


def test_a_file_that_grew_since_room_was_made_for_it(ref: AdapterRef, load: Callable[..., Adapter]) -> None:
    size = (Path(ref.path) / WEIGHTS_FILE).stat().st_size
    with pytest.raises(errors.AdapterTooLargeError):
        load(ref, max_bytes=size - 1)


def test_a_write_between_reading_and_use_has_no_effect(
    good: AdapterRef, ref: AdapterRef, load: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_then_replace(folder: Path, *of_the_loader: Any) -> files.AdapterFiles:
        content = files.read_adapter_files(folder, *of_the_loader)
        (folder / WEIGHTS_FILE).write_bytes(b"replaced")
        return content

    monkeypatch.setattr(adapter_module, "read_adapter_files", read_then_replace)
    loaded = load(ref)
    monkeypatch.undo()
    assert same(loaded, load(good))


def test_no_path_that_a_configuration_names_is_ever_opened(
    ref: AdapterRef, load: Callable[..., Adapter]
) -> None:
    evil = edit_adapter(
        ref,
        base_model_name_or_path="../../../../etc/passwd",
        revision="/etc/hostname",
        task_type="../../evil",
        megatron_core="evil.module",
        auto_mapping={"base_model_class": "os.system", "parent_library": "transformers.nowhere"},
        target_modules=["../../../evil"],
    )
    load(evil)  # so that first imports and opened files do not count below
    seen: list[tuple[str, str]] = []
    is_watching = True

    def watch(event: str, args: tuple[object, ...]) -> None:
        if (
            is_watching
            and not isinstance(args[0], int)
            and event in {"open", "import", "exec", "subprocess.Popen", "os.system"}
        ):
            seen.append((event, str(args[0])))

    sys.addaudithook(watch)
    load(evil)
    is_watching = False
    assert {event for event, _ in seen} == {"open"}
    names = {Path(evil.path).name, CONFIG_FILE, WEIGHTS_FILE, "README.md"}
    assert {Path(name).name for _, name in seen} - {"model.safetensors"} <= names


def test_a_device_folder_is_no_adapter() -> None:
    with pytest.raises(errors.AdapterIrregularFileError):
        adapter_digest(Path("/dev"))


def test_the_engine_serves_on_after_a_hundred_bad_folders(
    good: AdapterRef, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(adapter_budget_bytes=200_000)
    expected = run_all(engine, greedy("g", adapter=good))["g"].token_ids
    weights = (Path(good.path) / WEIGHTS_FILE).read_bytes()
    commands = []
    for number in range(100):
        folder = Path(shutil.copytree(good.path, tmp_path / str(number)))
        (folder / WEIGHTS_FILE).write_bytes(flip(weights, [(number / 100, number % 8)]))
        commands.append(greedy(str(number), adapter=AdapterRef(f"{number:064x}", str(folder))))
    answers = run_all(engine, *commands, greedy("g", adapter=good))
    assert answers.pop("g").token_ids == expected
    assert len(answers) == 100
    assert all(isinstance(each.error, errors.AdapterError) for each in answers.values())
