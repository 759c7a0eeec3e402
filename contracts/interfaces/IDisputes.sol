// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

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
    Attribution, // not a method of 1 to 32 printable characters and one list hash per slice
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

/// @notice A demand for one leaf. It is open while `challenger` is set. It is closed by an answer, or when its bond is
/// returned; `deadline` remains, so that the same leaf is not demanded twice.
/// @param challenger Account that pays the bond. If the leaf stays unanswered, it gets the bond back and the
/// challenger's share of the slash.
/// @param bond Bond in wei.
/// @param deadline Last Unix second in which an answer is accepted.
/// @param deadlineBlock Last block in which an answer is accepted; zero if the profile does not count blocks. An answer
/// is too late when both have passed.
struct Demand {
    address challenger;
    uint96 bond;
    uint64 deadline;
    uint64 deadlineBlock;
}

/// @title Disputes
/// @notice Fraud proofs against batches. Anyone may send a valid proof, which is reserved in an earlier block. It voids
/// all pending batches of the operator, and slashes it by the stake cover that its commits required; see
/// `ISettlement`. Anyone can then refund the channels in the settlement.
///
/// Every invalid batch has a proof and no valid batch has one. *A proof that reverts acquits the batch*: a witness that
/// does not match the hashes on the chain or in the batch reverts, and only a contradiction between the batch and the
/// rules voids it. Every proof must be reserved by its sender in an earlier block, so that a copy of a pending proof
/// neither earns nor convicts anything. The sender receives the challenger's share of the slash, which is governed and
/// below one half, so that self-accusation costs more than it earns.
///
/// If the operator withholds data that a proof needs, a *demand* for a leaf forces it to reveal the data or voids the
/// batch. Its challenger pays a bond in the chain's native coin, which covers the gas of the worst answer, and more for
/// each leaf in the operator's queue. An answer credits three quarters of the bond to the batch's operator, even if
/// another account sends it; one quarter remains in this contract for ever. So neither a flood of demands nor answers
/// to one's own demands are free, and nothing is earned by copying an answer from the mempool.
///
/// An answer is due within `answerSeconds`, and later by a fixed time for each leaf in the queue of its operator, over
/// all its batches. The queue empties with time, whether leaves are answered or not. The finality of the batch moves
/// with the deadline, up to a bound of the profile, so that an operator that fills its own queue delays its answers but
/// takes no time from its challengers. A demand is accepted while time for an answer
/// and for a proof based on it remains. A batch with an open demand cannot be finalised.
///
/// No token moves here: a token that pauses or that blocks an account stops no answer and no conviction. Bonds and
/// credits are in wei and are only withdrawn by their owners.
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
    /// @notice A leaf was demanded: `key` is its index in the receipts tree, its key in the other trees.
    event Demanded(
        bytes32 indexed leafId,
        address indexed operator,
        bytes32 indexed batchHash,
        Tree tree,
        bytes32 key,
        Demand demand
    );
    /// @notice A leaf was answered. `call` is the canonical encoding of the answer: a call of `answer` or
    /// `answerReceipt`, without the bytes that followed its arguments.
    event Answered(bytes32 indexed leafId, address indexed operator, bytes32 indexed batchHash, bytes call);
    /// @notice The bond of a leaf that was open when its batch was voided was credited to its challenger.
    event BondReturned(bytes32 indexed leafId, address indexed challenger, uint256 bond);
    /// @notice The credit of `account` is now `credit` wei, after a demand, an answer or the return of a bond.
    event CreditChanged(address indexed account, uint256 credit);
    /// @notice `account` withdrew its whole credit of `amount` wei to `to`.
    event CreditWithdrawn(address indexed account, address indexed to, uint256 amount);

    error NoFault();
    /// @notice `hash`, which stands for this call by this sender, was not reserved in an earlier block.
    error NotReserved(bytes32 hash);
    error ValueMatches(bytes32 key, uint256 value);
    /// @notice The balance under `key` is not below what the account claimed.
    error NotBelowClaimed(bytes32 key, uint128 value, uint128 claimed);
    error PartOutOfRange(uint256 part, uint256 count);
    error ContributionMismatch(bytes32 contentHash, uint32 expected, uint32 found);
    error LeavesInOrder(bytes32 left, bytes32 right);
    error LeafHasValue(uint128 value);
    error IntervalsDisjoint(uint128 from, uint128 until, uint128 otherFrom, uint128 otherUntil);
    error SameReceipt(bytes32 receiptHash);
    error ChannelMismatch();
    error NotSignedBy(address operator, address signer);
    error HeaderMismatch(bytes32 expected, bytes32 found);
    error KeyOutOfRange(bytes32 key, uint32 count);
    error NoParent();
    /// @notice The value sent and the sender's credit, together `funds`, do not cover the bonds. All in wei.
    error BondTooLow(uint256 funds, uint256 bonds);
    /// @notice The leaf was not demanded.
    error NotDemanded(bytes32 leafId);
    /// @notice The leaf was answered, or its bond was returned.
    error DemandClosed(bytes32 leafId);
    error WrongTree(Tree tree);
    error WrongPartCount(uint256 count, uint256 expected);
    error AnswerTooLate(uint64 deadline, uint64 deadlineBlock);
    error DeadlineNotPassed(uint64 deadline, uint64 deadlineBlock);
    error NoCredit(address account);
    error ReceiptIsFaulty(Fault fault);
    error BatchPending(bytes32 batchHash);
    error BatchNotPending(bytes32 batchHash);

    // --- proofs ---

    /// @notice Commits to a proof without revealing it. A proof reverts unless it was reserved in an earlier block. A
    /// hash that is reserved already stays so, from its first block.
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

    /// @notice Proves that an account's balance is below what the account already claimed from the operator.
    /// @dev A wrong batch that was not proved in time may have moved amounts that were already claimed to another
    /// account. Later batches follow from it, so that no other proof convicts them, and they would pay those amounts
    /// again. No valid batch is convicted: claims open only in final batches, which are ancestors of every pending
    /// one, and a balance never falls from one valid batch to the next.
    /// @param header The batch.
    /// @param account The account; without a balance in the batch it has zero.
    /// @param lookup Look-up of the account in the batch's balances.
    function proveBelowClaimed(BatchHeader calldata header, address account, Lookup calldata lookup) external;

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

    /// @notice Demands leaves of a tree for `bondOf(header.operator, tree, keys.length, base fee)` wei, paid by the
    /// value sent and the caller's credit. Leaves that were demanded before, whether open or answered, are skipped and
    /// cost nothing, so that no one can make a call revert by demanding one of its leaves first. What is left of the
    /// value is credited.
    /// @param header A pending batch.
    /// @param tree Tree of the leaves.
    /// @param keys A leaf's index in the receipts tree, its key in the other trees. The answer to a key without a leaf
    /// is a proof of its absence.
    /// @return count Number of leaves newly demanded.
    function demand(
        BatchHeader calldata header,
        Tree tree,
        bytes32[] calldata keys
    ) external payable returns (uint32 count);

    /// @notice Answers a demand for a leaf of the entries or the balances. Three quarters of the bond are credited to
    /// the batch's operator.
    /// @param header The batch.
    /// @param tree Tree of the leaf.
    /// @param key Key of the leaf.
    /// @param parent Header of the previous batch; read only if the demand is for `ParentBalances`.
    /// @param lookup Look-up of the key in the tree.
    function answer(
        BatchHeader calldata header,
        Tree tree,
        bytes32 key,
        BatchHeader calldata parent,
        Lookup calldata lookup
    ) external;

    /// @notice Answers a demand for a receipt, that at the witness's index. Three quarters of the bond are credited to
    /// the batch's operator.
    /// @param header The batch.
    /// @param witness The receipt with all its preimages. It must have no fault other than `Place` or `Position`, which
    /// can be proved from the revealed data.
    /// @param signature Signature of the receipt by a receipt key of the batch's operator.
    function answerReceipt(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata signature
    ) external;

    /// @notice Voids a batch because a demand was not answered in time. Its challenger receives the challenger's share.
    function voidUnanswered(BatchHeader calldata header, Tree tree, bytes32 key) external;

    /// @notice Credits the bond of an open demand to its challenger once the batch is voided. Anyone may call it.
    function returnBond(BatchHeader calldata header, Tree tree, bytes32 key) external;

    /// @notice Pays the caller's credit to `to`.
    /// @return amount The credit, in wei.
    function withdrawCredit(address payable to) external returns (uint256 amount);

    // --- views ---

    /// @notice Returns the bonds of `count` further leaves of one tree of an operator's batches, in wei. Per leaf: gas
    /// of the tree's worst answer x (base fee + `Bounds.bondFee`) x 4 x (64 + leaves in the operator's queue) / 64.
    /// @param baseFee The base fee of the block in which they are demanded. It is not known in advance, so callers send
    /// more than they expect; the rest is credited.
    function bondOf(address operator, Tree tree, uint256 count, uint256 baseFee) external view returns (uint256);

    /// @notice Returns the demand for a leaf; all zero if it was not demanded.
    function demandOf(bytes32 batchHash, Tree tree, bytes32 key) external view returns (Demand memory);

    /// @notice Returns how demands affect a batch's finality.
    /// @return open Number of leaves that are open. The batch is not final while there are any.
    /// @return demandsUntil Further leaves can be demanded until two `answerSeconds` before this time, or before the
    /// batch's `finalAt` if that is later; where blocks are counted, also while as many blocks remain. It is the
    /// batch's `finalAt`, moved by the longest wait in the queue of any of its demands; zero if nothing was demanded.
    /// @return proofsUntil The batch is not final before this time: its answers are due and leave time for proofs. Zero
    /// if nothing was demanded.
    function demandsOn(bytes32 batchHash) external view returns (uint32 open, uint64 demandsUntil, uint64 proofsUntil);

    /// @notice Returns the end of an operator's queue: when its last answer is due, without the bounds that its batches
    /// set. It grows by `Bounds.secondsPerAnswer` with each demanded leaf. Zero after a conviction, until the next
    /// demand.
    function answersDueUntil(address operator) external view returns (uint64);

    /// @notice Returns the wei that an account can withdraw, or use for bonds.
    function creditOf(address account) external view returns (uint256);

    /// @notice Returns the block number in which a hash was reserved; zero if it was not.
    function reservedAt(bytes32 hash) external view returns (uint256);

    /// @notice The time for an answer in seconds, fixed by the profile.
    function answerSeconds() external view returns (uint64);

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
}
