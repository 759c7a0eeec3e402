"""Parsers of documents of other parties: receipts, batches, terms, cards, deployment records, vouchers."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import ValidationError

from backend.api.schemas.channels import VoucherRequest
from backend.client.receipt_file import parse_with_evidence
from backend.domain.batch import Header, camel_case
from backend.domain.batch_data import BatchName, MalformedBatch, decode, encode
from backend.domain.deployment import parse_deployment
from backend.domain.errors import InvalidInput
from backend.domain.hashing import record_argument
from backend.domain.ids import DatanetId
from backend.domain.money import PRICE
from backend.domain.registries import Datanet
from backend.domain.signatures import parse_signature
from backend.services.contribute.licences import UnknownLicence, parse_licence
from backend.services.contribute.terms import TERMS_FILE, UnreadableTerms, accepted_licence, terms_file
from backend.services.market.cards import read_card
from backend.services.operator.directory import parse_operator_card
from tests.fuzz.mutations import json_values
from tests.fuzz.target import Target
from tests.support.market import CHAIN_ID, Market, some_account, some_hash
from tests.support.receipt_files import receipt_file

if TYPE_CHECKING:
    from backend.ports.storage import BlobStore


def receipt(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        parse_with_evidence(data)


def receipt_seeds() -> list[bytes]:
    market = Market()
    fields = receipt_file(market.serve())
    opening = {"index": 1, "value": "2", "path": "0x" + "ab" * 48}
    account = some_account("contributor")
    manifest = {"datanetId": 1, "count": 2, "contributions": [{"index": 0, "contributor": account}]}
    entries = [{"account": account, "slice": 0, "part": 1, "opening": opening}]
    proof: dict[str, Any] = {
        "header": {
            camel_case(name): "1" if kind == "int" else some_hash(name)
            for name, kind in Header.__annotations__.items()
        },
        "spans": "0x",
        "receipt": opening,
        "entries": entries,
        "balances": [],
    }
    record = record_argument(next(iter(market.records.values())))
    charge = {"id": some_hash("charge"), "receipt_by": 5}
    return [
        json.dumps(fields).encode(),
        json.dumps(fields | {"signed_charge": charge, "evidence": {"snapshots": [manifest]}}).encode(),
        json.dumps(fields | {"evidence": {"proof": proof, "versions": [{"record": record}]}}).encode(),
        b'{"status":"pending"}',
    ]


def batch(data: bytes) -> None:
    with contextlib.suppress(MalformedBatch):
        assert encode(*decode(data)) == data, "equal batches are equal bytes"


def batch_seeds() -> list[bytes]:
    market = Market(5)
    name = BatchName(CHAIN_ID, market.settlement, market.operator, 1)
    return [encode(name, market.receipts(2)), encode(name, ())]


class _Folder:
    """A block store with one file."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def names(self, _cid: str) -> dict[str, int]:
        return {TERMS_FILE: len(self._content)}

    def read(self, _cid: str, _name: str) -> bytes:
        return self._content


def terms(data: bytes) -> None:
    store: BlobStore = _Folder(data)  # type: ignore[assignment]
    datanet = Datanet(DatanetId(1), some_account("creator"), "poems", some_hash("folder"), 0)
    with contextlib.suppress(UnreadableTerms):
        licence = accepted_licence(store, datanet)
        assert licence is not None
        assert parse_licence(licence) == licence, "what is accepted is in its normal form"


def terms_seeds() -> list[bytes]:
    return [
        terms_file("MIT"),
        terms_file("(mit or Apache-2.0) and CC-BY-4.0"),
        b'{"licence":"GPL-2.0+ WITH x"}',
    ]


def licence(data: bytes) -> None:
    with contextlib.suppress(UnknownLicence):
        parse_licence(data.decode(errors="replace"))


def licence_seeds() -> list[bytes]:
    return [b"MIT", b"mit or (Apache-2.0 and bsd-3-clause)", b"GPL-2.0-or-later WITH Classpath-exception-2.0"]


def card(data: bytes) -> None:
    """A card has no form that must be kept to."""
    found = read_card(data)
    assert found.text.isprintable() or all(c.isprintable() or c in "\n\t" for c in found.text)


def card_seeds() -> list[bytes]:
    return [
        b"---\ntags: [a, 'b']\nlicence: MIT\n---\n# Title\n\nWhat it *does*.\n",
        b"---\nx: &a [1, *a]\n---\n> quoted\n\n| table |\n",
    ]


def operator_card(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        parse_operator_card(data)


def operator_card_seeds() -> list[bytes]:
    price = PRICE.render(200_000)
    base = {"digest": some_hash("base"), "name": "tiny", "prompt_price": price, "completion_price": None}
    fields = {"account": some_account("operator"), "bases": [base], "active_adapters": [some_hash("a")]}
    return [json.dumps(fields).encode()]


def deployment(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        parse_deployment(data, "the record")


def deployment_seeds() -> list[bytes]:
    addresses = {"PaymentVault": some_account("vault")}
    fields = {"chain_id": 1, "block_number": 2, "block_hash": some_hash("b"), "addresses": addresses}
    return [json.dumps(fields).encode()]


def voucher(data: bytes) -> None:
    with contextlib.suppress(ValidationError, InvalidInput):
        parse_signature(VoucherRequest.model_validate_json(data).signature)


def voucher_seeds() -> list[bytes]:
    signature = "0x" + "11" * 64 + "1b"
    fields = {"waived_until": "0", "max_cumulative": "5000000", "signature": signature}
    return [json.dumps(fields).encode(), msgspec.json.encode({"max_cumulative": 5, "signature": "0x"})]


TARGETS = (
    Target("receipt", receipt, receipt_seeds, mutate=json_values),
    Target("batch", batch, batch_seeds),
    Target("terms", terms, terms_seeds, mutate=json_values),
    Target("licence", licence, licence_seeds, max_bytes=256),
    Target("card", card, card_seeds),
    Target("operator_card", operator_card, operator_card_seeds, mutate=json_values),
    Target("deployment", deployment, deployment_seeds, max_bytes=1024, mutate=json_values),
    Target("voucher", voucher, voucher_seeds, max_bytes=512, mutate=json_values),
)
