"""What this machine's processor can do, as its operating system tells."""

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


def this_cpu() -> Cpu:
    """Of the first core; nothing is known where there is no /proc/cpuinfo."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0]
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    features = fields.get("flags", fields.get("Features", ""))
    return Cpu(fields.get("vendor_id", ""), frozenset(features.split()))


def product_arithmetic(cpu: Cpu) -> Arithmetic | None:
    """How our own products of bfloat16 matrices should multiply on `cpu`; None where oneDNN's are faster.

    AMX multiplies in tiles, far faster than memory gives weights. Without it oneDNN uses AVX-512's
    instruction for pairs of bfloat16: Intel's cores run it at a quarter of the rate of fused multiply-adds,
    which take half as many products, so widened floats are twice as fast; AMD's run both at one rate. The
    rule goes by the vendor, not by a stopwatch, because the three round differently: a machine must not
    change its answers from one start to the next.
    """
    if "amx_bf16" in cpu.features:
        return "tiled"
    if "avx512f" not in cpu.features:
        return None
    is_paired = cpu.vendor == "AuthenticAMD" and "avx512_bf16" in cpu.features
    return "paired" if is_paired else "widened"
