// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IAdapterRegistry, VersionRecord} from "./IAdapterRegistry.sol";
import {IDatasetRegistry} from "./IDatasetRegistry.sol";
import {IOperatorRegistry} from "./IOperatorRegistry.sol";
import {IParameters} from "./IParameters.sol";
import {BatchHeader, ISettlement, Opening, Receipt} from "./ISettlement.sol";

/// @notice The trees of which leaves can be demanded. `ParentBalances` is the previous batch's: without it a batch on
/// top of withheld balances could not be proved wrong.
enum Tree {
    Receipts,
    Entries,
    Balances,
    ParentBalances
}

/// @notice What is wrong with a receipt, in the order in which it is looked for.
enum Fault {
    None,
    Value, // its leaf is worth another amount than its charge
    ZeroCharge, // an answer priced at zero is never batched
    Slices, // not one to four slices with weights that make one whole
    Attribution, // not a method and one list hash per slice
    Version, // a slice's version was not registered when the batch was committed
    List, // a slice's list is malformed, or names a snapshot that its version does not have
    Price, // the charge is not what weights, tokens and registered prices make
    Place, // it is off its place on the line: gap, overlap, foreign channel or outside its span
    Position // a list names a contribution that is not in its snapshot
}

/// @notice Shows the value under a key. One opening: of the leaf with that key; of the first leaf, whose key is
/// larger; or of the last leaf, whose key is smaller. Two openings: of neighbours around the key.
/// @param keys The keys of the opened leaves.
/// @param openings Their openings, in the same order.
struct Lookup {
    bytes32[] keys;
    Opening[] openings;
}

/// @notice A snapshot's preimage.
/// @param datanetId Its datanet.
/// @param count It spans the first `count` contributions.
/// @param accepted The accept bits in 32-byte words, as `SnapshotFrozen` published them.
struct SnapshotWitness {
    uint64 datanetId;
    uint32 count;
    bytes accepted;
}

/// @notice The preimages behind one slice.
/// @param record The version's record.
/// @param list The slice's attribution list: entries of position 4, ppm 4.
struct SliceWitness {
    VersionRecord record;
    bytes list;
}

/// @notice A receipt of a batch with the preimages of its hashes, as far as a proof needs them.
/// @param receipt The receipt.
/// @param opening Its leaf in the batch's receipts.
/// @param slices Preimage of `slicesHash`: versionId 32, weight 4, slice by slice.
/// @param attribution Preimage of `attributionHash`: method 32, list hash 32, list by list.
/// @param parts One for each slice, in their order.
struct ReceiptWitness {
    Receipt receipt;
    Opening opening;
    bytes slices;
    bytes attribution;
    SliceWitness[] parts;
}

/// @notice Names a part of a receipt's charge, and the contributor behind it where there is one.
/// @param slice The slice's place in the receipt.
/// @param part 0 the fee, 1 the operator, 2 the creator, 3 + j the contributor j of the slice's list.
/// @param snapshot The snapshot of the contribution; looked at for parts from 3 on of a version with snapshots only.
/// @param contentHash The contribution's content hash, likewise.
struct EntryPlace {
    uint16 slice;
    uint16 part;
    SnapshotWitness snapshot;
    bytes32 contentHash;
}

/// @notice What an account's balance follows from.
/// @param account Whose balance.
/// @param parent The previous batch's header; not looked at for batch 1.
/// @param earlier The account's key in the parent's balances; not looked at for batch 1.
/// @param later The account's key in this batch's balances.
/// @param entriesFrom The key `account << 64` in this batch's entries.
/// @param entriesUntil The key `(account + 1) << 64` in this batch's entries.
struct BalanceWitness {
    address account;
    BatchHeader parent;
    Lookup earlier;
    Lookup later;
    Lookup entriesFrom;
    Lookup entriesUntil;
}

/// @notice A bonded demand for leaves of a batch's trees. Its id is `keccak256(abi.encode(demand))`.
/// @param batchHash Which batch.
/// @param tree Which tree.
/// @param keys 1 to 64, each demanded for itself: a receipt's index in the tree of receipts, a leaf's key in the
/// others; a key that has no leaf is answered by its neighbours.
/// @param challenger Who pays the bond, and has it back, and the challenger's part of the slash, for what is not
/// answered.
/// @param deadline The last instant, in seconds, of an answer.
/// @param bondUnits Bond per key, in token units: the answerer's.
struct Demand {
    bytes32 batchHash;
    Tree tree;
    bytes32[] keys;
    address challenger;
    uint64 deadline;
    uint256 bondUnits;
}

/// @title Disputes
/// @notice Proofs that a batch is wrong. Each voids the batch and all after it, by one transaction of anybody, and
/// slashes its operator: the part of the pot that the batch's parameter set demands as stake cover, as far as the stake
/// reaches. After that anybody refunds the channels at the settlement.
///
/// Every wrong batch has a proof, and no right one has any. *In a proof a revert is an acquittal*: every witness that
/// is not what the chain or the batch names reverts, and only a contradiction between the batch and the rules voids.
/// Where the operator hides what a proof needs, a *demand* forces it out or voids the batch: answers are due after an
/// eighth of the batch's dispute window, and a demand is taken as long as its answer, and after that a proof, an eighth
/// for each, still fit before `finalAt`. A batch under an open demand does not become final.
///
/// The challenger's part of the slash (governed, below one half, so that self-accusation costs more than it brings) is
/// paid to a caller who reserved exactly this call in an earlier block, so that nobody who merely sees a proof on its
/// way earns by it; else all goes to the treasury. For an unanswered demand it is its challenger's in any case.
///
/// Units: `bondUnits` are token units, held here and nowhere mixed with payers' money; values of leaves and slashes are
/// micro-units.
///
/// Trust: no owner, nothing to configure. That a model really ran, that an attribution method is right and that an
/// operator settles what it served are beyond any proof here; see docs/trust-model.md.
interface IDisputes {
    /// @notice `hash` was reserved; it counts from the next block on.
    event Reserved(bytes32 indexed hash);
    /// @notice A proof held: the batch is void. `verb` is the selector of the proof.
    event BatchConvicted(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        bytes4 verb,
        address challenger
    );
    /// @notice A receipt of a batch that is now void has this fault.
    event ReceiptFaulty(bytes32 indexed batchHash, uint32 receiptIndex, Fault fault);
    /// @notice Leaves were demanded.
    event Demanded(bytes32 indexed id, address indexed operator, bytes32 indexed batchHash, Demand demand);
    /// @notice Key `i` of a demand was answered by `call`, the whole calldata of the answer in its canonical encoding;
    /// `answerer` got its bond.
    event Answered(bytes32 indexed id, uint256 indexed i, address indexed answerer, bytes call);
    /// @notice The challenger has `units` of bond back: for the keys of a demand that a void left unanswered.
    event BondReturned(bytes32 indexed id, address indexed challenger, uint256 units);

    error NoFault();
    error AlreadyReserved(bytes32 hash);
    error ValueIsRight(bytes32 key, uint256 value);
    error NotInvolved(uint256 part, uint256 count);
    error NotTheContributor(bytes32 contentHash, uint32 expected, uint32 found);
    error LeavesInOrder(bytes32 left, bytes32 right);
    error LeafHasValue(uint128 value);
    error IntervalsApart(uint128 from, uint128 until, uint128 otherFrom, uint128 otherUntil);
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
    /// @notice The answer's calldata is not the one canonical encoding of its arguments.
    error NotCanonical();
    error AnswerTooLate(uint64 deadline);
    error AnswerNotDue(uint64 deadline);
    error ReceiptIsFaulty(Fault fault);
    error BatchStands(bytes32 batchHash);
    error BatchIsVoid(bytes32 batchHash);
    error UnexpectedTransfer(uint256 expected, uint256 received);

    // --- proofs ---

    /// @notice Announces a proof without showing it, so that its challenger's part goes to who found it.
    /// @param hash `keccak256(abi.encode(sender, keccak256(calldata)))` of the call to come.
    function reserve(bytes32 hash) external;

    /// @notice Shows that a receipt is faulty.
    /// @param header The batch.
    /// @param witness The receipt, with the preimages that the fault needs.
    /// @param spans The batch's spans, packed as `spansHash` covers them, to show that the receipt is misplaced; else
    /// empty.
    function badReceipt(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata spans
    ) external;

    /// @notice Shows that a receipt's list names a contribution that is not in its snapshot.
    /// @param header The batch.
    /// @param witness The receipt, with its preimages.
    /// @param slice The slice's place in the receipt.
    /// @param item The contribution's place in the slice's list.
    /// @param snapshot The snapshot.
    function badPosition(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        uint256 slice,
        uint256 item,
        SnapshotWitness calldata snapshot
    ) external;

    /// @notice Shows that the entry of a part of a receipt's charge is not what the split makes of it.
    /// @param header The batch.
    /// @param witness The receipt, with its preimages.
    /// @param place The part.
    /// @param lookup The part's key in the batch's entries.
    function wrongEntry(
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        EntryPlace calldata place,
        Lookup calldata lookup
    ) external;

    /// @notice Shows that an account's balance is not its balance in the parent and its entries.
    function wrongBalance(BatchHeader calldata header, BalanceWitness calldata witness) external;

    /// @notice Shows two leaves of the entries or the balances whose keys do not rise with their places.
    /// @param header The batch.
    /// @param tree Entries or balances.
    /// @param leaves The two, the one further left first.
    function wrongOrder(BatchHeader calldata header, Tree tree, Lookup calldata leaves) external;

    /// @notice Shows a leaf that is worth nothing, which no tree has, or such a node beside the path of any leaf.
    /// @param header The batch.
    /// @param tree Receipts, entries or balances.
    /// @param leafHash The leaf's hash.
    /// @param opening Its opening.
    function zeroLeaf(
        BatchHeader calldata header,
        Tree tree,
        bytes32 leafHash,
        Opening calldata opening
    ) external;

    /// @notice Shows that the operator signed another receipt over money that a receipt of the batch covers.
    /// @param header The batch.
    /// @param receipt The batch's receipt.
    /// @param opening Its opening.
    /// @param other The other receipt.
    /// @param signature Its signature by a receipt key of the operator.
    function equivocation(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        Receipt calldata other,
        bytes calldata signature
    ) external;

    // --- demands ---

    /// @notice Demands leaves. The bond, per key, is the batch's parameter set's, in whole units rounded up; this
    /// contract needs an allowance.
    /// @return id The demand's id.
    function demand(
        BatchHeader calldata header,
        Tree tree,
        bytes32[] calldata keys
    ) external returns (bytes32 id);

    /// @notice Answers key `i` of a demand for entries or balances; the caller gets its bond.
    /// @param asked The demand.
    /// @param i Which of its keys.
    /// @param header The batch.
    /// @param parent The previous batch's header if its balances are asked for; else not looked at.
    /// @param lookup The key in the tree.
    function answer(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header,
        BatchHeader calldata parent,
        Lookup calldata lookup
    ) external;

    /// @notice Answers key `i` of a demand for receipts; the caller gets its bond.
    /// @param asked The demand.
    /// @param i Which of its keys.
    /// @param header The batch.
    /// @param witness The receipt with all its preimages. It must be free of every fault but `Place` and `Position`,
    /// which then can be shown from what it reveals.
    /// @param signature The receipt's signature by a receipt key of the batch's operator.
    function answerReceipt(
        Demand calldata asked,
        uint256 i,
        BatchHeader calldata header,
        ReceiptWitness calldata witness,
        bytes calldata signature
    ) external;

    /// @notice Voids a batch for a demand whose deadline passed unanswered.
    function unanswered(Demand calldata asked, BatchHeader calldata header) external;

    /// @notice Returns the bond of what was not answered of a demand, once its batch is void. Anyone may.
    function returnBond(Demand calldata asked, BatchHeader calldata header) external;

    // --- views ---

    /// @notice The keys of a demand that are yet to be answered: bit `i` for key `i`. Zero if all are, or there is no
    /// such demand.
    function unansweredOf(bytes32 id) external view returns (uint256);

    /// @notice Number of demands of a batch that are not wholly answered.
    function numOpenDemands(bytes32 batchHash) external view returns (uint256);

    /// @notice The block in which a hash was reserved; zero if it was not.
    function reservedAt(bytes32 hash) external view returns (uint256);

    /// @notice How long an answer to a demand for leaves of this batch may take, in seconds.
    function answerSeconds(BatchHeader calldata header) external view returns (uint64);

    /// @notice The batches.
    function settlement() external view returns (ISettlement);

    /// @notice The stakes and receipt keys.
    function operators() external view returns (IOperatorRegistry);

    /// @notice The governed numbers.
    function parameters() external view returns (IParameters);

    /// @notice The versions' records.
    function adapters() external view returns (IAdapterRegistry);

    /// @notice The contributions.
    function datasets() external view returns (IDatasetRegistry);

    /// @notice The token of the bonds: the payment token.
    function token() external view returns (IERC20);
}
