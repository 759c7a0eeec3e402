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
from backend.services.answers.generate import (
    FETCHERS,
    MAX_BYTES_PER_TOKEN,
    AnswerInterrupted,
    ContextLengthExceeded,
)
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from backend.services.channels.ledger import InsufficientBalance
from backend.services.market.catalogue import Model
from inference.protocol import Generate, Message, ProbeStates, Sampling
from tests.support.market import some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.serving import StoredReceipt
    from backend.services.answers.answer import Answer

BODY = b'{"model": "...", "messages": []}'
FUNDS = 10_000


@pytest.fixture
def installation(tmp_path: Path, sqlite_database: Database) -> ScriptedInstallation:
    built = ScriptedInstallation(tmp_path, sqlite_database)
    built.fund(FUNDS)
    return built


def request(
    installation: ScriptedInstallation, model: str, max_tokens: int = 16, text: str = "say hello"
) -> AnswerRequest:
    return AnswerRequest(
        payer=Payer(installation.payer.account),
        model=installation.catalogue.resolve(model),
        message=Generate("", (Message("user", text),), sampling=Sampling(max_tokens=max_tokens)),
        body=BODY,
    )


def receipts(installation: ScriptedInstallation) -> list[StoredReceipt]:
    return list(installation.services.receipts.page(installation.payer.account, None, 10))


def reserved(installation: ScriptedInstallation) -> int:
    channel = installation.services.channels.get(installation.payer.account, installation.channel)
    return channel.balance.reserved


async def text_of(answer: Answer) -> str:
    return "".join([chunk.text async for _, chunk in answer.chunks()])


async def until_idle(installation: ScriptedInstallation) -> None:
    await installation.generate.close()


async def test_an_answer_is_charged_by_its_tokens(installation: ScriptedInstallation) -> None:
    answer = await installation.generate.start(request(installation, installation.version))
    assert await text_of(answer) == "Hello there, world."
    receipt = answer.final.receipt.signed.receipt
    assert (receipt.prompt_tokens, receipt.completion_tokens) == (2, 4)
    assert receipt.charge == receipt.cumulative == 2 * 10 + 4 * 20
    assert answer.final.finish_reasons == ("stop",)
    assert reserved(installation) == 0


async def test_the_engine_is_told_who_pays_and_what_it_saved_is_said(
    installation: ScriptedInstallation,
) -> None:
    """Cached prompt tokens have the same price as others."""
    installation.engine.cached_prompt_tokens = 1
    answer = await installation.generate.start(request(installation, installation.version))
    await text_of(answer)
    assert [sent.payer for sent in installation.engine.requests] == [installation.payer.account]
    assert answer.final.cached_prompt_tokens == 1
    assert answer.final.receipt.signed.receipt.prompt_tokens == 2


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


async def test_money_is_kept_before_the_engine_works(installation: ScriptedInstallation) -> None:
    installation.engine.waits_after = 1
    answer = await installation.generate.start(request(installation, installation.version, max_tokens=3))
    assert reserved(installation) == 2 * 10 + 3 * 20
    answer.hang_up()
    await until_idle(installation)


async def test_without_money_the_engine_is_not_asked(installation: ScriptedInstallation) -> None:
    installation.fund(2 * 10 + 3 * 20 - 1)
    with pytest.raises(InsufficientBalance):
        await installation.generate.start(request(installation, installation.version, max_tokens=3))
    assert not installation.engine.requests
    assert installation.store.num_fetches == 0


async def test_the_answer_fits_the_context(installation: ScriptedInstallation) -> None:
    installation.engine.max_context = 5
    answer = await installation.generate.start(request(installation, "tiny", max_tokens=100))
    await text_of(answer)
    assert installation.engine.requests[0].sampling.max_tokens == 3
    assert answer.final.finish_reasons == ("length",)


async def test_a_prompt_that_fills_the_context_is_refused(installation: ScriptedInstallation) -> None:
    installation.engine.max_context = 2
    with pytest.raises(ContextLengthExceeded) as caught:
        await installation.generate.start(request(installation, "tiny"))
    assert caught.value.param == "messages"


async def test_the_receipt_is_durable_before_the_answer_ends(installation: ScriptedInstallation) -> None:
    answer = await installation.generate.start(request(installation, installation.version))
    async for _ in answer.chunks():
        pass
    assert [stored.id for stored in receipts(installation)] == [answer.final.receipt.id]


async def test_a_client_that_disconnects_pays_for_the_generated_tokens(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.waits_after = 2
    answer = await installation.generate.start(request(installation, installation.version))
    answer.hang_up()
    await until_idle(installation)
    (stored,) = receipts(installation)
    assert stored.signed.receipt.completion_tokens == 2
    assert stored.signed.receipt.charge == 2 * 10 + 2 * 20
    assert reserved(installation) == 0


async def test_disconnecting_before_the_first_chunk_aborts_the_generation(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.waits_after = 0
    starting = asyncio.create_task(installation.generate.start(request(installation, installation.version)))
    await installation.engine.asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until_idle(installation)
    assert installation.engine.aborted
    assert receipts(installation) == []
    assert reserved(installation) == 0


async def test_disconnecting_during_the_adapter_fetch_sends_no_request_to_the_engine(
    installation: ScriptedInstallation,
) -> None:
    fetching, go_on = threading.Event(), threading.Event()

    def slow(_folder: Path) -> None:
        fetching.set()
        go_on.wait()

    installation.store.folders[cid_of(some_hash("folder"))] = slow
    starting = asyncio.create_task(installation.generate.start(request(installation, installation.version)))
    await asyncio.to_thread(fetching.wait)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    go_on.set()
    await until_idle(installation)
    assert installation.engine.requests == []
    assert reserved(installation) == 0


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


async def test_an_engine_that_breaks_costs_nothing(installation: ScriptedInstallation) -> None:
    installation.engine.breaks_after = 2
    answer = await installation.generate.start(request(installation, installation.version))
    with pytest.raises(Unavailable):
        await text_of(answer)
    await until_idle(installation)
    assert receipts(installation) == []
    assert reserved(installation) == 0


async def test_an_unavailable_engine_is_reported_before_anything_is_reserved(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.is_gone = True
    with pytest.raises(Unavailable):
        await installation.generate.start(request(installation, installation.version))
    assert reserved(installation) == 0


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


async def test_parallel_answers_tile_the_line(installation: ScriptedInstallation) -> None:
    answers = await asyncio.gather(
        *(installation.generate.start(request(installation, installation.version)) for _ in range(8))
    )
    await asyncio.gather(*(text_of(answer) for answer in answers))
    ends = sorted(answer.final.receipt.signed.receipt.cumulative for answer in answers)
    assert ends == [100 * n for n in range(1, 9)]
    assert installation.store.num_fetches == 1


async def test_an_adapter_that_was_deleted_to_make_room_is_fetched_by_the_next_answer(
    installation: ScriptedInstallation,
) -> None:
    record = installation.catalogue.record(installation.version)
    for num_fetches in (1, 2):
        answer = await installation.generate.start(request(installation, installation.version))
        await text_of(answer)
        assert installation.store.num_fetches == num_fetches
        installation.folders.drop(cid_of(record.cid_digest))


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


async def test_closing_charges_what_runs(installation: ScriptedInstallation) -> None:
    installation.engine.waits_after = 3
    await installation.generate.start(request(installation, installation.version))
    await installation.generate.close()
    (stored,) = receipts(installation)
    assert stored.signed.receipt.completion_tokens == 3


async def test_a_fetch_that_takes_too_long_ends_the_answer_and_frees_its_money(
    installation: ScriptedInstallation,
) -> None:
    go_on = threading.Event()

    def slow(_folder: Path) -> None:
        go_on.wait()

    installation.store.folders[cid_of(some_hash("folder"))] = slow
    generate = installation.generating(answer_seconds=0.05)
    with pytest.raises(AnswerInterrupted, match="too long"):
        await generate.start(request(installation, installation.version))
    assert reserved(installation) == 0
    assert installation.engine.requests == []
    go_on.set()
    await generate.close()


async def test_slow_fetches_hold_up_only_who_waits_for_them(installation: ScriptedInstallation) -> None:
    await text_of(await installation.generate.start(request(installation, installation.version)))
    record = installation.catalogue.resolve(installation.version).record
    fetching, go_on = threading.Semaphore(0), threading.Event()

    def slow(_folder: Path) -> None:
        fetching.release()
        go_on.wait()

    waiting = []
    for number in range(FETCHERS):
        far = replace(record, adapter_digest=some_hash(f"far {number}"), cid_digest=some_hash(f"at {number}"))
        installation.store.folders[cid_of(far.cid_digest)] = slow
        wanted = request(installation, installation.view.register(far))
        waiting += [asyncio.create_task(installation.generate.start(wanted)) for _ in range(2)]
    for _ in range(FETCHERS):
        await asyncio.to_thread(fetching.acquire)
    await text_of(await installation.generate.start(request(installation, installation.version)))
    go_on.set()
    for answer in await asyncio.gather(*waiting):
        await text_of(answer)
    assert installation.store.num_fetches == 1 + FETCHERS


async def test_an_empty_channel_is_refused_before_the_prompt_is_tokenised(
    installation: ScriptedInstallation,
) -> None:
    installation.fund(10 + 20 - 1)
    with pytest.raises(InsufficientBalance):
        await installation.generate.start(request(installation, installation.version))
    assert installation.engine.counted == []


async def test_a_prompt_of_too_many_bytes_is_refused_before_it_is_tokenised(
    installation: ScriptedInstallation,
) -> None:
    text = "x" * (installation.engine.max_context * MAX_BYTES_PER_TOKEN + 1)
    with pytest.raises(ContextLengthExceeded, match="bytes"):
        await installation.generate.start(request(installation, "tiny", text=text))
    assert installation.engine.counted == [(Message("user", ""),)]


async def test_an_answer_that_takes_too_long_is_cut_off_and_charged_so_far(
    installation: ScriptedInstallation,
) -> None:
    installation.engine.waits_after = 2
    generate = installation.generating(answer_seconds=0.05)
    answer = await generate.start(request(installation, "tiny"))
    assert await text_of(answer) == "Hello there"
    assert answer.final.finish_reasons == ("abort",)
    assert answer.final.receipt.signed.receipt.completion_tokens == 2
    await generate.close()


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
