"""Reads the metadata of a GGUF file in time and memory that grow with its size."""

from __future__ import annotations

from typing import Any

from gguf import GGUFReader


class BoundedGGUFReader(GGUFReader):
    """Raises `ValueError` where the file ends before a value that it announces.

    The library reads such a value as an empty array and goes on, so that a file of fifty bytes that announces
    2**60 items would be read for years.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        values = super()._get(offset, dtype, count, override_order)
        if len(values) != count:
            raise ValueError(f"it ends before the value at byte {offset}")
        return values
