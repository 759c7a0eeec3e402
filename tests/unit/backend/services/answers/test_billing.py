from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from backend.domain.attribution import INDEX_FILE, INDEX_METADATA, shares_from_scores
from backend.domain.content import cid_of
from backend.domain.errors import Unavailable
from backend.domain.hashing import (
    attribution_hash,
    list_hash,
    response_bytes,
    salted_hash,
    slices_hash,
    to_bytes,
)
from backend.domain.ids import SnapshotId
from backend.services.answers.attribution import Uniform
from backend.services.market.catalogue import Model
from inference.protocol import ProbeStates
from tests.support.market import some_hash
from tests.support.serving import BODY, receipts, request, reserved, text_of, until_idle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted_installation import ScriptedInstallation


async def test_the_hashes_commit_to_request_answer_and_shares(installation: ScriptedInstallation) -> None:
    answer = await installation.generate.start(request(installation, installation.version))
    text = await text_of(answer)
    stored = answer.final.receipt
    receipt, salt = stored.signed.receipt, to_bytes(stored.salt)
    assert receipt.request_hash == salted_hash(salt, BODY)
    assert receipt.response_hash == salted_hash(salt, response_bytes([text]))
    assert receipt.slices_hash == slices_hash(stored.signed.slices)
    assert receipt.attribution_hash == attribution_hash(stored.signed.method, stored.signed.slices)


async def test_only_accepted_contributions_get_shares(installation: ScriptedInstallation) -> None:
    answer = await installation.generate.start(request(installation, installation.version))
    await text_of(answer)
    (part,) = answer.final.receipt.signed.slices
    assert [share.position for share in part.shares] == [0, 1, 3]
    assert part.shares == shares_from_scores({0: 1.0, 1: 1.0, 3: 1.0})
    assert answer.final.receipt.signed.method == "uniform-1"


async def test_the_base_model_has_an_empty_list(installation: ScriptedInstallation) -> None:
    answer = await installation.generate.start(request(installation, "tiny"))
    await text_of(answer)
    (part,) = answer.final.receipt.signed.slices
    assert part.shares == ()
    assert list_hash(part.shares) == list_hash(())
    assert installation.engine.requests[0].adapter is None
    assert not installation.engine.requests[0].probe


async def test_an_answer_succeeds_despite_a_malformed_attribution_index(
    installation: ScriptedInstallation,
) -> None:
    def malformed(folder: Path) -> None:
        (folder / INDEX_FILE).write_bytes(b"no tensors")

    installation.store.folders[cid_of(some_hash("folder"))] = malformed
    answer = await installation.generate.start(request(installation, installation.version))
    assert await text_of(answer)
    signed = answer.final.receipt.signed
    assert signed.method == "uniform-1"
    assert [share.position for share in signed.slices[0].shares] == [0, 1, 3]


async def test_shares_follow_the_index_and_the_probe(installation: ScriptedInstallation) -> None:
    def index(folder: Path) -> None:
        tensors: dict[str, np.ndarray[Any, Any]] = {
            "positions": np.array([0, 1, 2, 3], dtype=np.int64),
            "hidden.vectors": np.eye(4, 3, dtype=np.float32),
            "rows": np.ones(4, dtype=np.int64),
            "hidden.centre": np.zeros(3, dtype=np.float32),
            "error.vectors": np.eye(4, 3, dtype=np.float32),
        }
        save_file(tensors, folder / INDEX_FILE, INDEX_METADATA)

    installation.store.folders[cid_of(some_hash("folder"))] = index
    installation.engine.probe = ProbeStates([], [0.6, 0.8, 0.0], 0, 0)
    answer = await installation.generate.start(request(installation, installation.version))
    await text_of(answer)
    signed = answer.final.receipt.signed
    assert signed.method == "hidden-cosine-1"
    expected = shares_from_scores({0: 0.8, 1: 0.9, 3: 0.5})  # (1 + cosine) / 2; 2 is not accepted
    assert [share.position for share in signed.slices[0].shares] == [0, 1, 3]
    for share, wanted in zip(signed.slices[0].shares, expected, strict=True):
        assert share.ppm == pytest.approx(wanted.ppm, abs=2)


async def test_a_free_answer_has_a_receipt_that_is_never_batched(installation: ScriptedInstallation) -> None:
    record = installation.catalogue.resolve(installation.version).record
    free = replace(record, name="free", prompt_price=0, completion_price=0)
    version = installation.view.register(free)
    model = Model(version, free, "free", is_deprecated=False, block_number=1)
    wanted = replace(request(installation, installation.version), model=model)
    answer = await installation.generate.start(wanted)
    await text_of(answer)
    (stored,) = receipts(installation)
    assert stored.signed.receipt.charge == 0
    with installation.begin() as tx:
        assert tx.receipts.backlogs(installation.operator) == []
        assert tx.receipts.unsettled(installation.channel, 0, 10) == []


async def test_an_answer_that_cannot_be_billed_is_not_charged_and_affects_no_other(
    installation: ScriptedInstallation,
) -> None:
    record = installation.catalogue.resolve(installation.version).record
    unknown = replace(record, name="unknown", snapshots=(SnapshotId(some_hash("not indexed")),))
    version = installation.view.register(unknown)
    wanted = request(installation, installation.version)
    unbilled = replace(wanted, model=Model(version, unknown, "unknown", is_deprecated=False, block_number=1))
    lost, *answers = await asyncio.gather(*map(installation.generate.start, (unbilled, wanted, wanted)))
    with pytest.raises(Unavailable, match="not indexed here"):
        await text_of(lost)
    assert [await text_of(answer) for answer in answers] == ["Hello there, world."] * 2
    await until_idle(installation)
    assert len(receipts(installation)) == 2
    assert reserved(installation) == 0


class EvictedIndex(Uniform):
    """A method whose index is no longer in memory, and loads slowly, once `is_evicted`."""

    def __init__(self) -> None:
        self.is_evicted, self.may_load = False, threading.Event()

    def is_prepared(self, adapter_folder: Path) -> bool:
        return not self.is_evicted

    def prepare(self, adapter_folder: Path) -> None:
        if self.is_evicted:
            self.may_load.wait(60)


async def test_a_bill_that_waits_for_an_index_delays_no_other(
    installation: ScriptedInstallation,
) -> None:
    method = EvictedIndex()
    installation.attributors = (method,)
    generate = installation.generating(answer_seconds=60)
    assert await text_of(await generate.start(request(installation, installation.version)))
    method.is_evicted = True
    slow = await generate.start(request(installation, installation.version))
    quick = await generate.start(request(installation, "tiny"))
    assert await text_of(quick)
    assert len(receipts(installation)) == 2
    method.may_load.set()
    assert await text_of(slow)
    assert len(receipts(installation)) == 3
    await generate.close()
