"""Measures gas and code sizes into `tests/snapshots/gas.json` and `code_size.json`; `--check` only compares.

Gas is read from transaction receipts on a separate local chain, with cold accounts and slots. The gas of one
item in a batch (voucher, refund, contribution) is the difference between batches of 50 and of one, divided
by 49; `commit_batch` is the batch of one without its item.
Merkle-sum proofs have the depths in their names, with arbitrary siblings.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.chain.keys import LocalSigner, local_account
from backend.chain.local_node import LocalNode
from backend.deployment.builds import load_build
from backend.domain.batch import Header
from backend.domain.hashing import ascii_word, keccak, word
from backend.domain.signatures import compact
from tools.gas_demands import demand_gas
from tools.gas_disputes import (
    DEPTH,
    TOTAL,
    Provenance,
    WrongBatch,
    deep_opening,
    zero_leaf_proof,
    zero_receipts,
)
from tools.gas_market import FAR, MICRO, Chain, Operator, Payer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backend.domain.disputes.proofs import Proof
    from backend.domain.ids import Account

ROOT = Path(__file__).resolve().parent.parent
SNAPSHOTS = ROOT / "tests" / "snapshots"
CONTRACTS = (
    "AdapterRegistry",
    "DatasetRegistry",
    "Disputes",
    "MarketGovernor",
    "MarketToken",
    "OperatorRegistry",
    "Parameters",
    "PaymentVault",
    "Settlement",
)
IN_BATCH = 50


def settlement_gas(chain: Chain) -> dict[str, int]:
    operator = Operator(chain)
    Payer(chain, "the first of all", 1)
    one = Payer(chain, "payer", 10**6)
    top_up = one.deposit(10**5)
    operator.commit([one], MICRO)
    operator.finalise()
    single = operator.commit([one], MICRO)
    by_payer, by_session = (_voucher_gas(chain, operator, single, kind) for kind in (False, True))
    operator.finalise()
    operator.commit([one], MICRO)
    return {
        "voucher_payer_key_in_batch_50": by_payer,
        "voucher_session_key_in_batch_50": by_session,
        "commit_batch": single - by_payer,
        "finalise": operator.finalise(),
        "deposit_first": one.first_deposit,
        "deposit_top_up": top_up,
        **_claim_gas(chain, operator, one),
        **refund_gas(chain, operator, one),
        **conviction_gas(chain, operator, one),
        **demand_gas(chain, operator, one),
    }


def _voucher_gas(chain: Chain, operator: Operator, single: int, by_session: bool) -> int:  # noqa: FBT001
    payers = [Payer(chain, f"{by_session} {i}", 1_000, by_session=by_session) for i in range(IN_BATCH)]
    operator.commit(payers, MICRO)
    return _part(operator.commit(payers, MICRO), single)


def _part(many: int, one: int) -> int:
    """Return the gas of one item, from a batch of `IN_BATCH` items and a batch of one."""
    return -(-(many - one) // (IN_BATCH - 1))


def _claim_gas(chain: Chain, operator: Operator, payer: Payer) -> dict[str, int]:
    account = chain.fresh("contributor").account
    return {
        f"claim_{name}_depth_{DEPTH}": _claim(chain, operator, payer, account, units * MICRO)
        for name, units in (("first", 1_000), ("repeat", 3_000))
    }


def _claim(chain: Chain, operator: Operator, payer: Payer, account: Account, value: int) -> int:
    amount = 3_000 * MICRO
    opening, root = deep_opening(account, value, operator.total + amount)
    operator.commit([payer], amount, {"balances": (root, 2**DEPTH)})
    operator.finalise()
    parts = (opening.index, opening.value, opening.path)
    request = (operator.header, account, parts)
    return chain.send(chain.operator, "Settlement", "claim", request)


def refund_gas(chain: Chain, operator: Operator, payer: Payer) -> dict[str, int]:
    payers = [Payer(chain, f"refunded {i}", 1_000) for i in range(IN_BATCH)]
    many, one = (_refund(chain, operator, some) for some in (payers, [payer]))
    return {"refund_in_50": _part(many, one)}


def _refund(chain: Chain, operator: Operator, payers: Sequence[Payer]) -> int:
    """Measure on the second batch of the channels, so that their slots are never zero. The first is final: a
    conviction voids all pending batches.
    """
    operator.commit(payers, MICRO)
    operator.finalise()
    receipts = zero_receipts(len(payers) * MICRO)
    operator.commit(payers, MICRO, {"receipts": (receipts.root, receipts.count)})
    _convict(chain, zero_leaf_proof(Header.from_chain(operator.header)))
    return operator.refund()


def conviction_gas(chain: Chain, operator: Operator, payer: Payer) -> dict[str, int]:
    batch = WrongBatch(Provenance.recorded(chain), payer.channel, operator.total + MICRO)
    operator.commit([payer], MICRO, {"balances": (batch.parent_balances, 2**DEPTH)})
    parent = Header.from_chain(operator.header)
    operator.finalise()
    measured: dict[str, int] = {}
    proofs: dict[str, Callable[[Header], Proof]] = {
        "bad_receipt": batch.bad_receipt,
        "wrong_entry": batch.wrong_entry,
        "wrong_balance": partial(batch.wrong_balance, parent=parent),
    }
    for name, proof_against in proofs.items():
        operator.commit([payer], TOTAL, batch.roots)
        measured |= _convict(chain, proof_against(Header.from_chain(operator.header)), name)
        operator.refund()
    return measured


def _convict(chain: Chain, proof: Proof, name: str = "") -> dict[str, int]:
    """Convict as a new challenger that reserved the proof and receives the reward."""
    challenger = chain.fresh(f"challenger {name}")
    call = interface("Disputes").function(proof.function, proof.args).encode(proof.args)
    reservation = keccak(word(challenger.account) + keccak(call))
    reserve = chain.send(challenger, "Disputes", "reserve", reservation)
    gas = chain.send(challenger, "Disputes", proof.function, *proof.args)
    if not chain.ask("TestUSD", "balanceOf", challenger.account):
        sys.exit(f"{proof.function}: the challenger was not paid")
    return {name: gas, "reserve": reserve}


def registry_gas(chain: Chain) -> dict[str, int]:
    curator = chain.operator
    chain.send(curator, "DatasetRegistry", "createDatanet", ascii_word("docstrings"), keccak(b"folder"))
    contributor = chain.fresh("contributor")
    _, one, many = (
        chain.send(curator, "DatasetRegistry", "contributeManyWithSig", *_relayed(chain, contributor, nonces))
        for nonces in (range(1), range(1, 2), range(2, IN_BATCH + 2))
    )
    chain.send(curator, "DatasetRegistry", "review", 1, [(_content(i), True, 0) for i in range(IN_BATCH)])
    chain.send(curator, "DatasetRegistry", "freeze", 1, IN_BATCH)
    snapshot, _ = chain.ask("DatasetRegistry", "previewSnapshot", 1, IN_BATCH)
    creator = chain.fresh("creator")
    words = [keccak(name) for name in (b"adapter", b"folder", b"base model")]
    record = (
        creator.account,
        ascii_word("docstrings-of-numpy"),
        *words,
        [snapshot],
        *(1_500_000, 2_000_000, 200_000, 300_000),
    )
    return {
        "contribution_in_batch": _part(many, one),
        "register_version": chain.send(creator, "AdapterRegistry", "register", record),
    }


def _content(i: int) -> bytes:
    return keccak(f"content {i}".encode())


def _relayed(chain: Chain, contributor: LocalSigner, nonces: range) -> tuple[Any, Any]:
    """Return arguments that record the contributor's signed contents with these nonces in datanet 1."""
    shared = (contributor.account, 1, ascii_word("MIT"), nonces[0], FAR)
    return shared, [_signed_content(chain, contributor, nonce) for nonce in nonces]


def _signed_content(chain: Chain, contributor: LocalSigner, nonce: int) -> tuple[Any, ...]:
    content = (1, _content(nonce), keccak(f"folder {nonce}".encode()), ascii_word("MIT"), 100)
    type_hash = keccak(
        b"Contribution(address account,uint64 datanetId,bytes32 contentHash,bytes32 cidDigest,"
        b"bytes32 licence,uint32 rows,uint256 nonce,uint256 deadline)"
    )
    message = (contributor.account, *content, nonce, FAR)
    fields = b"".join(part if isinstance(part, bytes) else word(part) for part in message)
    digest = chain.domain("DatasetRegistry").digest(keccak(type_hash + fields))
    return content[1], content[2], content[4], *compact(contributor.sign(digest))


def vote_gas(chain: Chain) -> dict[str, int]:
    voter, later_voter = local_account(3), local_account(4)
    for account in (voter, later_voter):
        chain.send(account, "MarketToken", "delegate", account.account)
    chain.wait(2)
    args = (0, chain.ask("Parameters", "current") | {"feePpm": 60_000})
    call = interface("Parameters").function("append", args).encode(args)
    proposal = ([chain.at["Parameters"]], [0], [call], "Raise the fee")
    chain.send(voter, "MarketGovernor", "propose", *proposal)
    proposal_id = chain.ask("MarketGovernor", "getProposalId", *proposal[:3], keccak(b"Raise the fee"))
    chain.wait(4)
    chain.send(voter, "MarketGovernor", "castVote", proposal_id, 1)
    return {"vote": chain.send(later_voter, "MarketGovernor", "castVote", proposal_id, 1)}


def move_gas(chain: Chain) -> dict[str, int]:
    return {"move_balance": Payer(chain, "mover", 1_000).move(chain.fresh("next collector").account)}


def gas() -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        node = LocalNode.start(Path(folder) / "node.log")
        try:
            chain = Chain(node.url)
            return registry_gas(chain) | settlement_gas(chain) | vote_gas(chain) | move_gas(chain)
        finally:
            node.stop()


def code_sizes() -> dict[str, int]:
    """Return the size of each contract's deployed code in bytes."""
    return {name: len(load_build(name).runtime) for name in CONTRACTS}


def drift(path: Path, measured: Mapping[str, int]) -> list[str]:
    """Return one line for each figure that differs from the snapshot at `path`."""
    committed = json.loads(path.read_text()) if path.exists() else {}
    return [
        f"{path.name}: {name} is {measured.get(name)}, not {committed.get(name)}"
        for name in sorted(committed.keys() | measured.keys())
        if measured.get(name) != committed.get(name)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a snapshot differs")
    is_check = parser.parse_args().check
    measured = {SNAPSHOTS / "code_size.json": code_sizes(), SNAPSHOTS / "gas.json": gas()}
    stale = [line for path, figures in measured.items() for line in drift(path, figures)]
    if is_check:
        sys.exit("\n".join([*stale, "Run `make gas` and commit tests/snapshots."]) if stale else 0)
    for path, figures in measured.items():
        path.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
