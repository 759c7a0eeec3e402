"""Which requests share a step with a prompt that is too long for it.

The scheduler reserves half of the room for the long prompt. Requests of a higher class may use the other
half, and so may shorter ones if that lowers the mean time to first token. A short prompt of `b` tokens that
uses half of each step beside a long one of `a` has its first token after `2b` computed tokens instead of
`a + b`, and the long one after `a + b` instead of `a`. The sum of both is smaller if `2b < a`.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inference.request import Request
    from inference.scheduling.step import Step


def may_join(request: Request, step: Step, num_cached: int = 0) -> bool:
    """Whether the request may be computed next to the long prompt of the step, if there is one. `num_cached`
    of its pending tokens are in the KV cache.
    """
    if step.long is None:
        return True
    long = step.long.request
    if request.aged_priority != long.aged_priority:
        return request.aged_priority > long.aged_priority
    return 2 * (request.num_pending - num_cached) < long.num_pending


def repeats_work(names: Sequence[bytes], running: Iterable[Request], block_size: int) -> bool:
    """Whether a running request has yet to compute some of the kv_blocks that a waiting one could share:
    `names`.
    """
    return any(
        _num_common(names, other.block_names) * block_size > other.num_computed
        for other in running
        if other.num_pending > 1
    )


def _num_common(some: Sequence[bytes], others: Sequence[bytes]) -> int:
    names = zip(some, others, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], names))
