"""What an adapter does to the base model's weights, in numbers that do not depend on how it is written.

An update is s B A. Other factors of the same product, a larger rank with zeros, or alpha in place of B's
scale are the same update, so everything here is of the product, though no product is ever made. DoRA's
magnitudes are left out: they scale rows of weight and update together.

The sketch of a layer is L^T (s B A) R with random signs L and R: the dot product of two sketches is that of
the two updates, in expectation (Johnson and Lindenstrauss 1984). The statistics are those of Puertolas
Merenciano et al., "Weight space Detection of Backdoors in LoRA Adapters", 2026, over all layers.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from backend.domain.screening import SKETCHED, AdapterRefused
from inference.model.architecture import PARENT_BY_LINEAR

if TYPE_CHECKING:
    from torch import Tensor

    from inference.lora.adapter import Adapter
    from inference.model.loader import BaseWeights

SEED = 20_261_127
MAX_NORM = 4.0
"""An update that is larger than this many times the weights that it is added to, in any layer, is refused:
nothing is left of the base model there.
"""
MAX_ROWS = 256
"""Of a layer's update, evenly chosen, that kurtosis is taken of."""
_SIDE = math.isqrt(SKETCHED)


def spectrum(adapter: Adapter, base: BaseWeights) -> tuple[bytes, dict[str, float]]:
    """(sketch, statistics) as in `backend.domain.screening.Inspection`.

    Errors: `AdapterRefused` for an update out of all proportion.
    """
    architecture = base.architecture
    places = [(layer, linear) for layer in range(architecture.num_layers) for linear in PARENT_BY_LINEAR]
    sketches = torch.zeros(len(places), SKETCHED, dtype=torch.float64)
    found: list[dict[str, float]] = []
    for block in adapter.blocks:
        for index, (layer, linear) in enumerate(block.keys):
            down, up = block.shrink[index].double(), block.expand[index].double()
            name = architecture.linear_name(layer, linear)
            sketches[places.index((layer, linear))] = _sketch(name, down, up).flatten()
            one = _statistics(down, up, float(base.checkpoint_weight(layer, linear).double().norm()))
            if one["norm"] > MAX_NORM:
                raise AdapterRefused(
                    f"{name}: the update is {one['norm']:.1f} times the weights that it is added to, at most "
                    f"{MAX_NORM:g} are listed; lower alpha or the learning rate",
                    details={"reason": "adapter_out_of_proportion"},
                )
            found.append(one)
    return _packed(sketches), _summary(found)


def _sketch(name: str, down: Tensor, up: Tensor) -> Tensor:
    """[_SIDE, _SIDE] of one layer, from `down` [rank, in] and `up` [rank, out]."""
    return (up @ _signs(f"{name}:out", up.shape[1])).T @ (down @ _signs(f"{name}:in", down.shape[1])) / _SIDE


def _signs(name: str, size: int) -> Tensor:
    """[size, _SIDE] of 1 and -1, by Philox from the seed and the name."""
    key = int.from_bytes(hashlib.sha256(f"{SEED}:{name}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key).random_raw(size)
    bits = (raw[:, None] >> np.arange(_SIDE, dtype=np.uint64)) & np.uint64(1)
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float64))


def _statistics(down: Tensor, up: Tensor, weight_norm: float) -> dict[str, float]:
    """Of one layer. The singular values of up^T down are those of the product of both triangles."""
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
    """3 for numbers of a normal distribution."""
    centred = values - values.mean()
    variance = float(centred.square().mean())
    return float(centred.pow(4).mean()) / variance**2 if variance > 0 else 0.0


def _summary(found: list[dict[str, float]]) -> dict[str, float]:
    """Means over the layers that have an update at all, and the largest norm."""
    alive = [one for one in found if one["norm"] > 0]
    names = ("norm", "concentration", "entropy", "kurtosis")
    means = {name: sum(one[name] for one in alive) / max(len(alive), 1) for name in names}
    return {**means, "largest_norm": max((one["norm"] for one in found), default=0.0)}


def _packed(sketches: Tensor) -> bytes:
    """As float16, the largest being one: the length of an update is in the statistics."""
    peak = float(sketches.abs().max())
    return (sketches / peak if peak else sketches).numpy().astype("<f2").tobytes()
