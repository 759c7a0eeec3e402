from __future__ import annotations

from backend.api.schemas.common import Micro, View
from backend.domain.hashing import pack_list
from backend.domain.ids import Account
from backend.domain.merkle import Opening
from backend.domain.serving import StoredReceipt
from backend.services.receipts.proofs import Place
from backend.services.receipts.receipts import NamedSlice, ReceiptView


class ReceiptBody(View):
    """The EIP-712 `Receipt`. Amounts in micro-units."""

    channel_id: str
    cumulative: Micro
    charge: Micro
    request_hash: str
    response_hash: str
    slices_hash: str
    prompt_tokens: int
    completion_tokens: int
    attribution_hash: str
    served_at: int


class ReceiptSummary(View):
    """`batch`: number of the batch it stands in; None while it waits for one."""

    id: str
    operator: str
    payer: str
    receipt: ReceiptBody
    batch: int | None

    @classmethod
    def of(cls, stored: StoredReceipt) -> ReceiptSummary:
        return cls(
            id=stored.id,
            operator=stored.operator,
            payer=stored.payer,
            receipt=ReceiptBody.model_validate(stored.signed.receipt),
            batch=stored.batch,
        )


class ShareBody(View):
    """`contribution` is the index within `datanet`; `contributor` is whom the registry recorded."""

    position: int
    ppm: int
    datanet: int | None
    contribution: int
    contributor: str | None


class SliceBody(View):
    """`packed`: the list that the receipt's attribution hash commits to, 0x-hex."""

    version_id: str
    weight_ppm: int
    packed: str
    shares: list[ShareBody]

    @classmethod
    def of(cls, part: NamedSlice) -> SliceBody:
        shares = [
            ShareBody(
                position=named.share.position,
                ppm=named.share.ppm,
                datanet=named.datanet,
                contribution=named.contribution,
                contributor=named.contributor,
            )
            for named in part.shares
        ]
        packed = pack_list([named.share for named in part.shares])
        return cls(
            version_id=part.version_id, weight_ppm=part.weight_ppm, packed="0x" + packed.hex(), shares=shares
        )


class ReceiptDetail(ReceiptSummary):
    """All that is needed to check a receipt offline. `salt` is there for the payer only."""

    method: str
    slices: list[SliceBody]
    signature: str
    salt: str | None
    batch_state: str | None

    @classmethod
    def for_viewer(cls, view: ReceiptView, viewer: Account | None) -> ReceiptDetail:
        stored = view.stored
        return cls(
            **dict(ReceiptSummary.of(stored)),
            method=stored.signed.method,
            slices=[SliceBody.of(part) for part in view.slices],
            signature=stored.signed.signature,
            salt=stored.salt if viewer == stored.payer else None,
            batch_state=view.batch_state,
        )


class AccountWeight(View):
    """`account`: null for contributions that this operator's view of the chain does not know."""

    account: str | None
    ppm: int


class AttributionView(View):
    """`slices` as in the receipt. `accounts`: what each contributor has of the whole answer, over all slices,
    in ppm rounded down; the most first. A slice without shares is attributed to nobody.
    """

    receipt_id: str
    method: str
    slices: list[SliceBody]
    accounts: list[AccountWeight]

    @classmethod
    def of(cls, view: ReceiptView) -> AttributionView:
        return cls(
            receipt_id=view.stored.id,
            method=view.stored.signed.method,
            slices=[SliceBody.of(part) for part in view.slices],
            accounts=[AccountWeight(account=account, ppm=ppm) for account, ppm in view.weights()],
        )


class OpeningView(View):
    """A leaf's place in a Merkle-sum tree. `path`: its siblings upwards, sum 16 bytes and hash 32 each."""

    index: int
    value: Micro
    path: str

    @classmethod
    def of(cls, opening: Opening) -> OpeningView:
        return cls(index=opening.index, value=opening.value, path="0x" + opening.path.hex())


class EntryProofView(View):
    """What an account earns from one part of one slice of the receipt: the opening's value."""

    account: str
    slice: int
    part: int
    opening: OpeningView


class BalanceProofView(View):
    """All that the operator ever credited the account, up to this batch: the opening's value."""

    account: str
    opening: OpeningView


class ReceiptProofView(View):
    """`header`: Solidity's `BatchHeader`, integers as decimal strings; its hash is `batch_hash`, which
    Settlement announced in `tx_hash`. The openings lead to its roots; `entries` are worth the charge.
    """

    batch_hash: str
    batch_state: str
    tx_hash: str
    block_number: int
    header: dict[str, str]
    receipt: OpeningView
    entries: list[EntryProofView]
    balances: list[BalanceProofView]

    @classmethod
    def of(cls, place: Place) -> ReceiptProofView:
        batch, proof = place.batch, place.proof
        entries = [
            EntryProofView(
                account=proven.entry.account,
                slice=proven.entry.slice,
                part=proven.entry.part,
                opening=OpeningView.of(proven.opening),
            )
            for proven in proof.entries
        ]
        balances = [
            BalanceProofView(account=balance.account, opening=OpeningView.of(balance.opening))
            for balance in proof.balances
        ]
        return cls(
            batch_hash=batch.hash,
            batch_state=batch.state,
            tx_hash=batch.tx_hash,
            block_number=batch.block_number,
            header={name: str(value) for name, value in proof.header.abi.items()},
            receipt=OpeningView.of(proof.receipt),
            entries=entries,
            balances=balances,
        )
