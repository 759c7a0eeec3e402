"""Serves answers: reserve, stream from the engine, and store the signed receipt before the last chunk is
sent.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backend.domain.errors import DomainError, InvalidInput
from backend.services.answers.answer import Answer, Final
from backend.services.answers.blend import price
from backend.services.answers.engine_states import EngineStates
from backend.services.answers.gradient_job import GradientJob
from backend.services.answers.transcript import AnswerInterrupted, Transcript, transcribe
from inference import protocol
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.domain.ids import Account, Hash32
    from backend.domain.receipt import VersionRecord
    from backend.domain.serving import NewCharge, NewReceipt, Reservation
    from backend.ports.engine import Engine, EngineState
    from backend.services.answers.billing import BilledAnswer, Billing
    from backend.services.answers.gradient_stage import GradientStage
    from backend.services.answers.live_agreement import LiveAgreements
    from backend.services.answers.request import AnswerRequest, Folders
    from backend.services.channels.admission import Admission
    from backend.services.market.adapter_folders import AdapterFolders
    from backend.services.market.catalogue import Catalogue, Model

log = logging.getLogger(__name__)

FETCHERS = 4
"""Adapters that are fetched concurrently."""
MAX_BYTES_PER_TOKEN = 32
"""Far above the average: a prompt with more bytes cannot fit and is rejected without tokenising it."""


class ContextLengthExceeded(InvalidInput):
    """The prompt leaves no tokens for an answer in the model's context."""


@dataclass(frozen=True, slots=True)
class GenerateLimits:
    """`answer_seconds`: time for fetching an adapter and generating, after which the answer is cut off and
    charged up to there. `close_seconds`: time to end it. A reservation lasts for both. `state_seconds`: age
    up to which the state of engines is shown again.
    """

    answer_seconds: float
    default_max_tokens: int = 512
    close_seconds: float = 20.0
    state_seconds: float = 1.0

    @property
    def longest_seconds(self) -> float:
        return self.answer_seconds + self.close_seconds


class Generate:
    def __init__(
        self,
        catalogue: Catalogue,
        adapters: AdapterFolders,
        engines: Mapping[Hash32, Engine],
        admission: Admission,
        billing: Billing,
        limits: GenerateLimits,
        stage: GradientStage | None = None,
        live_agreements: LiveAgreements | None = None,
    ) -> None:
        """`engines`: by the digest of their base model. `stage`: attributes charged answers by gradients;
        without one all receipts are signed at once. `live_agreements`: measures a sample of the answers.
        """
        self._catalogue = catalogue
        self._adapters = adapters
        self._engines = engines
        self._states = EngineStates(engines, limits.state_seconds)
        self._admission = admission
        self._billing = billing
        self._limits = limits
        self._stage = stage
        self._live_agreements = live_agreements
        # Separate threads: slow fetches must not delay receipts, which use the loop's executor.
        self._fetchers = ThreadPoolExecutor(FETCHERS, "adapter-fetch")
        self._prepared: set[Path] = set()
        self._fetches: dict[Hash32, asyncio.Future[Path]] = {}
        self._max_context: dict[Hash32, int] = {}
        self._running: dict[asyncio.Task[None], Answer] = {}

    @property
    def default_max_tokens(self) -> int:
        return self._limits.default_max_tokens

    async def model(self, name: str, payer: Account | None = None) -> Model:
        """Raises as `Catalogue.resolve`."""
        return await asyncio.to_thread(self._catalogue.resolve, name, payer)

    async def engine_states(self) -> Mapping[Hash32, EngineState]:
        """What the engines serve now, by base model; nothing while they are unreachable."""
        return await self._states.get()

    async def start(self, request: AnswerRequest) -> Answer:
        """Returns with the first chunk. Raises PaymentRequired, InvalidInput or Unavailable before it."""
        answer = Answer(f"{request.id_prefix}{secrets.token_hex(16)}")
        # A separate task: a reader that disconnects must not cancel what is still to be charged.
        task = asyncio.create_task(self._serve(request, answer))
        self._running[task] = answer
        task.add_done_callback(self._running.pop)
        try:
            await answer.started()
        except asyncio.CancelledError:
            answer.hang_up()
            raise
        return answer

    async def close(self) -> None:
        """Abort the running answers and wait for their receipts."""
        for answer in self._running.values():
            answer.hang_up()
        if self._running:
            await asyncio.wait(set(self._running), timeout=self._limits.close_seconds)
        if self._stage is not None:
            await self._stage.close()
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, request: AnswerRequest, answer: Answer) -> None:
        try:
            answer.end(await self._run(request, answer))
        except BaseException as error:
            answer.fail(error)
            if not isinstance(error, Exception):
                raise

    async def _run(self, request: AnswerRequest, answer: Answer) -> Final:
        # Before any work: a payer with an empty channel must not occupy the tokenizer.
        await self._admission.check(request.payer, price(request.parts, 1, 1))
        size = await self._size(request)
        max_tokens = self._fit(request, size)
        bound = price(request.parts, size.num_tokens, max_tokens * request.num_choices)
        with traces.span("reserve"):
            reservation = await self._admission.reserve(request.payer, bound)
        try:
            with traces.span(f"chat {request.model.name}", gen_ai__operation__name="chat"):
                folders, transcript = await self._produce(request.limited(max_tokens), answer)
            with traces.span("receipt") as span:
                billed = await self._billing.bill(request, folders, transcript)
                charged = await self._charge(request, transcript, reservation, billed)
                traces.set_attributes(span, loraledger__receipt_id=charged.id)
        except BaseException:
            await self._release(reservation)
            raise
        texts = () if request.message.tools is None else transcript.texts
        reasons, cached = transcript.finish_reasons, transcript.cached_prompt_tokens
        return Final(reasons, charged, cached, texts, _charged(transcript.error))

    async def _release(self, reservation: Reservation) -> None:
        """Never fails: the error for which it is released may leave open whether the answer was charged, and
        this one's would say that it was not.
        """
        try:
            await self._admission.release(reservation)
        except Exception:
            log.exception("the reservation %s stays until it expires", reservation.id)

    async def _charge(
        self, request: AnswerRequest, transcript: Transcript, reservation: Reservation, billed: BilledAnswer
    ) -> NewReceipt | NewCharge:
        """The receipt; or, for an answer that the stage attributes, the charge, whose receipt follows."""
        job = GradientJob.of(request.message, transcript, billed, request.base)
        charged: NewReceipt | NewCharge
        if self._stage is not None and job is not None and self._stage.takes(job):
            seconds = self._stage.receipt_seconds
            charge = await self._admission.charge_first(request.payer, reservation, billed.bill, seconds)
            self._stage.start(charge, job)
            charged = charge
        else:
            charged = await self._admission.charge(request.payer, reservation, billed.bill)
        if self._live_agreements is not None and job is not None:
            self._live_agreements.hold(charged.interval, job, billed.scores)
        return charged

    async def _load_context(self, base: Hash32) -> int:
        """Tokens that prompt and answer share. Errors: `Unavailable`."""
        if base not in self._max_context:
            empty = protocol.CountTokens("", (protocol.Message("user", ""),))
            self._max_context[base] = (await self._engines[base].count_tokens(empty)).max_context
        return self._max_context[base]

    async def _size(self, request: AnswerRequest) -> protocol.TokenCount:
        max_context = await self._load_context(request.base)
        message = request.message
        if request.num_bytes > max_context * MAX_BYTES_PER_TOKEN:
            raise ContextLengthExceeded(
                f"The prompt has {request.num_bytes} bytes; prompt and answer share {max_context} tokens.",
                param=request.prompt_param,
            )
        size = await self._engines[request.base].count_tokens(
            protocol.CountTokens(
                "", message.messages, message.prompt, message.tools, message.reasoning_effort
            )
        )
        self._max_context[request.base] = size.max_context
        return size

    def _fit(self, request: AnswerRequest, size: protocol.TokenCount) -> int:
        """Maximum tokens of a choice."""
        room = size.max_context - size.num_tokens
        if room < 1:
            raise ContextLengthExceeded(
                f"The prompt has {size.num_tokens} tokens; prompt and answer share {size.max_context}.",
                param=request.prompt_param,
            )
        return min(request.message.sampling.max_tokens, room)

    async def _produce(self, request: AnswerRequest, answer: Answer) -> tuple[Folders, Transcript]:
        seconds = min(self._limits.answer_seconds, request.seconds or self._limits.answer_seconds)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                folders = tuple([await self._folder(part.model) for part in request.parts])
            # The engine is aborted at the deadline; its output up to then is read and charged.
            async with asyncio.timeout_at(deadline + self._limits.close_seconds / 2):
                messages = request.for_engine(answer.id, folders, probe_error=self._billing.needs_errors)
                engine, is_streamed = self._engines[request.base], request.is_streamed
                return folders, await transcribe(engine, messages, answer, deadline, is_streamed=is_streamed)
        except TimeoutError as error:
            raise AnswerInterrupted("The answer took too long; nothing was charged.") from error

    async def _folder(self, model: Model) -> Path | None:
        if model.is_base:
            return None
        found = self._adapters.cached(model.record)
        if found is not None and found in self._prepared:
            return found
        if found is None:
            await self._fetch(model.record)
        return await asyncio.to_thread(self._prepare, model.record)

    async def _fetch(self, record: VersionRecord) -> None:
        """Fetch the folder, once for all answers that wait; it continues if they stop waiting."""
        fetch = self._fetches.get(record.cid_digest)
        if fetch is None:
            loop = asyncio.get_running_loop()
            fetch = loop.run_in_executor(self._fetchers, self._adapters.folder, record)
            self._fetches[record.cid_digest] = fetch
            fetch.add_done_callback(lambda _: self._fetches.pop(record.cid_digest))
        await asyncio.shield(fetch)

    def _prepare(self, record: VersionRecord) -> Path:
        folder = self._adapters.folder(record)
        if record.snapshots:
            self._billing.prepare(folder)
        self._prepared.add(folder)
        return folder


def _charged(error: DomainError | None) -> DomainError | None:
    text = "the answer ends here, and what was streamed before is charged"
    return None if error is None else replace(error, message=f"{error.message}; {text}")
