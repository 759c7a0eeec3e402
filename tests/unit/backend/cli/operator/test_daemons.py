from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.cli.operator.daemons import _settle
from backend.services.settle.settler import Progress, Step

if TYPE_CHECKING:
    from collections.abc import Callable


def installation(
    advance: Callable[[], int], run_once: Callable[[], Progress], collect: Callable[[], object] = lambda: None
) -> Any:
    """With the services that `loraledger settle` runs."""
    return SimpleNamespace(
        check_database=lambda: None,
        settler=SimpleNamespace(run_once=run_once),
        datanets=SimpleNamespace(
            curation=SimpleNamespace(advance=advance),
            withdrawn_content=SimpleNamespace(sweep=lambda: None),
            folders=SimpleNamespace(sweep=lambda: None),
        ),
        transfers=SimpleNamespace(sweep=lambda: None),
        blobs=SimpleNamespace(delete_forgotten=collect),
    )


def test_batches_are_settled_while_an_upload_is_deleted() -> None:
    stop, settled = threading.Event(), threading.Event()
    done: list[str] = []

    def advance() -> int:
        settled.wait(10)
        done.append("deleted")
        return 1

    def run_once() -> Progress:
        done.append("settled")
        settled.set()
        stop.set()
        return Progress(Step.IDLE)

    _settle(installation(advance, run_once), stop)
    assert done == ["settled", "deleted"]


def test_an_error_of_the_uploads_ends_the_process() -> None:
    def advance() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _settle(installation(advance, lambda: Progress(Step.IDLE)), threading.Event())


def test_a_collection_of_garbage_holds_up_neither_uploads_nor_the_end() -> None:
    stop, began, may_end, ended = (threading.Event() for _ in range(4))

    def collect() -> None:
        began.set()
        may_end.wait(10)
        ended.set()

    def advance() -> int:
        if began.wait(1):
            stop.set()
        return 0

    _settle(installation(advance, lambda: Progress(Step.IDLE), collect), stop)
    assert not ended.is_set()
    may_end.set()
