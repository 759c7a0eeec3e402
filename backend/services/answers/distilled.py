"""Distilled attribution: a linear map from the vectors that serving an answer yields to the scores of its
gradient (docs/attribution.md). Training fits the map on these features, and serving applies it to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class LinearMap:
    """Scores of n contributions from the features of an answer."""

    weights: Any  # float32 [n, features]
    bias: Any  # float32 [n]

    def scores(self, features: NDArray[Any]) -> NDArray[Any]:
        """Scores [n] fp64 of `features` [features]. In fp64 no product of finite fp32 numbers overflows."""
        import numpy as np

        found: NDArray[Any] = self.weights.astype(np.float64) @ features.astype(np.float64) + self.bias
        return found

    @property
    def num_bytes(self) -> int:
        return int(self.weights.nbytes + self.bias.nbytes)


def distilled_features(hidden: ArrayLike, error: ArrayLike) -> NDArray[Any]:
    """Features [..., 2 * size] fp32 of answers with mean hidden states and error vectors [..., size]."""
    import numpy as np

    return np.concatenate((np.asarray(hidden, dtype=np.float32), error_features(error)), axis=-1)


def error_features(error: ArrayLike) -> NDArray[Any]:
    """Features [..., size] fp32 of answers with error vectors [..., size]."""
    import numpy as np

    return np.asarray(error, dtype=np.float32)
