"""Sketch and statistics of an adapter's weight update, independent of its factorisation.

The update of a layer is s B A. Other factors of the same product, a larger rank padded with zeros, or another
alpha with B rescaled give the same update, so everything here is a function of the product, which is never
materialised. DoRA's magnitudes are left out: they scale rows of weight and update together.

The sketch of a layer is L^T (s B A) R with random signs L and R. Dot products of sketches equal those of the
updates in expectation (Johnson and Lindenstrauss 1984). The statistics are those of Puertolas Merenciano et
al., "Weight space Detection of Backdoors in LoRA Adapters", 2026, over all layers.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.domain.screening import SKETCHED, AdapterRefused
from inference.model.architecture import OUTER

if TYPE_CHECKING:
    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.model.loader import BaseWeights

SEED = 20_261_127
MAX_NORM = 4.0
"""Largest norm of an update relative to the weights of its layer. A larger one would replace the base model
there and is refused.
"""
MAX_ROWS = 256
"""Evenly spaced rows of a layer's update from which kurtosis is computed."""
_SIDE = math.isqrt(SKETCHED)


def measure_update(adapter: Adapter, base: BaseWeights) -> tuple[bytes, dict[str, float]]:
    """(sketch, statistics) as in `backend.domain.screening.Inspection`.

    Errors: `AdapterRefused` for an update larger than `MAX_NORM`.
    """
    architecture = base.architecture
    if any(block.linear in OUTER for block in adapter.blocks):
        raise AdapterRefused(
            "updates of embeddings or head cannot be screened; train the adapter on linear layers only",
            details={"reason": "adapter_target"},
        )
    modules = architecture.linear_keys
    sketches = torch.zeros(len(modules), SKETCHED, dtype=torch.float64)
    statistics: list[dict[str, float]] = []
    for block in adapter.blocks:
        for index, (layer, linear) in enumerate(block.keys):
            down, up = block.shrink[index].double(), block.expand[index].double()
            name = architecture.linear_name(layer, linear)
            sketches[modules.index((layer, linear))] = _sketch(name, down, up).flatten()
            measured = _statistics(down, up, float(base.checkpoint_weight(layer, linear).double().norm()))
            if measured["norm"] > MAX_NORM:
                raise AdapterRefused(
                    f"{name}: the norm of the update is {measured['norm']:.1f} times the weights' norm, "
                    f"more than {MAX_NORM:g}; lower alpha or the learning rate",
                    details={"reason": "adapter_out_of_proportion"},
                )
            statistics.append(measured)
    return _pack(sketches), _summary(statistics)


def _sketch(name: str, down: Tensor, up: Tensor) -> Tensor:
    """Sketch of one layer [_SIDE, _SIDE], from `down` [rank, in] and `up` [rank, out]."""
    return (up @ _signs(f"{name}:out", up.shape[1])).T @ (down @ _signs(f"{name}:in", down.shape[1])) / _SIDE


def _signs(name: str, size: int) -> Tensor:
    """Random 1 and -1 [size, _SIDE], by Philox from the seed and the name."""
    key = int.from_bytes(hashlib.sha256(f"{SEED}:{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(size)
    bits = (raw[:, None] >> np.arange(_SIDE, dtype=np.uint64)) & np.uint64(1)
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float64))


def _statistics(down: Tensor, up: Tensor, weight_norm: float) -> dict[str, float]:
    """Statistics of one layer's update. Its singular values are those of the product of both R factors."""
    values = torch.linalg.svdvals(torch.linalg.qr(up.T).R @ torch.linalg.qr(down.T).R.T)
    energy = values.square()
    total = float(energy.sum())
    if total == 0:
        return {"norm": 0.0}
    parts = energy / total
    entropy = -float(torch.special.xlogy(parts, parts).sum()) / math.log(max(len(values), 2))
    return {
        "norm": math.sqrt(total) / max(weight_norm, 1e-12),
        "concentration": float(parts[0]),
        "entropy": entropy,
        "kurtosis": _kurtosis(up[:, :: -(-up.shape[1] // MAX_ROWS)].T @ down),
    }


def _kurtosis(values: Tensor) -> float:
    """Kurtosis; 3 for a normal distribution."""
    centred = values - values.mean()
    variance = float(centred.square().mean())
    return float(centred.pow(4).mean()) / variance**2 if variance > 0 else 0.0


def _summary(statistics: list[dict[str, float]]) -> dict[str, float]:
    """Means over the layers with a non-zero update, and the largest norm."""
    updated = [one for one in statistics if one["norm"] > 0]
    names = ("norm", "concentration", "entropy", "kurtosis")
    means = {name: sum(one[name] for one in updated) / max(len(updated), 1) for name in names}
    return {**means, "largest_norm": max((one["norm"] for one in statistics), default=0.0)}


def _pack(sketches: Tensor) -> bytes:
    """Convert to float16, scaled to a maximum of one: the statistics have the norm."""
    peak = float(sketches.abs().max())
    return (sketches / peak if peak else sketches).numpy().astype("<f2").tobytes()
