"""A market on a local chain, of which `tools/gas.py` measures the transactions."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import encode_call, interface
from backend.chain.keys import LocalSigner, local_account
from backend.chain.node import Node
from backend.chain.transactions import UnsignedTransaction, sign
from backend.deployment.deployer import Deployer
from backend.deployment.local import deploy_local
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.hashing import TypedDomain, channel_id, keccak
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH, Account, ChannelId
from backend.domain.signatures import compact
from backend.domain.voucher import ChannelMove, Voucher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MICRO = 10**6
NO_GRANT = (ZERO_ACCOUNT, 0, 0)
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
        return self.account, before, 0, until, until, *compact(self._signer.sign(digest))


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
