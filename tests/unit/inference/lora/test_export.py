from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from inference.errors import AdapterUnsupportedError
from inference.lora.adapter import AdapterLoader
from inference.lora.blend import Blend, build_blend, single_blend
from inference.lora.export import PARTS_KEY, export_blend, is_exported
from inference.lora.files import adapter_digest
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from tests.support.adapters import pairs
from tests.support.parity import make_kinds

if TYPE_CHECKING:
    from inference.lora.adapter import Adapter
    from inference.protocol import AdapterRef

NAMES = ["plain", "rslora", "rank pattern", "both patterns", "one layer", "dora"]


@pytest.fixture(scope="module")
def kinds(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterRef]:
    return make_kinds(tmp_path_factory.mktemp("kinds"), tiny_llama, NAMES)


@pytest.fixture(scope="module")
def loader(tiny_llama: Path) -> AdapterLoader:
    base = BaseWeights.open(tiny_llama, read_architecture(tiny_llama), torch.float32)
    return AdapterLoader(base, "0" * 64, 32)


def load(loader: AdapterLoader, ref: AdapterRef) -> Adapter:
    return loader.load(Path(ref.path), ref.digest)


def exported(loader: AdapterLoader, blend: Blend, folder: Path, model: Path) -> Adapter:
    """The blend, read again from what was written."""
    export_blend(blend, read_architecture(model), folder, "base")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    # Our own loader refuses keys that it does not know.
    assert config.pop(PARTS_KEY) == [adapter.digest for adapter, _ in blend.parts]
    path.write_text(json.dumps(config))
    return loader.load(folder, adapter_digest(folder))


@pytest.mark.parametrize("name", NAMES[:-1])
def test_an_exported_adapter_has_the_same_deltas(
    name: str, kinds: dict[str, AdapterRef], loader: AdapterLoader, tiny_llama: Path, tmp_path: Path
) -> None:
    adapter = load(loader, kinds[name])
    before = pairs(adapter)
    after = pairs(exported(loader, single_blend(adapter), tmp_path / "x", tiny_llama))
    assert before.keys() == after.keys()
    for key, pair in before.items():
        rank = len(pair.shrink)
        torch.testing.assert_close(after[key].shrink[:rank], pair.shrink)
        torch.testing.assert_close(after[key].expand[:rank], pair.expand)


def test_an_exported_blend_is_the_weighted_sum(
    kinds: dict[str, AdapterRef], loader: AdapterLoader, tiny_llama: Path, tmp_path: Path
) -> None:
    parts = [(load(loader, kinds["plain"]), 0.5), (load(loader, kinds["one layer"]), -2.0)]
    blend = build_blend("d", parts, 32, torch.float32)
    found = pairs(exported(loader, blend, tmp_path / "x", tiny_llama))
    for key, pair in found.items():
        expected = sum(
            weight * (part[key].shrink.T @ part[key].expand)
            for adapter, weight in parts
            if key in (part := pairs(adapter))
        )
        torch.testing.assert_close(pair.shrink.T @ pair.expand, expected)


def test_a_folder_for_another_base_is_replaced(
    kinds: dict[str, AdapterRef], loader: AdapterLoader, tiny_llama: Path, tmp_path: Path
) -> None:
    blend, architecture = single_blend(load(loader, kinds["plain"])), read_architecture(tiny_llama)
    folder = tmp_path / "cache" / "d"
    assert not is_exported(folder, "first")
    export_blend(blend, architecture, folder, "first")
    assert is_exported(folder, "first")
    assert not is_exported(folder, "second")
    export_blend(blend, architecture, folder, "second")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "second"
    assert [path.name for path in folder.parent.iterdir()] == ["d"]
    for foreign in ("{}", "[]"):
        (folder / "adapter_config.json").write_text(foreign)
        assert not is_exported(folder, "second")


def test_dora_is_refused(
    kinds: dict[str, AdapterRef], loader: AdapterLoader, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterUnsupportedError, match="DoRA"):
        exported(loader, single_blend(load(loader, kinds["dora"])), tmp_path / "x", tiny_llama)
    assert not list(tmp_path.iterdir())
