"""Recomputes the answer that a receipt was issued for, on a separate engine."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from backend.domain.attribution import answer_draw
from backend.domain.errors import InvalidInput, NotFound, Unavailable
from backend.domain.receipt_checks import Check, ReceiptFile, stated_content_check
from backend.processes.child import Child
from backend.services.market.adapter_folders import adapter_ref
from backend.services.receipts.receipts import Receipts
from backend.services.receipts.reexecution import (
    MAX_ALTERNATIVES,
    NotRepeatable,
    attribution_check,
    execution_check,
    reexecute,
)
from inference.protocol import AdapterBlend, AdapterRef, BlendPart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from backend.api.schemas.sampling import ModelFields
    from backend.domain.ids import Hash32
    from backend.domain.receipt import Slice, VersionRecord
    from backend.installation.base_model import BaseModelInfo
    from backend.installation.installation import Installation
    from backend.ports.engine import Engine
    from backend.services.receipts.reexecution import Reexecution
    from backend.settings import Settings
    from inference.protocol import Generate

STEP_SECONDS = 0.1
STOP_SECONDS = 30.0


def load_receipt(installation: Installation, receipt: Hash32) -> ReceiptFile:
    """Load a receipt issued by this installation, by its id or its charge's. Errors: `NotFound`,
    `ReceiptPending`.
    """
    try:
        found = Receipts(installation.database).get(receipt)
    except NotFound:
        raise NotFound(f"receipt {receipt} was not issued here: name its file", param="receipt") from None
    stored, charge = found.stored, found.charge
    followed = None if charge is None else (charge.id, charge.signed.charge.receipt_by)
    return ReceiptFile(stored.id, stored.operator, stored.signed, stored.salt, followed)


class Recomputation:
    """Recomputes one answer. `body` and `answer`: what the receipt's hashes commit to, if available."""

    def __init__(
        self, installation: Installation, receipt: ReceiptFile, body: bytes | None, answer: str | None
    ) -> None:
        self._installation, self._receipt = installation, receipt
        self._body, self._answer = body, answer

    def content(self) -> Check | None:
        """Check the hashes of request and answer. Errors: `InvalidInput` if only one is available."""
        return stated_content_check(self._receipt, self._body, self._answer)

    def execute(self) -> Reexecution:
        """Compute the answer again. Errors: `NotRepeatable`; `InvalidInput` for another base model;
        `Unavailable`.
        """
        if self._body is None or self._answer is None:
            raise InvalidInput("--re-execute needs --request and --answer", "request")
        return asyncio.run(self._execute(self._body))

    def execution(self, repeated: Reexecution) -> Check:
        return execution_check(self._answer or "", repeated)

    def attribution(self, repeated: Reexecution | None) -> list[Check]:
        """One check for each slice with snapshots."""
        from backend.services.answers.positions import Positions

        methods = self._installation.attribution.methods
        positions = Positions(self._installation.database)
        slices = self._receipt.signed.slices
        checks = []
        for part, record in zip(slices, self._records(), strict=True):
            if record.snapshots:
                folder = self._installation.adapter_folders.folder(record)
                probe = None if repeated is None else repeated.probe
                at, method = positions.of(record.snapshots), self._receipt.signed.method
                given = methods, folder, at, method, part.shares, probe, self._draw()
                checks.append(attribution_check(*given, is_blend=len(slices) > 1))
        return checks

    def _draw(self) -> int | None:
        if self._body is None or self._answer is None:
            return None
        return answer_draw(self._body, [self._answer])

    async def _execute(self, body: bytes) -> Reexecution:
        request = self._request(body)
        base = self._installation.base_of(self._records()[0])
        async with _separate_engine(self._installation.settings, base) as engine:
            return await reexecute(engine, request)

    def _request(self, body: bytes) -> Generate:
        records = self._records()
        if any(record.is_training for record in records):
            raise NotRepeatable("the receipt is for training: there is no answer to compute again", "receipt")
        request, weights = _parse_request(body)
        if len(records) != (len(weights) or 1):
            raise InvalidInput("the request names other adapters than the receipt", param="request")
        for record in records:
            self._installation.base_of(record)
        sampling = request.sampling
        if sampling.temperature and sampling.seed is None:
            raise NotRepeatable("the answer was sampled at random without a seed", "request")
        tokens = self._receipt.signed.receipt.completion_tokens
        sampling = replace(sampling, max_tokens=max(tokens, 1), logprobs=MAX_ALTERNATIVES)
        has_shares = any(record.snapshots for record in records)
        refs = [self._adapter(record) for record in records]
        parts = [BlendPart(ref, weight) for ref, weight in zip(refs, weights, strict=False) if ref]
        return replace(
            request,
            sampling=sampling,
            adapter=None if weights else refs[0],
            blend=AdapterBlend(tuple(parts)) if parts else None,
            probe=has_shares,
            probe_error=has_shares,
        )

    def _adapter(self, record: VersionRecord) -> AdapterRef | None:
        if int(record.adapter_digest, 16) == 0:
            return None
        return adapter_ref(record, self._installation.adapter_folders.folder(record))

    def _records(self) -> list[VersionRecord]:
        """Errors: `NotFound`."""
        with self._installation.database.read() as tx:
            found = [(part, tx.chain.version(part.version_id)) for part in self._receipt.signed.slices]
        return [_require_indexed(part, record) for part, record in found]


def _require_indexed(part: Slice, record: VersionRecord | None) -> VersionRecord:
    if record is None:
        raise NotFound(
            f"version {part.version_id} is not indexed here: run `loraledger index`", param="version_id"
        )
    return record


def _parse_request(body: bytes) -> tuple[Generate, list[float]]:
    """Parse a request body as the API does. Returns the engine's message, and the weights of a blend."""
    from pydantic import ValidationError

    from backend.api.schemas.chat import ChatCompletionRequest
    from backend.api.schemas.completions import CompletionRequest
    from backend.api.schemas.responses import ResponsesRequest

    kinds: dict[str, type[ModelFields]] = {
        "messages": ChatCompletionRequest,
        "input": ResponsesRequest,
        "prompt": CompletionRequest,
    }
    try:
        fields = json.loads(body)
        kind = next((kind for field, kind in kinds.items() if field in fields), CompletionRequest)
        request = kind.model_validate_json(body)
    except (ValueError, TypeError, RecursionError, ValidationError) as error:
        raise InvalidInput(f"the API does not accept this request: {error}", param="request") from error
    if request.num_choices != 1:
        raise NotRepeatable("answers with several choices cannot be computed again", "request")
    message = replace(request.to_generate(default_max_tokens=1), request_id="again", priority=0)
    return message, [part.weight for part in request.blend]


@asynccontextmanager
async def _separate_engine(settings: Settings, base: BaseModelInfo) -> AsyncIterator[Engine]:
    """Start an engine of a base model for one answer: outside a batch, its result is bitwise
    reproducible.
    """
    from backend.engine.client import EngineClient
    from backend.engine.process import EngineProcess

    options: dict[str, str | int] = {
        "dtype": settings.engine_dtype,
        "quantization": settings.engine_quantization,
        "batch_invariant": True,
    }
    with tempfile.TemporaryDirectory(prefix="loraledger-") as folder:
        socket_path = Path(folder) / "engine.sock"
        started = EngineProcess(
            socket_path, base.folder, num_threads=settings.engine_threads, options=options
        )
        process = Child(
            started.arguments(), errors=None, output=subprocess.DEVNULL, environment=started.environment()
        )
        try:
            while not socket_path.exists():
                if process.status is not None:
                    raise Unavailable("the engine exited before it was ready; see its output above")
                await asyncio.sleep(STEP_SECONDS)
            async with EngineClient(socket_path) as client:
                yield client
        finally:
            await asyncio.to_thread(process.end, STOP_SECONDS)
