"""Limits the caches of oneDNN, which computes the base model's products on CPUs."""

from __future__ import annotations

import os

# oneDNN compiles a product for each number of tokens in a step, 0.6 MB each, and two caches keep 1,024 of
# those: oneDNN's own, and torch's. Both must be limited, or memory keeps growing over steps of many sizes.
# This limit holds all numbers of running requests, 32 times five products, and some prompts; a cache miss
# costs 0.4 ms.
_CAPACITY = "192"
_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def limit_caches() -> None:
    """Limit this process's caches, unless its environment sets them. Call it before the first product."""
    for name in _VARIABLES:
        os.environ.setdefault(name, _CAPACITY)
