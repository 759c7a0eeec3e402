"""Binding of `cpp/attention.h`."""

from __future__ import annotations

import ctypes
import itertools
from array import array
from typing import TYPE_CHECKING, Any

import torch

from inference.kernels.memory import address_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inference.kernels.interface import Pages, SequenceSpan

_Pointer, _Index = ctypes.c_void_p, ctypes.c_int64


class _Span(ctypes.Structure):
    _fields_ = (("start", _Index), ("count", _Index), ("context", _Index), ("table", _Pointer))


class NativeAttention:
    """Implements `inference.kernels.interface.AttentionBatch`."""

    def __init__(self, function: Any, spans: Sequence[SequenceSpan]) -> None:
        self._function = function
        self._tables = array("q", itertools.chain.from_iterable(span.block_table for span in spans))
        address, size = self._tables.buffer_info()[0], self._tables.itemsize
        starts = itertools.accumulate((len(span.block_table) for span in spans), initial=0)
        self.spans = (_Span * len(spans))(
            *(
                _Span(span.start, span.num_queries, span.context_len, address + size * start)
                for span, start in zip(spans, starts, strict=False)
            )
        )

    def attend(self, queries: Tensor, pages: Pages, scale: float, window: int = 0) -> Tensor:
        result = torch.empty_like(queries)
        self._function(
            address_of(queries),
            address_of(pages.keys),
            address_of(pages.values),
            queries.shape[1],
            *pages.keys.shape[1:],
            scale,
            window,
            self.spans,
            len(self.spans),
            address_of(result),
        )
        return result.flatten(1)
