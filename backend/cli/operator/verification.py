"""Verifies receipts in an installation: against its index of the chain, and by computing answers again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from backend.cli.operator.session import open_installation
from backend.domain.errors import NotFound
from backend.domain.ids import Hash32

if TYPE_CHECKING:
    from backend.domain.ids import ChargeId
    from backend.domain.receipt_checks import Check, ReceiptFile
    from backend.installation.installation import Installation

_ID = re.compile("0x[0-9a-f]{64}")


def indexed_checks(
    receipt: str,
    charge: ChargeId | None,
    body: bytes | None,
    answer: str | None,
    *,
    recomputes: bool,
    executes: bool,
) -> list[Check]:
    """`receipt`: a file, or the id of a receipt of this installation. Errors: `NotFound`, `InvalidInput`."""
    with open_installation() as installation:
        installation.check_database()
        loaded = _load_receipt(installation, receipt)
        return _checks(installation, loaded, charge, body, answer, recomputes=recomputes, executes=executes)


def _checks(
    installation: Installation,
    receipt: ReceiptFile,
    charge: ChargeId | None,
    body: bytes | None,
    answer: str | None,
    *,
    recomputes: bool,
    executes: bool,
) -> list[Check]:
    from backend.installation.verification import Recomputation

    checks = list(installation.audit.verification.checks(receipt, charge))
    recomputation = Recomputation(installation, receipt, body, answer)
    content = recomputation.content()
    if content is not None:
        checks.append(content)
        if content.is_right is False:
            return checks  # the files belong to another receipt, so recomputing them proves nothing
    repeated = recomputation.execute() if executes else None
    if repeated is not None:
        checks.append(recomputation.execution(repeated))
    return [*checks, *(recomputation.attribution(repeated) if recomputes else ())]


def _load_receipt(installation: Installation, receipt: str) -> ReceiptFile:
    from backend.client.receipt_file import parse_receipt
    from backend.installation.verification import load_receipt

    if _ID.fullmatch(receipt.lower()):
        return load_receipt(installation, Hash32(receipt.lower()))
    path = Path(receipt)
    if not path.is_file():
        raise NotFound(f"{receipt!r} is neither a file nor the id of a receipt", param="receipt")
    return parse_receipt(path.read_bytes())
