"""Which arithmetic products of bfloat16 matrices get."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.kernels.cpu import Cpu, has_int8_products, product_arithmetic, this_cpu

AVX512 = frozenset({"avx2", "avx512f"})
PAIRS = AVX512 | {"avx512_bf16"}


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        (Cpu("AuthenticAMD", PAIRS), "paired"),
        (Cpu("AuthenticAMD", AVX512), "widened"),
        (Cpu("GenuineIntel", PAIRS), "widened"),
        (Cpu("GenuineIntel", PAIRS | {"amx_bf16"}), "tiled"),
        (Cpu("AuthenticAMD", frozenset({"avx2", "fma"})), "widened"),
        (Cpu("GenuineIntel", frozenset({"avx2"})), None),
        (Cpu("", frozenset()), None),
    ],
)
def test_the_fastest_of_each_kind(cpu: Cpu, expected: str | None) -> None:
    assert product_arithmetic(cpu) == expected


def test_products_in_8_bits_need_the_instructions_of_their_kernels() -> None:
    vnni = AVX512 | {"avx512_vnni"}
    assert has_int8_products(Cpu("AuthenticAMD", vnni))
    assert has_int8_products(Cpu("GenuineIntel", vnni | {"amx_bf16", "amx_int8"}))
    assert not has_int8_products(Cpu("GenuineIntel", vnni | {"amx_bf16"}))
    assert has_int8_products(Cpu("AuthenticAMD", frozenset({"avx2", "fma"})))
    assert not has_int8_products(Cpu("AuthenticAMD", PAIRS))
    assert not has_int8_products(Cpu("", frozenset()))


def test_without_tiles_the_other_instructions_remain() -> None:
    with_tiles = Cpu("GenuineIntel", PAIRS | {"amx_bf16", "amx_tile", "amx_int8"})
    assert with_tiles.without_tiles() == Cpu("GenuineIntel", PAIRS)


def test_this_one_is_read_from_the_system() -> None:
    text = Path("/proc/cpuinfo").read_text()
    cpu = this_cpu()
    assert cpu.features
    assert all(feature in text for feature in cpu.features)
    assert cpu.vendor in text


def test_a_system_without_cpu_information_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: (_ for _ in ()).throw(FileNotFoundError()))
    assert this_cpu() == Cpu("", frozenset())
