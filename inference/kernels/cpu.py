"""Detects the CPU's features, and selects the arithmetic of matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

Arithmetic = Literal["widened", "paired", "tiled"]


@dataclass(frozen=True, slots=True)
class Cpu:
    vendor: str
    features: AbstractSet[str]

    def without_tiles(self) -> Cpu:
        """The CPU as a program sees it to which the system refuses AMX's tile registers."""
        return Cpu(self.vendor, frozenset(each for each in self.features if not each.startswith("amx")))


def this_cpu() -> Cpu:
    """Features of the first core, read from /proc/cpuinfo; empty without it."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    features = fields.get("flags", fields.get("Features", ""))
    return Cpu(fields.get("vendor_id", ""), frozenset(features.split()))


def product_arithmetic(cpu: Cpu) -> Arithmetic | None:
    """The arithmetic of the native products of bfloat16 matrices on `cpu`; None where oneDNN's products are
    faster.

    AMX multiplies tiles far faster than memory delivers weights. Without it, oneDNN uses AVX-512's
    instruction for pairs of bfloat16. Intel's cores run that at a quarter of the rate of fused
    multiply-adds, which compute half as many products, so widened floats are twice as fast; AMD's cores run
    both at the same rate. With AVX2 alone oneDNN has no products of bfloat16. The rule depends on the vendor
    and not on a measurement, because the three round differently: a machine must not change its answers
    between starts.
    """
    if "amx_bf16" in cpu.features:
        return "tiled"
    if "avx512f" not in cpu.features:
        return "widened" if {"avx2", "fma"} <= cpu.features else None
    is_paired = cpu.vendor == "AuthenticAMD" and "avx512_bf16" in cpu.features
    return "paired" if is_paired else "widened"


def has_int8_products(cpu: Cpu) -> bool:
    """Whether `cpu` multiplies integers of 8 bits by instructions that int8.h uses."""
    if "avx512f" not in cpu.features:
        return {"avx2", "fma"} <= cpu.features
    needed = {"avx512_vnni"} | ({"amx_int8"} if "amx_bf16" in cpu.features else set())
    return needed <= cpu.features
