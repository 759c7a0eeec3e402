"""Batches and disputes on the real contracts; proofs are simulated, not mined."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.chain.keys import local_account, recover
from backend.domain.batch import CommitTerms, Header, camel_case
from backend.domain.chain import Reverted
from backend.domain.disputes.proofs import holds
from backend.domain.disputes.witnesses import AnsweredReceipt, Lookup, key_word, leaf_id
from backend.domain.errors import InvalidInput
from backend.domain.hashing import TypedDomain, ascii_word, keccak, record_argument, to_hash, words
from backend.domain.ids import ZERO_ACCOUNT, Account, VersionId
from backend.domain.judging.withheld_trees import account_of
from backend.domain.parameters import ParameterSet
from backend.domain.voucher import SignedVoucher, Voucher
from tests.support.batch_factory import LONG, BatchFactory, add_versions
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.chain.client import ChainClient
    from backend.domain.disputes.proofs import BatchProof, EquivocationProof
    from backend.domain.disputes.witnesses import Tree
    from backend.domain.ids import SnapshotId
    from backend.domain.receipt import VersionRecord
    from tests.support.dishonest_operator import DisputedBatch, Draft

OPERATOR, RECEIPT_KEY = local_account(1), local_account(2)
USERS = [local_account(n) for n in range(3, 9)]
CREATOR, PAYERS, CHALLENGER = USERS[0], USERS[3:], USERS[5]
DEPOSIT = 1_000_000_000


class DisputeHarness:
    """Sends all transactions from the node's unlocked accounts."""

    def __init__(self, chain: ChainClient) -> None:
        self.chain = chain
        self.factory = self._build_factory()

    # Transactions

    def send(self, sender: Account, contract: str, function: str, *args: Any, value: int = 0) -> Any:
        """Send a transaction and return the events of its block. Errors: `Reverted`."""
        data = interface(contract).function(function, args).encode(args)
        self.chain.simulate(contract, function, data, sender=sender, value=value)
        call = {"from": sender, "to": self.chain.address(contract), "data": "0x" + data.hex()}
        call["value"] = hex(value)
        self._rpc("eth_sendTransaction", call | {"gas": hex(15_000_000)})
        number = self.chain.head().number
        return self.chain.events(number, number)

    def sleep(self, seconds: int) -> None:
        self._rpc("evm_increaseTime", seconds)
        self._rpc("hardhat_mine", "0x1")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Revert the chain when the block exits."""
        state, claimed = self._rpc("evm_snapshot"), dict(self.factory.claimed)
        try:
            yield
        finally:
            self._rpc("evm_revert", state)
            self.factory.claimed = claimed

    # Batches

    def commit(self, draft: Draft, parent: DisputedBatch | None = None) -> DisputedBatch:
        """Commit the draft and check the header in the event."""
        commitment = draft.commit(CommitTerms()).header.commitment
        collections = [self._collection(span) for span in draft.spans]
        events = self.send(OPERATOR.account, "Settlement", "commit", commitment, collections)
        (committed,) = (e for e in events if e.name == "BatchCommitted")
        header = Header.from_chain(committed.args["header"])
        assert header.hash == committed.args["batchHash"]
        disputed = draft.commit(CommitTerms.of(header), parent)
        assert disputed.header == header
        return disputed

    def finalise(self, disputed: DisputedBatch) -> None:
        self.sleep(max(disputed.header.final_at - self.chain.head().timestamp, 0) + 1)
        self.send(CHALLENGER.account, "Settlement", "finalise", [disputed.header.abi])

    def claim(self, disputed: DisputedBatch, key: int) -> None:
        """Claim a balance of a final batch, by its key; the factory knows what was claimed."""
        account = account_of(key)
        index = [k for k, _ in disputed.draft.balances].index(key)
        opening = disputed.trees["balances"].open(index).abi
        request = {"header": disputed.header.abi, "account": account, "opening": opening}
        self.send(CHALLENGER.account, "Settlement", "claim", request)
        claimed = self.chain.call("Settlement", "claimedOf", OPERATOR.account, account)
        self.factory.claimed[account] = claimed

    def refund(self, disputed: DisputedBatch) -> None:
        payer_of = {self.factory.channel(payer): payer.account for payer in PAYERS}
        refunds = [
            {
                "payer": payer_of[span.channel_id],
                "before": span.before,
                "from": span.start,
                "until": span.until,
            }
            for span in disputed.draft.spans
        ]
        self.send(CHALLENGER.account, "Settlement", "refund", disputed.header.abi, refunds)

    # Disputes

    def convicts(self, proof: BatchProof | EquivocationProof) -> bool:
        """Whether the contract accepts the proof. Asserts that the Python implementation agrees."""
        try:
            data = interface("Disputes").function(proof.function, proof.args).encode(proof.args)
        except InvalidInput:  # not encodable as a call
            return False
        try:
            self.chain.simulate("Disputes", proof.function, data, sender=CHALLENGER.account)
        except Reverted as error:
            is_convicted = error.error == "NotReserved"  # the last check
        else:
            is_convicted = False
        assert holds(proof, self.factory) == is_convicted, proof
        return is_convicted

    def prove(self, proof: BatchProof | EquivocationProof) -> None:
        """Reserve the proof and send it a block later."""
        data = interface("Disputes").function(proof.function, proof.args).encode(proof.args)
        reservation = keccak(words(CHALLENGER.account, to_hash(keccak(data))))
        self.send(CHALLENGER.account, "Disputes", "reserve", to_hash(reservation))
        self._rpc("hardhat_mine", "0x1")
        self.send(CHALLENGER.account, "Disputes", proof.function, *proof.args)

    def demand(self, disputed: DisputedBatch, tree: Tree, keys: Sequence[int]) -> None:
        header, account = disputed.header.abi, CHALLENGER.account
        leaves = list(map(key_word, keys))
        fee = 2 * self.chain.gas_price()
        bonds = self.chain.call("Disputes", "bondOf", header["operator"], int(tree), len(leaves), fee)
        self.send(account, "Disputes", "demand", header, int(tree), leaves, value=bonds)
        for leaf in leaves:
            on_chain = self.chain.call("Disputes", "demandOf", disputed.header.hash, int(tree), leaf)
            assert on_chain["challenger"] == account

    def answer(
        self, disputed: DisputedBatch, tree: Tree, key: int, shown: Lookup | AnsweredReceipt
    ) -> Lookup | AnsweredReceipt:
        """Answer a demand; returns the answer as decoded from the chain. Errors: `Reverted`."""
        header, at = disputed.header.abi, (OPERATOR.account, "Disputes")
        if isinstance(shown, AnsweredReceipt):
            events = self.send(*at, "answerReceipt", header, shown.witness.abi, shown.signature)
        else:
            parent = disputed.parent.header.abi if disputed.parent else header
            events = self.send(*at, "answer", header, int(tree), key_word(key), parent, shown.abi)
        (answered,) = (e for e in events if e.name == "Answered")
        assert answered.args["leafId"] == leaf_id(disputed.header.hash, tree, key)
        args = self.chain.decode(self.chain.address("Disputes"), answered.args["call"])["args"]
        return AnsweredReceipt.from_chain(args) if "witness" in args else Lookup.from_chain(args["lookup"])

    def num_open(self, disputed: DisputedBatch) -> int:
        count: int = self.chain.call("Disputes", "demandsOn", disputed.header.hash)[0]
        return count

    def is_voided_unanswered(self, disputed: DisputedBatch, tree: Tree, key: int) -> bool:
        args = (disputed.header.abi, int(tree), key_word(key))
        data = interface("Disputes").function("voidUnanswered", args).encode(args)
        demanded = self.chain.call("Disputes", "demandOf", disputed.header.hash, *args[1:])
        with self.undone():
            self.sleep(max(demanded["deadline"] - self.chain.head().timestamp, 0) + 1)
            try:
                self.chain.simulate("Disputes", "voidUnanswered", data)
            except Reverted:
                return False
        return True

    # Registries and channels

    def _build_factory(self) -> BatchFactory:
        chain = self.chain
        domain = TypedDomain(chain.chain_id, chain.address("Settlement"))
        factory = BatchFactory(OPERATOR.account, RECEIPT_KEY, domain, PAYERS, self._terms(), recover)
        few = [CREATOR.account, OPERATOR.account, *(user.account for user in USERS[1:4])]
        many = [USERS[n % 5].account for n in range(LONG)]
        first = self._datanet(factory, 1, few, [n != 3 for n in range(len(few))])
        second = self._datanet(factory, 2, many, [True] * LONG)
        add_versions(factory, CREATOR.account, first, second)
        factory.registered.clear()
        for record in factory.records:
            self.register(factory, record)
        factory.served_at = chain.head().timestamp
        for payer in PAYERS:
            self._deposit(payer.account)
        return factory

    def register(self, factory: BatchFactory, record: VersionRecord) -> None:
        events = self.send(record.creator, "AdapterRegistry", "register", record_argument(record))
        (registered,) = (e for e in events if e.name == "VersionRegistered")
        factory.registered[VersionId(registered.args["versionId"])] = registered.timestamp

    def _datanet(
        self, factory: BatchFactory, number: int, who: list[Account], accepted: list[bool]
    ) -> SnapshotId:
        self.send(
            CREATOR.account, "DatasetRegistry", "createDatanet", ascii_word(f"net-{number}"), some_hash("d")
        )
        snapshot = factory.add_snapshot(number, who, accepted)
        for index, account in enumerate(who):
            kept = factory.contributions[number, index]
            contribution = {
                "datanetId": number,
                "contentHash": kept.content_hash,
                "cidDigest": kept.cid_digest,
                "licence": kept.licence,
                "rows": kept.num_rows,
            }
            self.send(account, "DatasetRegistry", "contribute", contribution)
        hashes = [factory.contributions[number, index].content_hash for index in range(len(who))]
        rejected = [one for one, is_accepted in zip(hashes, accepted, strict=True) if not is_accepted]
        # Accept all first, so that they are admitted in the order of their indices.
        reviews = [{"contentHash": one, "isAccepted": True, "reason": 0} for one in hashes]
        reviews += [{"contentHash": one, "isAccepted": False, "reason": 1} for one in rejected]
        for start in range(0, len(reviews), 64):
            self.send(OPERATOR.account, "DatasetRegistry", "review", number, reviews[start : start + 64])
        self.send(OPERATOR.account, "DatasetRegistry", "freeze", number, len(who))
        return snapshot

    def _deposit(self, payer: Account) -> None:
        settlement, vault = self.chain.address("Settlement"), self.chain.address("PaymentVault")
        grant = {"key": ZERO_ACCOUNT, "cap": 0, "expiry": 0}
        self.send(payer, "TestUSD", "approve", vault, DEPOSIT)
        self.send(payer, "PaymentVault", "deposit", OPERATOR.account, settlement, DEPOSIT, grant)

    def _collection(self, span: Any) -> dict[str, Any]:
        (payer,) = (p for p in PAYERS if self.factory.channel(p) == span.channel_id)
        voucher = Voucher(span.channel_id, span.start, span.until)
        vault = TypedDomain(self.chain.chain_id, self.chain.address("PaymentVault"))
        signed = SignedVoucher(voucher, payer.sign(vault.voucher_digest(voucher)))
        return span.collection(payer.account, signed)

    def _terms(self) -> ParameterSet:
        found = self.chain.call("Parameters", "current")
        terms = ParameterSet(
            id=self.chain.call("Parameters", "currentId"),
            **{name: found[camel_case(name)] for name in ParameterSet.__slots__ if name != "id"},
        )
        return replace(terms, treasury=Account(terms.treasury.lower()))

    def _rpc(self, method: str, *args: Any) -> Any:
        return self.chain.node.rpc.request(method, *args)
