from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import AliasPath, Field

from backend.api.schemas.common import Amount, Page, View
from backend.domain.earnings import EarningsBy, EarningState, Role
from backend.domain.ids import Account
from backend.domain.money import AMOUNT
from backend.services.accounts.earned_receipt import EarnedReceipt
from backend.services.accounts.earnings import EarningsPage, EarningsSummary

CSV_COLUMNS = (
    *("credited_at", "operator", "batch", "receipt_id", "slice", "role", "adapter", "datanet"),
    *("contribution", "amount_micro_units", "amount_usd", "state"),
)
NO_ACCURACY = (
    "The folder of an adapter states no agreement of the method with the gradient, or is not stored here; "
    "docs/attribution.md has the method's accuracy on reference data."
)


class EarningEntryView(View):
    """What one part of a slice of a receipt pays the account."""

    operator: str = Field(validation_alias=AliasPath("credit", "operator"))
    batch: int = Field(validation_alias=AliasPath("credit", "number"), description="Number of the batch.")
    batch_hash: str = Field(validation_alias=AliasPath("credit", "batch_hash"))
    credited_at: int = Field(
        validation_alias=AliasPath("credit", "credited_at"),
        description="Unix seconds of the batch's commit.",
    )
    state: EarningState
    receipt_id: str = Field(validation_alias=AliasPath("earning", "receipt_id"))
    slice: int = Field(validation_alias=AliasPath("earning", "slice"))
    role: Role = Field(validation_alias=AliasPath("earning", "role"))
    version_id: str = Field(validation_alias=AliasPath("earning", "version_id"))
    adapter: str
    datanet: int | None = Field(validation_alias=AliasPath("earning", "datanet"))
    contribution: int | None = Field(
        validation_alias=AliasPath("earning", "contribution"),
        description="Index in the datanet; null unless the role is `contributor`.",
    )
    amount: Amount = Field(validation_alias=AliasPath("earning", "amount"))

    def csv_row(self) -> dict[str, object]:
        amount = AMOUNT.render(self.amount)
        own = {name: getattr(self, name) for name in CSV_COLUMNS if name in type(self).model_fields}
        return own | {
            "credited_at": datetime.fromtimestamp(self.credited_at, UTC).isoformat(),
            "amount_micro_units": amount[AMOUNT.unit],
            "amount_usd": amount[AMOUNT.dollars],
        }


def csv_text(entries: Iterable[EarningEntryView], *, has_header: bool = True) -> str:
    return _csv((entry.csv_row() for entry in entries), has_header=has_header)


def csv_of_unverifiable(operators: Iterable[Account]) -> str:
    """A row without an amount for each of these operators, of which batches are left out."""
    return _csv({"operator": operator, "state": "unverifiable"} for operator in operators)


def _csv(rows: Iterable[dict[str, object]], *, has_header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\r\n")
    if has_header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class UnverifiableView(View):
    """An operator of which batches cannot be verified or listed here; what they credit is left out."""

    operator: str
    reason: str


class EarningEntryPage(Page[EarningEntryView]):
    unverifiable: list[UnverifiableView]

    @classmethod
    def of(cls, page: EarningsPage, cursor: str | None) -> EarningEntryPage:
        return cls(
            data=[EarningEntryView.model_validate(entry) for entry in page.entries],
            next_cursor=cursor,
            unverifiable=[UnverifiableView.model_validate(one) for one in page.unverifiable],
        )


class EarningsGroupView(View):
    """`amount` is the sum of `pending`, `final` and `claimed`; with `state=void`, what void batches would
    have paid.
    """

    key: str | None = Field(
        description="The day, version id, `datanet/index` of the contribution, or operator; null for entries "
        "that pay for no contribution."
    )
    adapter: str | None = Field(description="Name of the version, by adapter.")
    num_entries: int
    amount: Amount
    pending: Amount
    final: Amount
    claimed: Amount


class EarningsSummaryView(Page[EarningsGroupView]):
    """With `next_cursor`, the sums of the batches that were read so far: add those of the next page with the
    same keys.
    """

    account: str
    by: EarningsBy
    unverifiable: list[UnverifiableView]

    @classmethod
    def of(
        cls, account: Account, by: EarningsBy, summary: EarningsSummary, cursor: str | None
    ) -> EarningsSummaryView:
        return cls(
            account=account,
            by=by,
            data=[EarningsGroupView.model_validate(group) for group in summary.groups],
            next_cursor=cursor,
            unverifiable=[UnverifiableView.model_validate(one) for one in summary.unverifiable],
        )


class EarnedPartView(View):
    """`share_ppm`: the contribution's share in the slice's attribution; null for other roles."""

    role: Role
    account: str
    amount: Amount
    datanet: int | None
    contribution: int | None
    share_ppm: int | None


class EarnedSliceView(View):
    """`parts` sum up to `charge`."""

    version_id: str
    adapter: str
    weight_ppm: int
    charge: Amount
    parts: list[EarnedPartView]


class EarnedReceiptView(View):
    """`ppm`: the account's part of the charge, rounded down."""

    receipt_id: str
    account: str
    amount: Amount
    ppm: int
    state: EarningState
    charge: Amount
    prompt_tokens: int
    completion_tokens: int
    served_at: int
    method: str = Field(description="Attribution method.")
    method_accuracy: float | None = Field(
        description="Agreement of the method with the gradient: the mean Spearman correlation of the "
        "contributions' scores over kept-out answers that the adapter generated; of a blend the lowest of "
        "its adapters. Not LDS (docs/attribution.md). The adapter's creator states it; "
        "`loraledger attribution verify` recomputes it."
    )
    method_accuracy_answers: int | None = Field(description="Number of those answers.")
    method_accuracy_reason: str | None = Field(description="Why `method_accuracy` is null.")
    slices: list[EarnedSliceView]
    operator: str
    batch: int
    batch_hash: str
    batch_state: str
    tx_hash: str = Field(description="Transaction that committed the batch in Settlement.")
    data_cid: str = Field(
        description="Folder with the batch's data, from which anyone recomputes the entries."
    )
    proof_url: str | None = Field(
        description="Merkle proofs of the receipt and its entries, served by the operator; null while it "
        "states no URL."
    )

    @classmethod
    def of(cls, found: EarnedReceipt) -> EarnedReceiptView:
        receipt, batch, accuracy = found.signed.receipt, found.batch, found.accuracy
        return cls(
            receipt_id=found.receipt_id,
            account=found.account,
            amount=found.amount,
            ppm=found.ppm,
            state=found.state,
            charge=receipt.charge,
            prompt_tokens=receipt.prompt_tokens,
            completion_tokens=receipt.completion_tokens,
            served_at=receipt.served_at,
            method=found.signed.method,
            method_accuracy=None if accuracy is None else accuracy[0],
            method_accuracy_answers=None if accuracy is None else accuracy[1],
            method_accuracy_reason=NO_ACCURACY if accuracy is None else None,
            slices=[EarnedSliceView.model_validate(one) for one in found.slices],
            operator=batch.operator,
            batch=batch.number,
            batch_hash=batch.hash,
            batch_state=batch.state,
            tx_hash=batch.tx_hash,
            data_cid=found.data_cid,
            proof_url=found.proof_url,
        )
