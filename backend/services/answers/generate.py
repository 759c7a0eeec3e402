"""One answer: money reserved, engine streamed, receipt signed and stored before the last chunk leaves."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from backend.domain.attribution import ERROR_METHOD
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.hashing import attribution_hash, response_bytes, salted_hash, slices_hash, to_hash
from backend.domain.receipt import Slice
from backend.domain.split import charge
from backend.ports.engine import Chat, Sampling, Turn
from backend.services.answers.answer import Answer, Final
from backend.services.answers.attribution import attribute_all
from backend.services.answers.blend import Part, price
from backend.services.answers.positions import Positions
from backend.services.answers.transcript import AnswerInterrupted, Transcript, transcribe
from backend.services.channels.admission import Bill, Payer
from backend.services.channels.group_commit import GroupCommit
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from backend.domain.ids import Account, Hash32, VersionId
    from backend.domain.receipt import Share, VersionRecord
    from backend.ports.attribution import Attributor
    from backend.ports.engine import AdapterFolder, Engine, Priority, Prompt, PromptSize
    from backend.ports.serving import CatalogueTx
    from backend.services.channels.admission import Admission
    from backend.services.market.adapter_folders import AdapterFolders
    from backend.services.market.catalogue import Catalogue, Model

UNATTRIBUTED = "none"
"""The method of versions without snapshots."""

FETCHERS = 4
"""Adapters that are fetched at once."""
MAX_BYTES_PER_TOKEN = 32
"""Far above what prompts have on average: a prompt with more cannot fit, and is not worth tokenising."""
SEEDS_END = 1 << 63


class ContextLengthExceeded(InvalidInput):
    """The prompt leaves no room for an answer in the model's context."""


@dataclass(frozen=True, slots=True)
class GenerateLimits:
    """`answer_seconds`: of the fetch of an adapter and its answer, which is cut off then and charged so far;
    `close_seconds`: what it takes to end it. Both together are the life of a reservation.
    """

    answer_seconds: float
    default_max_tokens: int = 512
    close_seconds: float = 20.0

    @property
    def longest_seconds(self) -> float:
        return self.answer_seconds + self.close_seconds


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """`body`: the request's bytes as received. `sampling.max_tokens` of 0: the installation's default.

    `num_choices` answers are written, of up to that many tokens each; the prompt is paid for once. With a
    seed, each choice has its own, rising from it. `seconds`: the client's own bound on the whole.
    """

    payer: Payer
    model: Model
    prompt: Prompt
    sampling: Sampling
    body: bytes
    num_choices: int = 1
    priority: Priority = 0
    seconds: float | None = None
    blend: tuple[Part, ...] = ()
    """In the place of `model`, which is the base model then."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.blend or (Part(self.model),)

    @property
    def kind(self) -> str:
        """How OpenAI's ids of such answers begin."""
        return "cmpl" if isinstance(self.prompt, str) else "chatcmpl"

    @property
    def prompt_param(self) -> str:
        return "prompt" if isinstance(self.prompt, str) else "messages"


Folders: TypeAlias = "tuple[AdapterFolder | None, ...]"
"""Of a request's parts; None for the base model."""
_Billed: TypeAlias = "tuple[AnswerRequest, Folders, Transcript]"


class Generate:
    def __init__(
        self,
        read: Callable[[], AbstractContextManager[CatalogueTx]],
        catalogue: Catalogue,
        adapters: AdapterFolders,
        engine: Engine,
        admission: Admission,
        attributors: Sequence[Attributor],
        limits: GenerateLimits,
    ) -> None:
        self._positions = Positions(read)
        self._catalogue = catalogue
        self._adapters = adapters
        self._engine = engine
        self._admission = admission
        self._attributors = attributors
        self._probe_error = any(attributor.method == ERROR_METHOD for attributor in attributors)
        self._limits = limits
        # Threads of their own: slow fetches must not hold up receipts, which share the loop's.
        self._fetchers = ThreadPoolExecutor(FETCHERS, "adapter-fetch")
        self._prepared: set[Path] = set()
        self._fetches: dict[Hash32, asyncio.Future[AdapterFolder]] = {}
        self._max_context: int | None = None
        # One thread for all: a thread for each answer would fight the loop for the interpreter.
        self._bills: GroupCommit[_Billed, Bill] = GroupCommit(self._bill_all, "bills")
        self._running: dict[asyncio.Task[None], Answer] = {}

    async def model(self, name: str, payer: Account | None = None) -> Model:
        """Raises what `Catalogue.resolve` does."""
        return await asyncio.to_thread(self._catalogue.resolve, name, payer)

    async def active_adapters(self) -> frozenset[Hash32]:
        """Digests of the adapters that answer without being loaded first; none while the engine is away."""
        try:
            return frozenset(await self._engine.active_adapters())
        except Unavailable:
            return frozenset()

    async def start(self, request: AnswerRequest) -> Answer:
        """Returns with the first piece. Raises PaymentRequired, InvalidInput or Unavailable before it."""
        answer = Answer(f"{request.kind}-{secrets.token_hex(16)}")
        # A task of its own: a reader who leaves cannot cancel what is still to be charged.
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
        """Stop the answers under way and wait for their receipts."""
        for answer in self._running.values():
            answer.hang_up()
        if self._running:
            await asyncio.wait(set(self._running), timeout=self._limits.close_seconds)
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
        sampling = self._fit(request, size)
        bound = price(request.parts, size.num_tokens, sampling.max_tokens * request.num_choices)
        with traces.span("reserve"):
            reservation = await self._admission.reserve(request.payer, bound)
        try:
            with traces.span(f"chat {request.model.name}", gen_ai__operation__name="chat"):
                folders, transcript = await self._produce(replace(request, sampling=sampling), answer)
            with traces.span("receipt") as span:
                bill = await self._bills.ask((request, folders, transcript))
                receipt = await self._admission.settle(request.payer, reservation, bill)
                traces.note(span, loraledger__receipt_id=receipt.id)
        except BaseException:
            await self._admission.release(reservation)
            raise
        return Final(transcript.finish_reasons, receipt, transcript.cached_prompt_tokens)

    async def _size(self, request: AnswerRequest) -> PromptSize:
        if self._max_context is None:
            self._max_context = (await self._engine.count_tokens((Turn("user", ""),))).max_context
        num_bytes = _num_bytes(request.prompt)
        if num_bytes > self._max_context * MAX_BYTES_PER_TOKEN:
            raise ContextLengthExceeded(
                f"The prompt has {num_bytes} bytes; prompt and answer share {self._max_context} tokens.",
                param=request.prompt_param,
            )
        size = await self._engine.count_tokens(request.prompt)
        self._max_context = size.max_context
        return size

    def _fit(self, request: AnswerRequest, size: PromptSize) -> Sampling:
        room = size.max_context - size.num_tokens
        if room < 1:
            raise ContextLengthExceeded(
                f"The prompt has {size.num_tokens} tokens; prompt and answer share {size.max_context}.",
                param=request.prompt_param,
            )
        wanted = request.sampling.max_tokens or self._limits.default_max_tokens
        return replace(request.sampling, max_tokens=min(wanted, room))

    async def _produce(self, request: AnswerRequest, answer: Answer) -> tuple[Folders, Transcript]:
        seconds = min(self._limits.answer_seconds, request.seconds or self._limits.answer_seconds)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                folders = tuple([await self._folder(part.model) for part in request.parts])
            # The engine is asked to end at the deadline: what it wrote until then is read, and charged.
            async with asyncio.timeout_at(deadline + self._limits.close_seconds / 2):
                chats = _chats(request, answer.id, folders, probe_error=self._probe_error)
                return folders, await transcribe(self._engine, chats, answer, deadline)
        except TimeoutError as error:
            raise AnswerInterrupted("The answer took too long; nothing was charged.") from error

    async def _folder(self, model: Model) -> AdapterFolder | None:
        if model.is_base:
            return None
        found = self._adapters.here(model.record)
        if found is not None and found.path in self._prepared:
            return found
        if found is None:
            await self._fetched(model.record)
        return await asyncio.to_thread(self._prepare, model.record)

    async def _fetched(self, record: VersionRecord) -> None:
        """One thread for each content, however many answers wait for it, and give up waiting."""
        fetch = self._fetches.get(record.cid_digest)
        if fetch is None:
            loop = asyncio.get_running_loop()
            fetch = loop.run_in_executor(self._fetchers, self._adapters.folder, record)
            self._fetches[record.cid_digest] = fetch
            fetch.add_done_callback(lambda _: self._fetches.pop(record.cid_digest))
        await asyncio.shield(fetch)

    def _prepare(self, record: VersionRecord) -> AdapterFolder:
        folder = self._adapters.folder(record)
        for attributor in self._attributors if record.snapshots else ():
            attributor.prepare(folder.path)
        self._prepared.add(folder.path)
        return folder

    def _bill_all(self, asked: Sequence[_Billed]) -> list[Bill | Exception]:
        """What fails for one is no reason to fail the others."""
        found: list[Bill | Exception] = []
        for one in asked:
            try:
                found.append(self._bill(*one))
            except Exception as error:  # noqa: BLE001 - it is told to whoever asked
                found.append(error)
        return found

    def _bill(self, request: AnswerRequest, folders: Folders, transcript: Transcript) -> Bill:
        method, shares = self._attribution(request.parts, folders, transcript)
        slices = tuple(
            Slice(part.model.id, part.ppm, shares.get(part.model.id, ())) for part in request.parts
        )
        salt = secrets.token_bytes(32)
        counts = transcript.prompt_tokens, transcript.completion_tokens
        return Bill(
            charge=charge(slices, [part.model.record for part in request.parts], *counts),
            request_hash=salted_hash(salt, request.body),
            response_hash=salted_hash(salt, response_bytes(transcript.texts)),
            slices=slices,
            slices_hash=slices_hash(slices),
            method=method,
            attribution_hash=attribution_hash(method, slices),
            prompt_tokens=transcript.prompt_tokens,
            completion_tokens=transcript.completion_tokens,
            salt=to_hash(salt),
        )

    def _attribution(
        self, parts: Sequence[Part], folders: Folders, transcript: Transcript
    ) -> tuple[str, dict[VersionId, tuple[Share, ...]]]:
        """The method, and the shares of those versions that have snapshots."""
        learnt = {
            part.model.id: (folder.path, self._positions.of(part.model.record.snapshots))
            for part, folder in zip(parts, folders, strict=True)
            if folder is not None and part.model.record.snapshots
        }
        if not learnt:
            return UNATTRIBUTED, {}
        method, shares = attribute_all(self._attributors, list(learnt.values()), transcript.probe)
        return method, dict(zip(learnt, shares, strict=True))


def _num_bytes(prompt: Prompt) -> int:
    texts = [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]
    return sum(len(text.encode()) for text in texts)


def _chats(request: AnswerRequest, answer_id: str, folders: Folders, *, probe_error: bool) -> list[Chat]:
    """One a choice."""
    parts = zip(request.parts, folders, strict=True)
    weighted = tuple((folder, part.weight) for part, folder in parts if folder is not None)
    has_snapshots = any(part.model.record.snapshots for part in request.parts)
    return [
        Chat(
            id=f"{answer_id}-{number}",
            prompt=request.prompt,
            sampling=_seeded(request.sampling, number),
            adapter=None if request.blend else folders[0],
            blend=weighted if request.blend else (),
            probe=has_snapshots,
            probe_error=probe_error and has_snapshots,
            payer=request.payer.account,
            priority=request.priority,
        )
        for number in range(request.num_choices)
    ]


def _seeded(sampling: Sampling, number: int) -> Sampling:
    if sampling.seed is None or not number:
        return sampling
    seed = sampling.seed + number
    return replace(sampling, seed=seed if seed < SEEDS_END else seed - 2 * SEEDS_END)
