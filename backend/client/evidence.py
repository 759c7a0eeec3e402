"""Documents of a market's API about a receipt. None is trusted: what they state is verified by hashes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from backend.client.errors import ApiError, reading_answer
from backend.domain.batch import MAX_SPANS, SPAN_BYTES, Header, Span, unpack_spans
from backend.domain.disputes.witnesses import record_from_chain
from backend.domain.entries import Entry
from backend.domain.errors import InvalidInput
from backend.domain.hashing import accepted_hash, snapshot_id, to_bytes, version_id
from backend.domain.ids import Account, DatanetId, SnapshotId, VersionId
from backend.domain.merkle import Opening
from backend.domain.receipt import MAX_SNAPSHOTS
from backend.domain.receipt_proof import ProvenBalance, ProvenEntry, ReceiptProof
from backend.domain.split import MAX_SLICES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backend.client.api import ApiClient
    from backend.domain.receipt import VersionRecord

NOT_COMMITTED, UNAVAILABLE = "not_committed", "unavailable"
PROOF_SECONDS, POLL_SECONDS = 300.0, 5.0
"""How long, and how often, a proof is asked for while the market audits its batch."""
MAX_DEPTH = 32
"""Of the trees of a batch."""
_Account = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{40}$")]
_Amount = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,38}$")]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _Opening(msgspec.Struct):
    index: _Count
    value: _Amount
    path: Annotated[str, msgspec.Meta(pattern=f"^0x([0-9a-f]{{96}}){{0,{MAX_DEPTH}}}$")]

    def parse(self) -> Opening:
        return Opening(self.index, int(self.value), to_bytes(self.path))


class _Entry(msgspec.Struct):
    account: _Account
    slice: _Count
    part: _Count
    opening: _Opening


class _Balance(msgspec.Struct):
    account: _Account
    opening: _Opening


class _Proof(msgspec.Struct):
    header: dict[str, str]
    spans: Annotated[
        str, msgspec.Meta(max_length=2 + 2 * MAX_SPANS * SPAN_BYTES, pattern="^0x([0-9a-f]{160})*$")
    ]
    receipt: _Opening
    entries: list[_Entry]
    balances: list[_Balance]

    def parse(self) -> ReceiptProof:
        header = Header.from_chain(self.header)
        entries = (
            ProvenEntry(
                Entry(Account(e.account), self.receipt.index, e.slice, e.part, int(e.opening.value)),
                e.opening.parse(),
            )
            for e in self.entries
        )
        balances = (ProvenBalance(Account(b.account), b.opening.parse()) for b in self.balances)
        return ReceiptProof(header, self.receipt.parse(), tuple(entries), tuple(balances))


class _Version(msgspec.Struct):
    record: dict[str, Any]


class _Contribution(msgspec.Struct):
    index: _Count
    contributor: _Account


class _Manifest(msgspec.Struct, rename="camel"):
    datanet_id: _Count
    count: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
    contributions: list[_Contribution]

    def parse(self) -> tuple[SnapshotId, dict[int, Account]]:
        within = (one for one in self.contributions if one.index < self.count)
        accepted = {one.index: Account(one.contributor) for one in within}
        bits = [index in accepted for index in range(self.count)]
        return snapshot_id(DatanetId(self.datanet_id), self.count, accepted_hash(bits)), accepted


class Documents(msgspec.Struct):
    """The proof of a receipt, the records of its versions, and the manifests of their snapshots."""

    proof: _Proof | None = None
    versions: Annotated[list[_Version], msgspec.Meta(max_length=MAX_SLICES)] = []
    snapshots: Annotated[list[_Manifest], msgspec.Meta(max_length=MAX_SLICES * MAX_SNAPSHOTS)] = []


@dataclass(frozen=True, slots=True)
class Evidence:
    """Records and accepted contributions, by ids that are computed from them. A `Registry` for `Rules`."""

    records: Mapping[VersionId, VersionRecord] = field(default_factory=dict)
    accepted: Mapping[SnapshotId, Mapping[int, Account]] = field(default_factory=dict)
    proof: ReceiptProof | None = None
    spans: Sequence[Span] = ()

    def version(self, version: VersionId) -> VersionRecord | None:
        return self.records.get(version)

    def contributor_of(self, snapshot: SnapshotId, index: int) -> Account | None:
        return self.accepted.get(snapshot, {}).get(index)


def parse_evidence(documents: Documents) -> Evidence:
    """Errors: `InvalidInput`."""
    try:
        records = {
            version_id(record): record for record in (record_from_chain(v.record) for v in documents.versions)
        }
        accepted = dict(manifest.parse() for manifest in documents.snapshots)
        if documents.proof is None:
            return Evidence(records, accepted)
        proof, spans = documents.proof.parse(), unpack_spans(to_bytes(documents.proof.spans))
        proof.header.hash  # noqa: B018 - fails for a field that does not fit
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InvalidInput(f"the receipt's evidence is malformed: {error!r}", param="receipt") from error
    return Evidence(records, accepted, proof, spans)


def fetch_evidence(
    client: ApiClient, receipt: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """Documents about a receipt from the market that issued it; `proof` is missing before its batch, and if
    the market has not audited the batch after `PROOF_SECONDS`. `say` is called if it waits, and if there is
    no proof.
    """
    with reading_answer():
        versions = [client.get(f"/v1/versions/{part['version_id']}") for part in receipt["slices"]]
        named = {str(snapshot) for version in versions for snapshot in version["record"]["snapshots"]}
        snapshots = [client.get(f"/v1/snapshots/{snapshot}/manifest") for snapshot in sorted(named)]
    proof = _fetch_proof(client, f"/v1/receipts/{receipt['id']}/proof", say)
    return {"versions": versions, "snapshots": snapshots} | ({} if proof is None else {"proof": proof})


def _fetch_proof(client: ApiClient, path: str, say: Callable[[str], None]) -> Any:
    until, is_said = time.monotonic() + PROOF_SECONDS, False
    while True:
        try:
            return client.get(path)
        except ApiError as error:
            code = error.details["code"]
            if code not in {NOT_COMMITTED, UNAVAILABLE}:
                raise
            if code == NOT_COMMITTED or time.monotonic() > until:
                say(f"there is no proof of the receipt's batch ({error}); repeat the command later to get it")
                return None
            if not is_said:
                say(f"the market has no proof of the receipt's batch yet ({error}); waiting")
                is_said = True
        time.sleep(POLL_SECONDS)
