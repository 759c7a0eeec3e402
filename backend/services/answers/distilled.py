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

    def rows(self, chosen: NDArray[Any]) -> LinearMap:
        """The map to the chosen contributions."""
        return LinearMap(self.weights[chosen], self.bias[chosen])

    @property
    def num_bytes(self) -> int:
        return int(self.weights.nbytes + self.bias.nbytes)


HIDDEN_WEIGHT = 2.0
"""Length of the hidden state's direction, that of the error vector being 1. Chosen by cross-validation
(docs/adr/0040-answers-are-attributed-by-distilled-maps.md).
"""


def distilled_features(hidden: ArrayLike, error: ArrayLike) -> NDArray[Any]:
    """Features [..., 2 * size] fp32 of answers with mean hidden states and error vectors [..., size]."""
    import numpy as np

    found: NDArray[Any] = np.concatenate((HIDDEN_WEIGHT * _unit(hidden), error_features(error)), axis=-1)
    return found.astype(np.float32)


def error_features(error: ArrayLike) -> NDArray[Any]:
    """Features [..., size] fp32 of answers with error vectors [..., size]."""
    return _unit(error)


def _unit(vectors: ArrayLike) -> NDArray[Any]:
    """`vectors` [..., size] with unit norm, in fp32; zeros remain. The size of a vector grows with the length
    of its answer and differs between base models; its direction does not.
    """
    import numpy as np

    given = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(given, axis=-1, keepdims=True)
    found: NDArray[Any] = np.divide(given, norms, out=np.zeros_like(given), where=norms > 0).astype(
        np.float32
    )
    return found
