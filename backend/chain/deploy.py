"""Deploys the contracts and wires their roles; keeps where they are in a JSON file.

Local roles by index of the development mnemonic: 0 deployer, guardian and treasury; 1 operator and curator;
2 the operator's receipt key; 3 and up users.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rlp  # type: ignore[import-untyped]

from backend.chain.contracts import interface, reverted
from backend.chain.keys import local_account, sign_transaction
from backend.chain.node import Node
from backend.chain.rpc import RpcError
from backend.domain.deployment import LOCAL_CHAIN_ID, Deployment
from backend.domain.errors import Forbidden, InvalidInput, NotFound, Unavailable
from backend.domain.hashing import TypedDomain, keccak, to_bytes
from backend.domain.ids import ZERO_ACCOUNT, Account, Hash32

if TYPE_CHECKING:
    from backend.chain.node import TxReceipt
    from backend.ports.chain import Signer

ARTIFACTS = Path(__file__).parents[2] / "build" / "artifacts"
GUARDIAN, CURATOR, ADMIN = 1, 2, 0
"""Roles of the access manager, as in `contracts/libraries/Roles.sol`."""
LOCAL, PRODUCTION = 0, 1
"""`Profile` of `IParameters.sol`."""
TOKEN = 10**18
"""Smallest units of one market token."""
DOLLAR = 10**6
FIRST_USER, NUM_USERS = 3, 6
MINED_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Terms:
    """What is fixed at deployment, and the first parameter set. Times in seconds, ratios in ppm."""

    profile: int
    thaw_seconds: int
    unstake_seconds: int
    timelock_seconds: int
    voting_rules: dict[str, int]
    first_set: dict[str, Any] = field(default_factory=dict)
    """As Solidity's `ParameterSet`, without the treasury."""


LOCAL_TERMS = Terms(
    profile=LOCAL,
    thaw_seconds=300,
    unstake_seconds=180,
    timelock_seconds=2,
    voting_rules={
        "votingDelay": 2,
        "votingPeriod": 10,
        "proposalThreshold": 1_000 * TOKEN,
        "quorumPercent": 4,
        "lateQuorumExtension": 2,
    },
    first_set={
        "feePpm": 50_000,
        "stakeCoverPpm": 100_000,
        "disputeWindow": 3,
        "minContributorsPpm": 300_000,
        "minOperatorPpm": 50_000,
        "maxOperatorPpm": 500_000,
        "challengerPpm": 250_000,
        "demandBond": DOLLAR // 100 * 10**6,
    },
)
LOCAL_SUPPLY = 1_000_000 * TOKEN
LOCAL_STAKE = 10_000 * DOLLAR
LOCAL_FUNDS = 10_000 * DOLLAR
LOCAL_VOTES = 100_000 * TOKEN


class Deployer:
    """Sends one transaction after the other with one key and waits for each."""

    def __init__(self, node: Node, signer: Signer, artifacts: Path = ARTIFACTS) -> None:
        self._node = node
        self._signer = signer
        self._artifacts = artifacts
        self.addresses: dict[str, Account] = {}

    @property
    def account(self) -> Account:
        return self._signer.account

    def create(self, contract: str, *args: Any) -> TxReceipt:
        """Deploy a contract and note its address."""
        constructor = interface(contract).constructor
        call = constructor.encode(args)[4:]
        tx_receipt = self._send(contract, "constructor", None, bytecode(contract, self._artifacts) + call)
        if tx_receipt.contract_address is None:
            raise Unavailable(f"the node reports no address for the new {contract}")
        self.addresses[contract] = tx_receipt.contract_address
        return tx_receipt

    def next_address(self, later: int) -> Account:
        """Where the contract will stand that this key creates `later` transactions after the next one."""
        nonce = self._node.num_transactions(self.account) + later
        return created_address(self.account, nonce)

    def send(self, contract: str, function: str, *args: Any) -> TxReceipt:
        data = interface(contract).function(function, args).encode(args)
        return self._send(contract, function, self.addresses[contract], data)

    def ask(self, contract: str, function: str, *args: Any) -> Any:
        entry = interface(contract).function(function, args)
        return entry.decode_result(self._node.call(self.addresses[contract], entry.encode(args)))

    def acting_as(self, signer: Signer) -> Deployer:
        """The same contracts, another key."""
        other = Deployer(self._node, signer, self._artifacts)
        other.addresses = self.addresses
        return other

    def _send(self, contract: str, function: str, to: Account | None, data: bytes) -> TxReceipt:
        fees = self._node.fees()
        call = {"from": self.account, "data": "0x" + data.hex()} | ({} if to is None else {"to": to})
        try:
            gas = int(self._node.rpc.request("eth_estimateGas", call, "pending"), 16)
        except RpcError as error:
            raise reverted(contract, function, error.revert_data, error.message) from error
        fields = {
            "chainId": self._node.chain_id,
            "nonce": self._node.num_transactions(self.account),
            "to": to or "",
            "value": 0,
            "data": call["data"],
            "gas": gas * 5 // 4,
            "maxFeePerGas": fees.max_fee,
            "maxPriorityFeePerGas": fees.priority_fee,
        }
        raw, tx_hash = sign_transaction(self._signer, fields)
        self._node.broadcast(raw)
        tx_receipt = self._wait(tx_hash)
        if not tx_receipt.is_success:
            raise reverted(contract, function, b"", "mined, but failed")
        return tx_receipt

    def _wait(self, tx_hash: Hash32) -> TxReceipt:
        until = time.monotonic() + MINED_TIMEOUT_SECONDS
        while time.monotonic() < until:
            tx_receipt = self._node.tx_receipt(tx_hash)
            if tx_receipt is not None:
                return tx_receipt
            time.sleep(0.05)
        raise Unavailable(f"transaction {tx_hash} is not mined after {MINED_TIMEOUT_SECONDS} s")


def created_address(creator: Account, nonce: int) -> Account:
    """The address of a contract that an account creates with its transaction number `nonce`."""
    encoded = rlp.encode([to_bytes(creator), nonce])
    return Account("0x" + keccak(encoded)[12:].hex())


def bytecode(contract: str, artifacts: Path = ARTIFACTS) -> bytes:
    """Creation code from the build. `NotFound` says how to build."""
    found = [path for path in artifacts.glob(f"**/{contract}.json") if path.parent.name == f"{contract}.sol"]
    if not found:
        raise NotFound(
            f"no build of contract {contract} in {artifacts}: run `make setup`, which compiles the contracts",
            param="artifacts",
        )
    return bytes.fromhex(json.loads(found[0].read_text())["bytecode"][2:])


def deploy_local(rpc_url: str, artifacts: Path = ARTIFACTS) -> Deployment:
    """All contracts with profile `local` on a developer's chain; test users funded, the operator staked.

    Errors: `Forbidden` on any chain but 31337, `NotFound` without a build, `Unavailable` without a node.
    """
    node = Node.connect(rpc_url)
    try:
        if node.chain_id != LOCAL_CHAIN_ID:
            raise Forbidden(
                f"profile `local` with its windows of seconds is refused on chain {node.chain_id}",
                param="rpc_url",
            )
        deployer = Deployer(node, local_account(0), artifacts)
        first = deployer.create("TestUSD")
        guardian, curator = deployer.account, local_account(1).account
        deploy_market(deployer, LOCAL_TERMS, treasury=guardian, guardian=guardian, curator=curator)
        _furnish(deployer)
        return Deployment(node.chain_id, first.block_number, first.block_hash, dict(deployer.addresses))
    finally:
        node.close()


def deploy_market(
    deployer: Deployer, terms: Terms, *, treasury: Account, guardian: Account, curator: Account
) -> None:
    """All but the payment token, which must be known as `TestUSD`. Only the timelock stays administrator.

    `guardian` may pause commits for a bounded time, `curator` may accept and reject contributions.
    """
    at = deployer.addresses
    deployer.create("AccessManager", deployer.account)
    deployer.create("MarketToken", deployer.account, LOCAL_SUPPLY)
    deployer.create("TimelockController", terms.timelock_seconds, [], [ZERO_ACCOUNT], deployer.account)
    deployer.create("MarketGovernor", at["MarketToken"], at["TimelockController"], terms.voting_rules)
    deployer.create("PaymentVault", at["TestUSD"], terms.thaw_seconds)
    first_set = terms.first_set | {"treasury": treasury}
    deployer.create("Parameters", at["AccessManager"], terms.profile, at["PaymentVault"], first_set)
    deployer.create("DatasetRegistry", at["AccessManager"])
    deployer.create("AdapterRegistry", at["DatasetRegistry"], at["Parameters"])
    _create_generation(deployer, terms.unstake_seconds)
    _assign_roles(deployer, guardian, curator)


def _create_generation(deployer: Deployer, unstake_seconds: int) -> None:
    """Three contracts that know each other from birth: each is told the addresses of those to come."""
    at = deployer.addresses
    settlement, disputes = deployer.next_address(1), deployer.next_address(2)
    deployer.create("OperatorRegistry", at["TestUSD"], unstake_seconds, settlement, disputes)
    deployer.create("Settlement", at["Parameters"], at["OperatorRegistry"], disputes)
    deployer.create("Disputes", at["Settlement"], at["OperatorRegistry"], at["AdapterRegistry"])
    deployer.create("Generation", at["Disputes"], at["AdapterRegistry"])


def _assign_roles(deployer: Deployer, guardian: Account, curator: Account) -> None:
    """Governance runs the market; the deployer's own powers end here."""
    at, me = deployer.addresses, deployer.account
    for role in ("PROPOSER_ROLE", "CANCELLER_ROLE"):
        deployer.send(
            "TimelockController", "grantRole", deployer.ask("TimelockController", role), at["MarketGovernor"]
        )
    admin = deployer.ask("TimelockController", "DEFAULT_ADMIN_ROLE")
    deployer.send("TimelockController", "renounceRole", admin, me)
    _restrict(deployer, "Parameters", "pauseCommits", GUARDIAN)
    _restrict(deployer, "DatasetRegistry", "review", CURATOR)
    deployer.send("AccessManager", "grantRole", GUARDIAN, guardian, 0)
    deployer.send("AccessManager", "grantRole", CURATOR, curator, 0)
    deployer.send("AccessManager", "grantRole", ADMIN, at["TimelockController"], 0)
    deployer.send("AccessManager", "renounceRole", ADMIN, me)


def _restrict(deployer: Deployer, contract: str, function: str, role: int) -> None:
    selector = interface(contract).selector(function)
    target = deployer.addresses[contract]
    deployer.send("AccessManager", "setTargetFunctionRole", target, [selector], role)


def _furnish(deployer: Deployer) -> None:
    """The local operator gets stake and receipt key, everybody dollars and votes. Nobody has delegated."""
    at = deployer.addresses
    operator, receipt_key = local_account(1), local_account(2)
    deployer.send("TestUSD", "mint", operator.account, LOCAL_STAKE)
    domain = TypedDomain(LOCAL_CHAIN_ID, at["OperatorRegistry"])
    consent = receipt_key.sign(domain.receipt_key_digest(operator.account))
    as_operator = deployer.acting_as(operator)
    as_operator.send("TestUSD", "approve", at["OperatorRegistry"], LOCAL_STAKE)
    as_operator.send("OperatorRegistry", "stake", LOCAL_STAKE)
    as_operator.send("OperatorRegistry", "addReceiptKey", receipt_key.account, consent)
    for index in range(FIRST_USER, FIRST_USER + NUM_USERS):
        user = local_account(index).account
        deployer.send("TestUSD", "mint", user, LOCAL_FUNDS)
        deployer.send("MarketToken", "transfer", user, LOCAL_VOTES)


def save(deployment: Deployment, path: Path) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(deployment), indent=2, sort_keys=True) + "\n")
    draft.replace(path)


def load(path: Path) -> Deployment:
    """`NotFound` without the file, `InvalidInput` when it is not a deployment."""
    if not path.is_file():
        raise NotFound(f"no deployment file {path}: start with `loraledger up`", param="deployment_file")
    try:
        raw = json.loads(path.read_text())
        addresses = {str(name): Account(address) for name, address in raw["addresses"].items()}
        return Deployment(
            int(raw["chain_id"]), int(raw["block_number"]), Hash32(raw["block_hash"]), addresses
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is not a deployment file: {error!r}", param="deployment_file") from error
