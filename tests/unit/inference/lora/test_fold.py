"""Blocks against the plain way: each matrix by itself, scaled in fp32, rounded once."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from inference.errors import AdapterNotFiniteError
from inference.kernels.select import select_factor_reader
from inference.lora import block as block_module
from inference.lora.adapter import Adapter, AdapterLoader
from inference.lora.blend import build_blend
from inference.lora.block import reserve
from inference.lora.files import CONFIG_FILE, WEIGHTS_FILE, adapter_digest
from inference.model.families import read_architecture
from inference.model.loader import BaseWeights
from tests.fixtures_engine import ALL_LINEAR
from tests.support.adapters import pairs

if TYPE_CHECKING:
    from inference.config import KernelBackend
    from inference.model.architecture import Architecture

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
Linear = tuple[int, int, tuple[torch.dtype, torch.dtype]]  # rank, alpha, dtypes of A and B
LINEARS = st.tuples(
    st.integers(1, 3), st.sampled_from([2, 3, 7]), st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES))
)
KEYS = [(layer, linear) for layer in range(2) for linear in ALL_LINEAR]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    linears=st.dictionaries(st.sampled_from(KEYS), LINEARS, min_size=1),
    dtype=st.sampled_from(DTYPES),
    backend=st.sampled_from(["auto", "portable"]),
    num_blanks=st.integers(0, 3),
)
def test_it_equals_the_reference_bit_for_bit(
    linears: dict[tuple[int, str], Linear],
    dtype: torch.dtype,
    backend: KernelBackend,
    num_blanks: int,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any rank, alpha and number format for each matrix, and numbers anywhere in the file's words."""
    monkeypatch.setattr(block_module, "_MIN_MAPPED_BYTES", 8 * 1024)  # some adapters above it, some below
    torch.manual_seed(0)
    architecture = read_architecture(tiny_llama)
    tensors = write(tmp_path, architecture, linears, num_blanks)
    adapter = load(tmp_path, architecture, tiny_llama, dtype, backend)
    found = pairs(adapter)
    assert found.keys() == linears.keys()
    for (layer, linear), (rank, alpha, _) in linears.items():
        name = f"base_model.model.{architecture.linear_name(layer, linear)}"
        down, up = tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]
        assert torch.equal(found[layer, linear].shrink, down.to(dtype))
        assert torch.equal(found[layer, linear].expand, (up.float().T * (alpha / rank)).to(dtype))
    expands = [pair.expand.abs().amax() for pair in found.values()]
    assert adapter.peak == max(map(float, expands))
    assert adapter.num_bytes == sum(pair.shrink.nbytes + pair.expand.nbytes for pair in found.values())


def write(
    folder: Path, architecture: Architecture, linears: dict[tuple[int, str], Linear], num_blanks: int
) -> dict[str, torch.Tensor]:
    tensors, ranks, alphas = {}, {}, {}
    for (layer, linear), (rank, alpha, dtypes) in linears.items():
        module = architecture.linear_name(layer, linear)
        in_features, out_features = architecture.linear_shape(linear)
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, in_features).to(dtypes[0])
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(out_features, rank).to(dtypes[1])
        ranks[module], alphas[module] = rank, alpha
    content = save(tensors)
    (length,) = struct.unpack_from("<Q", content)
    header = content[8 : 8 + length] + b" " * num_blanks
    (folder / WEIGHTS_FILE).write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    config = {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return tensors


def load(
    folder: Path, architecture: Architecture, model: Path, dtype: torch.dtype, backend: KernelBackend = "auto"
) -> Adapter:
    base = BaseWeights.open(model, architecture, dtype)
    loader = AdapterLoader(base, "b" * 64, 8, select_factor_reader(backend, dtype))
    return loader.load(folder, adapter_digest(folder))


def test_like_layers_are_one_block_in_one_stretch_of_memory(tiny_llama: Path, tmp_path: Path) -> None:
    architecture = read_architecture(tiny_llama)
    formats = (torch.bfloat16, torch.bfloat16)
    linears = {(layer, linear): (2 + (linear == "o_proj" and layer), 2, formats) for layer, linear in KEYS}
    write(tmp_path, architecture, linears, 0)
    adapter = load(tmp_path, architecture, tiny_llama, torch.bfloat16)
    assert {(block.linear, block.layers, block.rank) for block in adapter.blocks} == {
        *((linear, range(2), 2) for linear in ALL_LINEAR if linear != "o_proj"),
        ("o_proj", range(1), 2),
        ("o_proj", range(1, 2), 3),
    }
    sides = [side for block in adapter.blocks for side in (block.shrink, block.expand)]
    assert len({side.untyped_storage().data_ptr() for side in sides}) == 1
    assert sides[0].untyped_storage().nbytes() == adapter.num_bytes


def test_an_engine_in_int8_rounds_each_row_by_its_own_largest_value(tiny_llama: Path, tmp_path: Path) -> None:
    architecture = read_architecture(tiny_llama)
    formats = (torch.bfloat16, torch.float32)
    write(tmp_path, architecture, dict.fromkeys(KEYS, (3, 2, formats)), 0)
    exact = pairs(load(tmp_path, architecture, tiny_llama, torch.float32))
    base = BaseWeights.open(tiny_llama, architecture, torch.float32, "int8")
    adapter = AdapterLoader(base, "b" * 64, 8).load(tmp_path, adapter_digest(tmp_path))
    for block in adapter.blocks:
        assert {block.shrink.dtype, block.expand.dtype} == {torch.int8}
        assert block.scales is not None
        for index, key in enumerate(block.keys):
            pair = exact[key]
            shrink_step, expand_step = (side.abs().amax(1, keepdim=True) / 127 for side in pair[:2])
            torch.testing.assert_close(block.scales[index].unsqueeze(1), shrink_step * expand_step)
            assert ((block.shrink[index] * shrink_step - pair.shrink).abs() <= shrink_step * 0.501).all()
            assert ((block.expand[index] * expand_step - pair.expand).abs() <= expand_step * 0.501).all()
    numbers = sum(pair.shrink.numel() + pair.expand.numel() for pair in exact.values())
    assert adapter.num_bytes == numbers + 3 * len(KEYS) * 4


def test_factors_whose_scales_overflow_in_int8_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    """Each factor is finite in fp32, as the product of their largest values over 127 squared is not."""
    architecture = read_architecture(tiny_llama)
    formats = (torch.float32, torch.float32)
    tensors = write(tmp_path, architecture, dict.fromkeys(KEYS, (2, 2, formats)), 0)
    base = BaseWeights.open(tiny_llama, architecture, torch.float32, "int8")

    def load_with(largest: float) -> Adapter:
        """Of A and B of one linear layer."""
        names = [
            f"base_model.model.{architecture.linear_name(1, 'v_proj')}.{side}.weight"
            for side in ("lora_A", "lora_B")
        ]
        changed = {name: tensors[name] / tensors[name].abs().amax() * largest for name in names}
        save_file(tensors | changed, tmp_path / WEIGHTS_FILE)
        return AdapterLoader(base, "b" * 64, 8).load(tmp_path, adapter_digest(tmp_path))

    adapter = load_with(2e21)
    assert adapter.peak == pytest.approx((2e21 / 127) ** 2)
    assert build_blend("d", [(adapter, 1.0), (adapter, -1.3)], 8, torch.float32)
    with pytest.raises(AdapterNotFiniteError, match=r"weight -1\.5"):
        build_blend("d", [(adapter, 1.0), (adapter, -1.5)], 8, torch.float32)
    with pytest.raises(AdapterNotFiniteError, match=r"layers\.1\..*v_proj"):
        load_with(3e21)


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_memory_of_a_large_tensor_is_returned_at_once() -> None:
    """Malloc would keep it: what was allocated later lies above."""
    tensors = [reserve((2**20,), torch.bfloat16) for _ in range(32)]
    for tensor in tensors:
        tensor.fill_(1.0)
    before = resident_pages()
    del tensors[:-1], tensor
    assert before - resident_pages() > 31 * 2**21 // 4096 - 512
