"""Demands as an attack: an outsider floods an honest operator, and an operator fills its own queue.

An outsider's flood takes what docs/trust-model.md calls the most expensive answer: receipts of four slices
with 256 entries each. Such receipts need versions trained on as many contributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.domain.disputes.witnesses import Tree, balance_key
from backend.domain.hashing import (
    TypedDomain,
    accepted_hash,
    ascii_word,
    record_argument,
    snapshot_id,
    to_hash,
    version_id,
)
from backend.domain.ids import DatanetId
from backend.domain.money import PPM
from backend.domain.receipt import Share
from backend.domain.signatures import compact
from tools.attack.attack_market import AttackMarketError
from tools.labels import some_hash
from tools.local_market import CONTRIBUTORS, CREATOR, OPERATOR, PAYERS, new_record

if TYPE_CHECKING:
    from backend.domain.batch import Header
    from backend.domain.receipt import SignedReceipt, VersionRecord
    from tools.attack.attack_market import AttackMarket

OUTSIDER = local_account(11)
NUM_SLICES, NUM_ENTRIES = 4, 256
"""Of the worst receipt: the most that the protocol allows."""
NUM_RELAYED = 64
"""Contributions in one transaction."""
NUM_OWN = 4
"""Leaves with which an operator fills its own queue; they stay within the local bound of deadlines."""


def worst_receipts(market: AttackMarket) -> list[SignedReceipt]:
    """As many receipts as an operator must be able to answer at once."""
    bounds = market.chain.call("Parameters", "bounds")
    count = (bounds["answerSeconds"] + bounds["maxExtension"]) // bounds["secondsPerAnswer"]
    versions = _worst_versions(market)
    shares = tuple(Share(position, PPM // NUM_ENTRIES) for position in range(NUM_ENTRIES - 1))
    shares += (Share(NUM_ENTRIES - 1, PPM - sum(share.ppm for share in shares)),)
    return [market.serve(PAYERS[0], versions, shares=shares) for _ in range(count)]


def demand_receipts(market: AttackMarket, header: Header) -> None:
    """Demand all receipts of the batch in one transaction."""
    market.demand(OUTSIDER, header.abi, Tree.RECEIPTS, range(header.receipts_count))


def demand_own_entries(market: AttackMarket, header: Header) -> None:
    """Demand keys without a leaf, which make each further leaf of the operator dearer."""
    absent = balance_key(OUTSIDER.account) << 64
    market.demand(OUTSIDER, header.abi, Tree.ENTRIES, range(absent, absent + NUM_OWN))


def check_paid(market: AttackMarket, bonds: int, credit_before: int) -> None:
    """Check that the operator earned three quarters of the bonds of its answers, leaf by leaf."""
    credited = market.credit(OPERATOR.account) - credit_before
    if not 0 <= credited - (bonds - bonds // 4) < NUM_SLICES * NUM_ENTRIES:
        raise AttackMarketError(f"the operator is credited {credited} wei for bonds of {bonds} wei")


def _worst_versions(market: AttackMarket) -> list[VersionRecord]:
    """Register the versions; each is trained on one snapshot of 256 contributions."""
    datanet = DatanetId(2)
    market.send(CONTRIBUTORS[0], "DatasetRegistry", "createDatanet", ascii_word("worst"), some_hash("about"))
    for first in range(0, NUM_ENTRIES, NUM_RELAYED):
        _contribute(market, datanet, range(first, first + NUM_RELAYED))
    market.send(OPERATOR, "DatasetRegistry", "freeze", datanet, NUM_ENTRIES)
    snapshot = snapshot_id(datanet, NUM_ENTRIES, accepted_hash([True] * NUM_ENTRIES))
    records = [new_record(f"worst-{n}", (snapshot,), creator_ppm=200_000) for n in range(NUM_SLICES)]
    for record in records:
        market.send(CREATOR, "AdapterRegistry", "register", record_argument(record))
    return sorted(records, key=version_id)


def _contribute(market: AttackMarket, datanet: DatanetId, numbers: range) -> None:
    """Contribute and accept, so that each contribution's index is its number."""
    contributor, licence = CONTRIBUTORS[0], to_hash(ascii_word("MIT"))
    registry = TypedDomain(market.chain.chain_id, market.chain.address("DatasetRegistry"))
    nonce = market.chain.call("DatasetRegistry", "nonces", contributor.account)
    deadline = market.chain.head().timestamp + 86_400
    shared = {
        "contributor": contributor.account,
        "datanetId": datanet,
        "licence": licence,
        "nonce": nonce,
        "deadline": deadline,
    }
    contents = []
    for offset, number in enumerate(numbers):
        content, folder = some_hash(f"worst {number}"), some_hash(f"worst folder {number}")
        digest = registry.contribution_digest(
            contributor.account, datanet, content, folder, licence, 1, nonce + offset, deadline
        )
        r, vs = compact(contributor.sign(digest))
        contents.append({"contentHash": content, "cidDigest": folder, "rows": 1, "r": r, "vs": vs})
    market.send(OPERATOR, "DatasetRegistry", "contributeManyWithSig", shared, contents)
    accepted = [{"contentHash": one["contentHash"], "isAccepted": True, "reason": 0} for one in contents]
    market.send(OPERATOR, "DatasetRegistry", "review", datanet, accepted)
