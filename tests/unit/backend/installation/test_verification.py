"""Requests to the engine when an answer is computed again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.errors import InvalidInput
from backend.installation.base_model import BaseModelInfo
from backend.installation.resources import Resources
from backend.installation.verification import Recomputation
from backend.services.market.adapter_folders import adapter_ref
from backend.services.receipts.reexecution import NotRepeatable
from backend.settings import Settings
from tests.support.market import Market, some_hash

if TYPE_CHECKING:
    from backend.domain.receipt import VersionRecord
    from inference.protocol import Generate

MARKET = Market()
RECORD = replace(next(iter(MARKET.records.values())), snapshots=())
FIRST, SECOND = (replace(RECORD, adapter_digest=some_hash(name)) for name in ("first", "second"))


class Folders:
    def folder(self, record: VersionRecord) -> Path:
        return Path(record.adapter_digest)


class Again(Recomputation):
    """Recomputes the answer of a receipt that names these versions."""

    def __init__(self, *records: VersionRecord) -> None:
        installation: Any = Resources(Settings())
        installation.base_models = {RECORD.base_model: BaseModelInfo("tiny", RECORD.base_model, "")}
        installation.adapter_folders = Folders()
        shown: Any = SimpleNamespace(signed=MARKET.serve(MARKET.channels[0]))
        super().__init__(installation, shown, None, None)
        self._named = list(records)

    def _records(self) -> list[VersionRecord]:
        return self._named

    def asked(self, *weights: float, **fields: Any) -> Generate:
        blend = [{"model": "any", "weight": weight} for weight in weights]
        prompt = {} if fields.keys() & {"input", "messages"} else {"prompt": "hello"}
        body = {"model": "any", **prompt, "temperature": 0, **fields}
        return self._request(json.dumps(body | ({"loraledger": {"blend": blend}} if blend else {})).encode())


def test_one_adapter_is_requested_alone_and_several_as_a_blend() -> None:
    alone = Again(FIRST).asked()
    assert (alone.adapter, alone.blend) == (adapter_ref(FIRST, Path(FIRST.adapter_digest)), None)
    together = Again(FIRST, SECOND).asked(0.5, 0.25)
    assert together.adapter is None
    assert together.blend is not None
    assert [(part.adapter, part.weight) for part in together.blend.parts] == [
        (adapter_ref(FIRST, Path(FIRST.adapter_digest)), 0.5),
        (adapter_ref(SECOND, Path(SECOND.adapter_digest)), 0.25),
    ]


def test_a_request_for_other_adapters_than_the_receipts_is_refused() -> None:
    for records, weights in (((FIRST,), (1.0, 1.0)), ((FIRST, SECOND), ()), ((FIRST, SECOND), (1.0,))):
        with pytest.raises(InvalidInput, match="other adapters than"):
            Again(*records).asked(*weights)


def test_sampling_without_a_seed_is_not_repeatable() -> None:
    with pytest.raises(NotRepeatable):
        Again(FIRST).asked(temperature=1)
    assert Again(FIRST).asked(temperature=1, seed=3).sampling.seed == 3


def test_requests_of_every_endpoint_are_computed_again_with_their_tools() -> None:
    function = {"name": "f", "parameters": {"type": "object"}}
    chat = Again(FIRST).asked(
        messages=[{"role": "user", "content": "hello"}],
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
    )
    response = Again(FIRST).asked(
        input="hello", tools=[{"type": "function", **function}], tool_choice="required"
    )
    assert chat.tools is not None
    assert chat.tools.is_required
    assert (response.messages, response.tools) == (chat.messages, chat.tools)
    assert Again(FIRST).asked().prompt == "hello"
