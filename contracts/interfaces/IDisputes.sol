// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IAdapterRegistry, VersionRecord} from "./IAdapterRegistry.sol";
import {IDatasetRegistry} from "./IDatasetRegistry.sol";
import {IOperatorRegistry} from "./IOperatorRegistry.sol";
import {IParameters} from "./IParameters.sol";
import {BatchHeader, ISettlement, Opening, Receipt} from "./ISettlement.sol";

/// @notice The trees whose leaves can be demanded. `ParentBalances` is the previous batch's balances tree: without it,
/// a batch on top of withheld balances could not be proved wrong.
enum Tree {
    Receipts,
    Entries,
    Balances,
    ParentBalances
}

/// @notice The faults of a receipt, in the order in which they are checked.
enum Fault {
    None,
    Value, // the value of its leaf differs from its charge
    ZeroCharge, // the charge is zero; answers priced at zero are never batched
    Slices, // not one to four slices whose weights sum to one
    Attribution, // not a method and one list hash per slice
    Version, // a slice's version was not registered when the batch was committed
    List, // a slice's list is malformed, or names a snapshot that its version does not have
    Price, // the charge does not follow from weights, tokens and registered prices
    Place, // its interval leaves a gap, overlaps another, or is in no span of its channel
    Position // a list names a contribution that is not in its snapshot
}

/// @notice Proof of the value under a key, which is zero if no leaf has the key. One opening proves the leaf with the
/// key, or its absence by the first leaf with a larger key or the last leaf with a smaller one. Two openings prove its
/// absence by adjacent leaves around the key.
/// @param keys Keys of the opened leaves.
/// @param openings Their openings, in the same order.
struct Lookup {
    bytes32[] keys;
    Opening[] openings;
}

/// @notice The preimage of a snapshot id.
/// @param datanetId Datanet of the snapshot.
/// @param count The snapshot covers the first `count` contributions.
/// @param accepted Accept bits in 32-byte words, as in `SnapshotFrozen`.
struct SnapshotWitness {
    uint64 datanetId;
    uint32 count;
    bytes accepted;
}

/// @notice The preimages of one slice.
/// @param record Record of the slice's version.
/// @param list Attribution list of the slice: entries of position 4, ppm 4.
struct SliceWitness {
    VersionRecord record;
    bytes list;
}

/// @notice A receipt of a batch with those preimages of its hashes that a proof needs.
/// @param receipt The receipt.
/// @param opening Inclusion proof in the receipts tree.
/// @param slices Preimage of `slicesHash`: versionId 32, weight 4 for each slice.
/// @param attribution Preimage of `attributionHash`: method 32, then list hash 32 for each slice.
/// @param parts Preimages of each slice, in order.
struct ReceiptWitness {
    Receipt receipt;
    Opening opening;
    bytes slices;
    bytes attribution;
    SliceWitness[] parts;
}

/// @notice Identifies a part of a receipt's charge, and the contribution that earns it, if any.
/// @param slice Index of the slice in the receipt.
/// @param part 0 for the fee, 1 for the operator, 2 for the creator, 3 + j for contributor j of the slice's list.
/// @param snapshot Snapshot of the contribution; read only for parts from 3 on of a version with snapshots.
/// @param contentHash Content hash of the contribution; read only in the same case.
struct EntryPlace {
    uint16 slice;
    uint16 part;
    SnapshotWitness snapshot;
    bytes32 contentHash;
}

/// @notice The values that determine an account's balance.
/// @param account Account whose balance is wrong.
/// @param parent Header of the previous batch; not read for batch 1.
/// @param earlier Look-up of the account in the parent's balances; not read for batch 1.
/// @param later Look-up of the account in this batch's balances.
/// @param entriesFrom Look-up of the key `account << 64` in this batch's entries.
/// @param entriesUntil Look-up of the key `(account + 1) << 64` in this batch's entries.
struct BalanceWitness {
    address account;
    BatchHeader parent;
    Lookup earlier;
    Lookup later;
    Lookup entriesFrom;
    Lookup entriesUntil;
}

/// @notice A bonded demand to reveal leaves of a tree. Its id is `keccak256(abi.encode(demand))`.
/// @param batchHash Hash of the batch.
/// @param tree Tree of the leaves.
/// @param keys 1 to 64 keys, answered one by one: a leaf's index in the receipts tree, a leaf's key in the other trees.
/// The answer to a key without a leaf is a proof of its absence.
/// @param challenger Account that pays the bond. If keys stay unanswered, it gets their bonds back and the challenger's
/// share of the slash.
/// @param deadline Last Unix second in which an answer is accepted.
/// @param bondUnits Bond per key in token units, paid to the account that answers it.
struct Demand {
    bytes32 batchHash;
    Tree tree;
    bytes32[] keys;
    address challenger;
    uint64 deadline;
    uint256 bondUnits;
}

/// @title Disputes
/// @notice Fraud proofs against batches. A valid proof is one transaction that anyone may send. It voids the batch and
/// all later ones, and slashes the operator by the stake cover that its commits required; see `ISettlement`. Anyone can
/// then refund the channels in the settlement.
///
/// Every invalid batch has a proof and no valid batch has one. *A proof that reverts acquits the batch*: a witness that
/// does not match the hashes on the chain or in the batch reverts, and only a contradiction between the batch and the
/// rules voids it. If the operator withholds data that a proof needs, a *demand* forces it to reveal the data or voids
/// the batch. Answers are due within an eighth of the batch's dispute window. A demand is accepted only while two
/// eighths remain before `finalAt`: one for the answer and one for a proof based on it. A batch with an open demand
/// cannot be finalised.
///
/// The challenger's share of the slash is paid to the caller if it reserved the same call in an earlier block, so that
/// copying a proof from the mempool earns nothing; otherwise the whole slash goes to the treasury. The share is
/// governed and below one half, so that self-accusation costs more than it earns. For an unanswered demand, its
/// challenger always receives the share.
///
/// Units: `bondUnits` are token units, held by this contract separately from payers' deposits; values of leaves and
/// slashes are micro-units.
///
/// Trust: no owner and no configuration. No proof here covers whether a model ran, whether an attribution method is
/// right, or whether an operator settles everything that it served; see docs/trust-model.md.
interface IDisputes {
    /// @notice `hash` was reserved, effective from the next block.
    event Reserved(bytes32 indexed hash);
    /// @notice A batch was convicted and voided. `proof` is the selector of the function that proved it.
    event BatchConvicted(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        bytes4 proof,
        address challenger
    );
    /// @notice A receipt of a voided batch was proved to have `fault`.
    event ReceiptFaulty(bytes32 indexed batchHash, uint32 receiptIndex, Fault fault);
    /// @notice Leaves were demanded.
    event Demanded(bytes32 indexed id, address indexed operator, bytes32 indexed batchHash, Demand demand);
    /// @notice Key `i` of a demand was answered and `answerer` received its bond. `call` is the answer's calldata in
    /// canonical encoding.
    event Answered(bytes32 indexed id, uint256 indexed i, address indexed answerer, bytes call);
    /// @notice The challenger received `units` of bond back for keys that were unanswered when the batch was voided.
    event BondReturned(bytes32 indexed id, address indexed challenger, uint256 units);

    error NoFault();
    error AlreadyReserved(bytes32 hash);
    error ValueMatches(bytes32 key, uint256 value);
    error PartOutOfRange(uint256 part, uint256 count);
    error ContributionMismatch(bytes32 contentHash, uint32 expected, uint32 found);
    error LeavesInOrder(bytes32 left, bytes32 right);
    error LeafHasValue(uint128 value);
    error IntervalsDisjoint(uint128 from, uint128 until, uint128 otherFrom, uint128 otherUntil);
    error SameReceipt(bytes32 receiptHash);
    error ChannelMismatch();
    error NotSignedBy(address operator, address signer);
    error HeaderMismatch(bytes32 expected, bytes32 found);
    error InvalidKeyCount(uint256 count, uint256 maxCount);
    error KeyOutOfRange(bytes32 key, uint32 count);
    error NoParent();
    error TooLateToDemand(uint64 until);
    error DemandExists(bytes32 id);
    error DemandUnknown(bytes32 id);
    error AlreadyAnswered(bytes32 id, uint256 i);
    error WrongTree(Tree tree);
    /// @notice The answer's calldata is not the canonical encoding of its arguments.
    error NotCanonical();
    error AnswerTooLate(uint64 deadline);
    error DeadlineNotPassed(uint64 deadline);
    error ReceiptIsFaulty(Fault fault);
    error BatchPending(bytes32 batchHash);
    error BatchNotPending(bytes32 batchHash);

    // --- proofs ---

    /// @notice Commits to a proof without revealing it, which secures the challenger's share for the caller of the
    /// proof.
    /// @param hash `keccak256(abi.encode(sender, keccak256(calldata)))` of the later call.
    function reserve(bytes32 hash) external;

    /// @notice Proves that a receipt is faulty.
    /// @param header The batch.
    /// @param witness The receipt, with the preimages that the fault needs.
    /// @param spans Preimage of `spansHash` to prove the fault `Place`; empty to prove any other fault.
    function proveBadReceipt(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata spans
    ) external;

    /// @notice Proves that a receipt's list names a contribution that is not in its snapshot.
    /// @param header The batch.
    /// @param witness The receipt, with its preimages.
    /// @param slice Index of the slice in the receipt.
    /// @param item Index of the contribution in the slice's list.
    /// @param snapshot The snapshot.
    function proveBadPosition(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        uint256 slice,
        uint256 item,
        SnapshotWitness calldata snapshot
    ) external;

    /// @notice Proves that an entry differs from the amount that the split assigns to its part of a receipt's charge.
    /// @param header The batch.
    /// @param witness The receipt, with its preimages.
    /// @param place The part of the charge.
    /// @param lookup Look-up of the part's key in the batch's entries.
    function proveWrongEntry(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        EntryPlace calldata place,
        Lookup calldata lookup
    ) external;

    /// @notice Proves that an account's balance differs from the sum of its balance in the parent and its entries.
    function proveWrongBalance(BatchHeader calldata header, BalanceWitness calldata witness) external;

    /// @notice Proves that two leaves of the entries or the balances are not in ascending order of key.
    /// @param header The batch.
    /// @param tree Entries or balances.
    /// @param leaves The two leaves, the one with the lower index first.
    function proveWrongOrder(BatchHeader calldata header, Tree tree, Lookup calldata leaves) external;

    /// @notice Proves that a tree has a leaf of value zero, which is invalid: the opened leaf itself, or the leaves
    /// below a sibling with sum zero on its path.
    /// @param header The batch.
    /// @param tree Receipts, entries or balances.
    /// @param leafHash Hash of the opened leaf.
    /// @param opening Opening of the leaf.
    function proveZeroLeaf(
        BatchHeader calldata header,
        Tree tree,
        bytes32 leafHash,
        Opening calldata opening
    ) external;

    /// @notice Proves that the operator signed two receipts with overlapping intervals, one of which is in the batch.
    /// @param header The batch.
    /// @param receipt The receipt in the batch.
    /// @param opening Opening of that receipt.
    /// @param other The other receipt.
    /// @param signature Signature of the other receipt by a receipt key of the operator that counts for the batch, see
    /// `IOperatorRegistry.isReceiptKey`.
    function proveEquivocation(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        Receipt calldata other,
        bytes calldata signature
    ) external;

    // --- demands ---

    /// @notice Demands leaves of a tree. The bond per key is the `demandBond` of the batch's parameter set, rounded up
    /// to whole units. This contract needs an allowance.
    /// @return id Id of the demand.
    function demand(
        BatchHeader calldata header,
        Tree tree,
        bytes32[] calldata keys
    ) external returns (bytes32 id);

    /// @notice Answers key `i` of a demand for entries or balances. The caller receives its bond.
    /// @param demand_ The demand.
    /// @param i Index of the answered key.
    /// @param header The batch.
    /// @param parent Header of the previous batch; read only if the demand is for `ParentBalances`.
    /// @param lookup Look-up of the key in the tree.
    function answer(
        Demand calldata demand_,
        uint256 i,
        BatchHeader calldata header,
        BatchHeader calldata parent,
        Lookup calldata lookup
    ) external;

    /// @notice Answers key `i` of a demand for receipts. The caller receives its bond.
    /// @param demand_ The demand.
    /// @param i Index of the answered key.
    /// @param header The batch.
    /// @param witness The receipt with all its preimages. It must have no fault other than `Place` or `Position`, which
    /// can be proved from the revealed data.
    /// @param signature Signature of the receipt by a receipt key of the batch's operator.
    function answerReceipt(
        Demand calldata demand_,
        uint256 i,
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata signature
    ) external;

    /// @notice Voids a batch because a demand was not answered by its deadline.
    function voidUnanswered(Demand calldata demand_, BatchHeader calldata header) external;

    /// @notice Pays the bonds of unanswered keys back to the challenger once the batch is voided. Anyone may call it.
    function returnBond(Demand calldata demand_, BatchHeader calldata header) external;

    // --- views ---

    /// @notice Returns the unanswered keys of a demand: bit `i` for key `i`. Zero if all keys are answered or the
    /// demand does not exist.
    function unansweredOf(bytes32 id) external view returns (uint256);

    /// @notice Returns the number of demands on a batch that have unanswered keys.
    function numOpenDemands(bytes32 batchHash) external view returns (uint256);

    /// @notice Returns what the demands on a batch demand of its finality, for the settlement.
    /// @param batchHash Hash of the batch.
    /// @return open Number of open demands; the batch is not finalised before there are none.
    /// @return proofsUntil Unix second before which it is not finalised, so that answers can be followed by proofs.
    function demandsOn(bytes32 batchHash) external view returns (uint32 open, uint64 proofsUntil);

    /// @notice Returns the block number in which a hash was reserved; zero if it was not.
    function reservedAt(bytes32 hash) external view returns (uint256);

    /// @notice Returns the time limit for answers to a demand on this batch, in seconds.
    function answerSeconds(BatchHeader calldata header) external view returns (uint64);

    /// @notice The settlement, which stores the batches.
    function settlement() external view returns (ISettlement);

    /// @notice The registry of stakes and receipt keys.
    function operators() external view returns (IOperatorRegistry);

    /// @notice The governed parameters.
    function parameters() external view returns (IParameters);

    /// @notice The registry of adapter versions.
    function adapters() external view returns (IAdapterRegistry);

    /// @notice The registry of contributions.
    function datasets() external view returns (IDatasetRegistry);

    /// @notice The token of the bonds, which is the payment token.
    function token() external view returns (IERC20);
}
