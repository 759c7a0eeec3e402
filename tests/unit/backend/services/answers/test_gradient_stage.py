"""Answers that are charged first and attributed by their gradients afterwards."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import save_file

from backend.domain.attribution import CHECKPOINT_FILE, GRADIENT_METHOD, INDEX_FILE, shares_from_scores
from backend.domain.denials import ModelWithheld, Reason
from backend.domain.errors import Unavailable
from backend.domain.serving import NewCharge
from backend.services.answers import gradient_stage
from backend.services.answers.request import AnswerRequest
from backend.services.channels.admission import Payer
from inference.protocol import Generate, Message, Sampling

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.serving import StoredReceipt
    from backend.services.answers.answer import Answer
    from tests.support.fakes import FakeGradients
    from tests.support.scripted_installation import ScriptedInstallation

FALLBACK = "uniform-1"


@pytest.fixture
def gradients(installation: ScriptedInstallation) -> FakeGradients:
    return installation.use_gradient_stage()


async def answered(
    installation: ScriptedInstallation, model: str | None = None, num_choices: int = 1
) -> Answer:
    request = AnswerRequest(
        payer=Payer(installation.payer.account),
        model=installation.catalogue.resolve(model or installation.version),
        message=Generate("", (Message("user", "say hello"),), sampling=Sampling(max_tokens=16)),
        body=b"{}",
        num_choices=num_choices,
    )
    answer = await installation.generate.start(request)
    async for _ in answer.chunks():
        pass
    return answer


async def receipts(installation: ScriptedInstallation, *, closed: bool = True) -> list[StoredReceipt]:
    if closed:
        await installation.generate.close()
    return list(installation.services.receipts.page(installation.payer.account, None, 10))


async def until_signed(installation: ScriptedInstallation) -> list[StoredReceipt]:
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    return await receipts(installation, closed=False)


async def test_an_answer_is_charged_and_its_receipt_follows(
    installation: ScriptedInstallation, gradients: FakeGradients
) -> None:
    gradients.answers.clear()
    answer = await answered(installation)
    charged = answer.final.charged
    assert isinstance(charged, NewCharge)
    assert charged.fallback.method == FALLBACK
    assert await receipts(installation, closed=False) == []
    gradients.answers.set()
    (stored,) = await until_signed(installation)
    assert stored.signed.method == GRADIENT_METHOD
    assert stored.signed.slices[0].shares == shares_from_scores({0: 3.0, 1: 1.0, 3: -1.0})  # 2: not accepted
    assert stored.signed.receipt.cumulative == charged.signed.charge.cumulative


async def test_equal_gradients_are_drawn_as_other_equal_scores_are(
    installation: ScriptedInstallation, gradients: FakeGradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.domain.attribution.MAX_SHARES", 1)
    monkeypatch.setattr("backend.services.answers.billing.answer_draw", lambda *_: 2)
    gradients.scored = dict.fromkeys(range(4), -1.0)
    charged = (await answered(installation)).final.charged
    assert isinstance(charged, NewCharge)
    (stored,) = await until_signed(installation)
    assert stored.signed.method == GRADIENT_METHOD
    assert stored.signed.slices == charged.fallback.slices
    assert [share.position for share in stored.signed.slices[0].shares] == [3]


async def test_the_stage_gets_prompt_and_tokens_of_every_choice(
    installation: ScriptedInstallation, gradients: FakeGradients
) -> None:
    charged = (await answered(installation, num_choices=2)).final.charged
    (request,) = gradients.requests
    assert request.request_id == charged.id
    assert request.messages == (Message("user", "say hello"),)
    assert request.choices == ((1, 1, 1, 1), (1, 1, 1, 1))


async def test_the_database_is_not_read_on_the_event_loop(
    installation: ScriptedInstallation, gradients: FakeGradients, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, read, readers = installation.catalogue.resolve(installation.version), installation.db.read, []

    def recorded() -> AbstractContextManager[UnitOfWork]:
        readers.append(threading.current_thread())
        return read()

    monkeypatch.setattr(installation.catalogue, "resolve", lambda _: model)
    monkeypatch.setattr(installation.db, "read", recorded)
    gradients.answers.clear()
    await answered(installation)
    gradients.answers.set()
    assert readers
    assert threading.main_thread() not in readers


@pytest.mark.parametrize(
    "scored", [{}, {2: 1.0}, {0: math.nan, 1: 1.0}, {0: math.inf}], ids=["none", "others", "nan", "inf"]
)
async def test_scores_that_give_no_shares_leave_the_fallback(
    installation: ScriptedInstallation, gradients: FakeGradients, scored: dict[int, float]
) -> None:
    gradients.scored = scored
    charged = (await answered(installation)).final.charged
    assert isinstance(charged, NewCharge)
    (stored,) = await until_signed(installation)
    assert (stored.signed.method, stored.signed.slices) == (FALLBACK, charged.fallback.slices)


async def test_a_stage_that_fails_leaves_the_fallback(
    installation: ScriptedInstallation, gradients: FakeGradients
) -> None:
    gradients.error = Unavailable("no memory")
    await answered(installation)
    (stored,) = await until_signed(installation)
    assert stored.signed.method == FALLBACK


async def test_a_stage_that_takes_too_long_leaves_the_fallback(installation: ScriptedInstallation) -> None:
    gradients = installation.use_gradient_stage(seconds=0.05)
    gradients.answers.clear()
    await answered(installation)
    (stored,) = await until_signed(installation)
    gradients.answers.set()
    assert stored.signed.method == FALLBACK


async def test_a_version_that_is_taken_down_while_its_charge_waits_has_its_receipt(
    installation: ScriptedInstallation, gradients: FakeGradients
) -> None:
    gradients.answers.clear()
    charged = (await answered(installation)).final.charged
    assert isinstance(charged, NewCharge)
    record = installation.catalogue.record(installation.version)
    taken = installation.denials.take_down(record, Reason.LEGAL)
    assert installation.denials.drop_folders(taken)
    gradients.error = Unavailable("the folder is gone")
    gradients.answers.set()
    (stored,) = await until_signed(installation)
    assert (stored.signed.method, stored.signed.slices) == (FALLBACK, charged.fallback.slices)
    with pytest.raises(ModelWithheld):
        await answered(installation)


async def test_a_shutdown_signs_what_waits(
    installation: ScriptedInstallation, gradients: FakeGradients
) -> None:
    gradients.answers.clear()
    for _ in range(3):
        await answered(installation)
    found = await receipts(installation)
    assert [stored.signed.method for stored in found] == [FALLBACK] * 3


async def test_a_late_result_is_dropped(
    installation: ScriptedInstallation, gradients: FakeGradients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gradients.answers.clear()
    charged = (await answered(installation)).final.charged
    assert isinstance(charged, NewCharge)
    await installation.charges.sign(charged, None)
    before = await receipts(installation, closed=False)
    gradients.answers.set()
    assert await receipts(installation) == before
    assert "signed before" in caplog.text


@pytest.mark.usefixtures("gradients")
async def test_an_answer_without_contributors_has_its_receipt_at_once(
    installation: ScriptedInstallation,
) -> None:
    answer = await answered(installation, "tiny")
    assert answer.final.receipt.signed.method == "none"


async def test_an_answer_whose_token_ids_are_unknown_has_its_receipt_at_once(
    installation: ScriptedInstallation, gradients: FakeGradients
) -> None:
    """An older vLLM server returns none: the gradient would be zero, and all shares equal."""
    installation.engine.token_ids = []
    answer = await answered(installation, num_choices=2)
    assert answer.final.receipt.signed.method == FALLBACK
    assert gradients.requests == []


@pytest.mark.parametrize("lacks", ["checkpoint", "index", "current gradient"])
async def test_a_version_that_lacks_what_gradients_need_has_its_receipt_at_once(
    installation: ScriptedInstallation, gradients: FakeGradients, lacks: str
) -> None:
    def write(folder: Path) -> None:
        if lacks != "checkpoint":
            (folder / CHECKPOINT_FILE).touch()
        if lacks != "index":
            method = "gradient-ridge-3" if lacks == "current gradient" else GRADIENT_METHOD
            save_file({}, folder / INDEX_FILE, {"methods": method})

    (cid,) = installation.store.folders
    installation.store.folders[cid] = write
    answer = await answered(installation)
    assert answer.final.receipt.signed.method == FALLBACK
    assert gradients.requests == []


@pytest.mark.parametrize("limit", ["MAX_WAITING", "MAX_TOKENS"])
async def test_an_answer_beyond_a_limit_has_its_receipt_at_once(
    installation: ScriptedInstallation,
    gradients: FakeGradients,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    monkeypatch.setattr(gradient_stage, limit, 1)
    gradients.answers.clear()
    answers = [await answered(installation) for _ in range(2)]
    pending = [isinstance(answer.final.charged, NewCharge) for answer in answers]
    assert pending == [limit == "MAX_WAITING", False]
    assert len(await receipts(installation)) == 2
