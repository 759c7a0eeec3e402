"""How much oneDNN, which multiplies the base model's matrices on CPUs, keeps of what it has compiled."""

from __future__ import annotations

import os

# A product is compiled anew for each number of tokens in a step, 0.6 MB each time, and two caches keep 1,024
# of those: oneDNN's own, and torch's. Both must be bounded: with either alone memory kept growing over steps
# of many sizes. This many hold all numbers of running requests, 32 times five products, and some prompts;
# what is missing costs 0.4 ms.
_CAPACITY = "192"
_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_caches() -> None:
    """Of this process, unless its environment says otherwise. To be called before its first product."""
    for name in _VARIABLES:
        os.environ.setdefault(name, _CAPACITY)
