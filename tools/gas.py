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

from backend.chain.contracts import encode_call, interface
from backend.chain.keys import LocalSigner, local_account
from backend.chain.local_node import LocalNode
from backend.chain.node import Node
from backend.chain.transactions import UnsignedTransaction, sign
from backend.deployment.builds import load_build
from backend.deployment.local import Deployer, deploy_local
from backend.domain.batch import Header
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.hashing import TypedDomain, ascii_word, channel_id, keccak, word
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, Account, ChannelId
from backend.domain.voucher import ChannelMove, Voucher
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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.domain.disputes.proofs import Proof

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
MICRO = 10**6
NO_GRANT = (ZERO_ACCOUNT, 0, 0)
IN_BATCH = 50
GAS_LIMIT = 10**7
"""Of a transaction with a value."""
UNLIMITED = 2**256 - 1
START = 2_000_000_000
"""Unix seconds, later than the start time of any local chain."""
FAR = 2**40
"""An expiry or deadline that is never reached."""
OPERATOR_KEY = 1
"""Index of the local account to which `deploy_local` gives a stake."""


class Chain:
    """A deployed market, and accounts that send transactions to it.

    Each transaction advances a deterministic clock by one second: headers contain timestamps, and the gas of
    calldata depends on their bytes and on those of the hashes over them.
    """

    def __init__(self, url: str) -> None:
        self.node = Node.connect(url)
        self.at = dict(deploy_local(url).addresses)
        self.operator = local_account(OPERATOR_KEY)
        self._now = START
        self.node.rpc.request("evm_setIntervalMining", 0)

    def fresh(self, name: str) -> LocalSigner:
        signer = LocalSigner(keccak(name.encode()))
        self.node.rpc.request("hardhat_setBalance", signer.account, hex(10**20))
        return signer

    def send(self, signer: LocalSigner, contract: str, function: str, *args: Any) -> int:
        """Send a transaction and return its gas."""
        self._now += 1
        self.node.rpc.request("evm_setNextBlockTimestamp", self._now)
        return self._as(signer).send(contract, function, *args).gas_used

    def send_value(self, signer: LocalSigner, value: int, contract: str, function: str, *args: Any) -> int:
        """Send a transaction with a value in wei and return its gas."""
        self._now += 1
        self.node.rpc.request("evm_setNextBlockTimestamp", self._now)
        data, nonce = encode_call(contract, function, args), self.node.num_transactions(signer.account)
        fields = (self.node.chain_id, nonce, self.at[contract], data, GAS_LIMIT, self.node.fees(), value)
        signed = sign(signer, UnsignedTransaction(*fields))
        self.node.broadcast(signed.raw)
        tx_receipt = self.node.tx_receipt(signed.hash)
        if tx_receipt is None or not tx_receipt.is_success:
            sys.exit(f"{contract}.{function} failed")
        return tx_receipt.gas_used

    def ask(self, contract: str, function: str, *args: Any) -> Any:
        return self._as(self.operator).call(contract, function, *args)

    def wait(self, seconds: int) -> None:
        self._now += seconds

    def domain(self, contract: str) -> TypedDomain:
        return TypedDomain(LOCAL_CHAIN_ID, self.at[contract])

    def _as(self, signer: LocalSigner) -> Deployer:
        deployer = Deployer(self.node, signer)
        deployer.addresses = self.at
        return deployer


class Payer:
    """A payer with a funded channel, and the key that signs its vouchers."""

    def __init__(self, chain: Chain, name: str, units: int, *, by_session: bool = False) -> None:
        self._chain = chain
        self._owner = chain.fresh(name)
        self._signer = chain.fresh(f"{name}'s session") if by_session else self._owner
        self._grant = (self._signer.account, FAR, FAR) if by_session else NO_GRANT
        self.collected = 0
        self.account = self._owner.account
        chain.send(self._owner, "TestUSD", "mint", self.account, 2 * units)
        chain.send(self._owner, "TestUSD", "approve", chain.at["PaymentVault"], UNLIMITED)
        self.first_deposit = self.deposit(units)

    @property
    def channel(self) -> ChannelId:
        return channel_id(self.account, self._chain.operator.account, self._chain.at["Settlement"])

    def deposit(self, units: int) -> int:
        to = (self._chain.operator.account, self._chain.at["Settlement"])
        return self._chain.send(self._owner, "PaymentVault", "deposit", *to, units, self._grant)

    def move(self, new_collector: Account) -> int:
        """Have the operator move a part of the balance to a new channel, with a session grant."""
        operator, collector = self._chain.operator, self._chain.at["Settlement"]
        grant, amount = (self.account, FAR, FAR), MICRO
        move = ChannelMove(
            self.account, operator.account, collector, new_collector, amount, *grant, nonce=0, deadline=FAR
        )
        signature = self._owner.sign(self._chain.domain("PaymentVault").move_digest(move))
        consent = (collector, new_collector, amount, grant, 0, FAR)
        return self._chain.send(
            operator, "PaymentVault", "moveBalance", self.account, consent, amount, signature
        )

    def collection(self, amount: int) -> tuple[Any, ...]:
        before, until = self.collected, self.collected + amount
        digest = self._chain.domain("PaymentVault").voucher_digest(Voucher(self.channel, 0, until))
        self.collected = until
        return self.account, before, 0, until, until, *_compact(self._signer.sign(digest))


class Operator:
    """Commits batches with arbitrary roots, which the chain accepts; only claims and proofs open trees."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._parent = ZERO_HASH
        self._spans: list[tuple[Payer, int, int]] = []
        self.total = 0
        self.header: dict[str, Any] = {}
        self._pending: list[dict[str, Any]] = []

    def commit(
        self, payers: Sequence[Payer], amount: int, trees: Mapping[str, tuple[bytes, int]] | None = None
    ) -> int:
        """Collect `amount` from each payer; return the gas. `trees`: roots and counts by name, if needed."""
        some = keccak(str(self.total).encode())
        roots = dict.fromkeys(("receipts", "entries", "balances"), (some, 1)) | dict(trees or {})
        self._spans = [(p, p.collected, amount) for p in sorted(payers, key=lambda payer: payer.channel)]
        total = amount * len(payers)
        commitment = (self._parent, 0, total, *(part for root in roots.values() for part in root), some)
        collections = [payer.collection(amount) for payer, _, _ in self._spans]
        gas = self._chain.send(self._chain.operator, "Settlement", "commit", commitment, collections)
        self.total += total
        self._read_header()
        return gas

    def refund(self) -> int:
        """Refund the latest batch, which is voided; return the gas. Its parent becomes the latest batch."""
        refunds = [(payer.account, before, before, before + amount) for payer, before, amount in self._spans]
        gas = self._chain.send(self._chain.operator, "Settlement", "refund", self.header, refunds)
        for payer, before, _ in self._spans:
            payer.collected = before
        self._parent, self.total = self.header["parent"], self.total - self.header["total"]
        self._pending.pop()
        return gas

    def finalise(self) -> int:
        """Finalise all pending batches, the latest one alone; return the latter's gas."""
        self._chain.wait(10)
        *earlier, latest = self._pending
        self._pending = []
        if earlier:
            self._chain.send(self._chain.operator, "Settlement", "finalise", earlier)
        return self._chain.send(self._chain.operator, "Settlement", "finalise", [latest])

    def _read_header(self) -> None:
        node = self._chain.node
        head = node.head().number
        event = next(e for e in interface("Settlement").events.values() if e.name == "BatchCommitted")
        logs = node.logs([self._chain.at["Settlement"]], head - 5, head)
        newest = [log for log in logs if log.topics[0] == event.topic][-1]
        decoded = event.decode_log(newest.topics, newest.data)
        self._parent, self.header = decoded["batchHash"], decoded["header"]
        self._pending.append(self.header)


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
    proofs = {
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
    return content[1], content[2], content[4], *_compact(contributor.sign(digest))


def _compact(signature: str) -> tuple[bytes, bytes]:
    """Return `r` and `vs` (EIP-2098)."""
    raw = bytes.fromhex(signature[2:])
    s, v = int.from_bytes(raw[32:64], "big"), raw[64]
    return raw[:32], word(s | (v - 27) << 255)


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
