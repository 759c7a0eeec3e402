// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ChannelId, Collection, IPaymentVault, Refund} from "./IPaymentVault.sol";
import {IOperatorRegistry} from "./IOperatorRegistry.sol";
import {IParameters} from "./IParameters.sol";

/// @notice The signed record of one answer. Amounts in micro-units.
/// @param channelId Whose channel pays.
/// @param cumulative The end of this answer's interval on the channel's line.
/// @param charge Its length: the interval is `[cumulative - charge, cumulative)`.
/// @param requestHash Salted hash of the request's bytes.
/// @param responseHash Salted hash of the response's bytes.
/// @param slicesHash Hash of the versions that answered and their weights.
/// @param promptTokens Number of prompt tokens.
/// @param completionTokens Number of completion tokens.
/// @param attributionHash Hash of the method and of one attribution list per slice.
/// @param servedAt Instant in seconds, by the operator's clock.
struct Receipt {
    ChannelId channelId;
    uint128 cumulative;
    uint128 charge;
    bytes32 requestHash;
    bytes32 responseHash;
    bytes32 slicesHash;
    uint32 promptTokens;
    uint32 completionTokens;
    bytes32 attributionHash;
    uint64 servedAt;
}

/// @notice A batch. Its hash is `keccak256(abi.encode(header))`. Amounts in micro-units, instants in seconds.
/// @param operator Whose batch.
/// @param number From 1.
/// @param parent Hash of the operator's previous batch, zero for the first.
/// @param parameterSet The set that its split follows.
/// @param committedAt When it was committed.
/// @param finalAt From when on it may be finalised: never before its parent.
/// @param total What it collected; the sum of its receipts and of its entries.
/// @param cumulativeTotal Its parent's plus `total`; the sum of its balances.
/// @param spansHash Hash of what was collected from which channel.
/// @param receiptsRoot Merkle-sum root of the receipts, in order of (channel, cumulative).
/// @param receiptsCount Number of receipts.
/// @param entriesRoot Merkle-sum root of the entries, in order of key.
/// @param entriesCount Number of entries.
/// @param balancesRoot Merkle-sum root of the balances, in order of account.
/// @param balancesCount Number of balances.
/// @param dataDigest CID digest of the folder with the batch's data.
struct BatchHeader {
    address operator;
    uint64 number;
    bytes32 parent;
    uint32 parameterSet;
    uint64 committedAt;
    uint64 finalAt;
    uint128 total;
    uint128 cumulativeTotal;
    bytes32 spansHash;
    bytes32 receiptsRoot;
    uint32 receiptsCount;
    bytes32 entriesRoot;
    uint32 entriesCount;
    bytes32 balancesRoot;
    uint32 balancesCount;
    bytes32 dataDigest;
}

/// @notice What an operator says about a batch; the rest of the header follows from the chain. Fields as in
/// `BatchHeader`.
struct Commitment {
    bytes32 parent;
    uint32 parameterSet;
    uint128 total;
    bytes32 receiptsRoot;
    uint32 receiptsCount;
    bytes32 entriesRoot;
    uint32 entriesCount;
    bytes32 balancesRoot;
    uint32 balancesCount;
    bytes32 dataDigest;
}

/// @notice Proof of one leaf of a Merkle-sum tree.
/// @param index The leaf's place, from 0.
/// @param value The leaf's value.
/// @param path Siblings from the leaf upwards, 48 bytes each: sum 16, hash 32. None where a node is promoted.
struct Opening {
    uint32 index;
    uint128 value;
    bytes path;
}

/// @notice A claim of an account's earnings from an operator's latest final batch.
/// @param operator Whose pot pays.
/// @param account Who earned; its payout wallet receives.
/// @param balancesCount Number of balances in that batch.
/// @param opening The account's leaf in the balances of that batch.
struct Claim {
    address operator;
    address account;
    uint32 balancesCount;
    Opening opening;
}

/// @notice Names an entry: what `account` earns from one part of one slice of one receipt.
/// @param account Who earns.
/// @param receiptIndex The receipt's place in the batch.
/// @param slice The slice's place in the receipt.
/// @param part 0 the fee, 1 the operator, 2 the creator, 3 + j the contributor j of the slice's list.
struct EntryKey {
    address account;
    uint32 receiptIndex;
    uint16 slice;
    uint16 part;
}

/// @notice Where an operator's chain of batches stands.
/// @param last Number of the latest batch; zero if there is none.
/// @param finalised Number of the latest final batch; all before it are final too.
/// @param toRefund Number of voided batches whose channels are yet to be refunded: those numbered from `last + 1` on.
/// @param finalAt The latest `finalAt` of all batches so far, voided ones included.
/// @param cumulativeTotal All that was collected and not refunded, in micro-units: once nothing is to be refunded, the
/// `cumulativeTotal` of the latest batch.
struct OperatorState {
    uint32 last;
    uint32 finalised;
    uint24 toRefund;
    uint40 finalAt;
    uint128 cumulativeTotal;
}

/// @title Settlement
/// @notice The collector of operators' batches. A batch collects payers' vouchers and commits, by three Merkle-sum
/// trees over the same money, to the receipts behind it, to what each account earns from each of them, and to all
/// balances so far. After the dispute window it is final, and accounts claim against its balances.
///
/// Units: amounts in micro-units; tokens move in whole units, what is left below one stays claimable.
///
/// Trust: no owner and no upgrade. An operator can collect only what payers signed, and can misallocate only money of
/// its own channels: a claim leaves in the pot what the batches not yet final, and those yet to be refunded, have
/// collected. Only `disputes`, fixed at construction as one set with this contract and its operator registry, can void
/// a batch, with all after it, or hold its finality; it does so on the proofs of `IDisputes` alone. Anyone can then
/// refund a voided batch, newest first, which restores its channels to the unit. Before that the operator commits
/// nothing new.
interface ISettlement {
    /// @notice A batch was committed.
    event BatchCommitted(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        BatchHeader header
    );
    /// @notice The batch, and with it every batch before it, is final. `finalTotal` is its cumulative total.
    event BatchFinalised(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        uint128 finalTotal
    );
    /// @notice The batches from `first` to `last` were voided; `batchHash` is the first one's.
    event BatchesVoided(address indexed operator, uint64 indexed first, uint64 last, bytes32 indexed batchHash);
    /// @notice The channels of a voided batch are as they were before it; `amount` went back into them.
    event BatchRefunded(address indexed operator, uint64 indexed number, bytes32 indexed batchHash, uint128 amount);
    /// @notice `wallet` received `amount` for `account`; `cumulative` is all that `account` claimed from `operator` so
    /// far.
    event Claimed(
        address indexed operator,
        address indexed account,
        address wallet,
        uint128 amount,
        uint128 cumulative
    );
    /// @notice `account` is paid at `wallet` from now on.
    event PayoutWalletChanged(address indexed account, address indexed wallet);

    error ParentMismatch(bytes32 expected, bytes32 named);
    error InvalidSpanCount(uint256 count, uint256 maxCount);
    error EmptyTree();
    error TotalMismatch(uint128 collected, uint128 stated);
    error StakeTooLow(uint128 cover, uint256 needed);
    error RingFull(uint32 last, uint32 finalised);
    error RingTooSmall(uint256 reach, uint32 maxDisputeWindow);
    error BatchUnknown(bytes32 batchHash);
    error BatchHeld(address operator, uint64 number);
    error RefundsOutstanding(address operator, uint24 toRefund);
    error NotNextToRefund(bytes32 expected, bytes32 batchHash);
    error SpansMismatch(bytes32 expected, bytes32 found);
    error NotDisputes(address caller);
    error AlreadyFinal(uint64 number);
    error NotYetFinal(uint64 finalAt);
    error BalancesMismatch(address operator, bytes32 expected, bytes32 opened);
    error NothingToClaim(address operator, address account, uint128 claimable);
    /// @notice The claim at place `i` of a list reverts with `reason`.
    error ClaimFailed(uint256 i, bytes reason);
    error InvalidSignature(address signer);
    error InvalidWallet(address wallet);
    error SignatureExpired(uint256 deadline);

    /// @notice Commits the caller's next batch and collects its vouchers. Reverts if the parent or the parameter set
    /// is another than the caller named, so that nothing is committed on top of something unseen, while voided batches
    /// are to be refunded, and while 255 batches are not final.
    /// @param commitment What the batch commits to. No tree may be empty.
    /// @param collections One per channel, strictly rising by channel id, 1 to 256; together exactly
    /// `commitment.total`.
    function commit(
        Commitment calldata commitment,
        Collection[] calldata collections
    ) external returns (uint64 number, bytes32 batchHash);

    /// @notice Makes a batch, and with it all before it, final. Anyone may, from its `finalAt` on, while none of them
    /// is held by an open demand.
    function finalise(BatchHeader calldata header) external;

    /// @notice Restores the channels of the newest voided batch that is not refunded yet. Anyone may.
    /// @param header The voided batch.
    /// @param refunds Its spans, in their order, with the payers of their channels.
    function refund(BatchHeader calldata header, Refund[] calldata refunds) external;

    /// @notice Voids a batch that is not final, and all after it. Only `disputes`.
    function voidFrom(BatchHeader calldata header) external;

    /// @notice Keeps a batch that is not final from becoming final until `release`. Only `disputes`.
    /// @return batchHash The batch's hash.
    function hold(BatchHeader calldata header) external returns (bytes32 batchHash);

    /// @notice Ends a `hold`; nothing happens if the batch was voided meanwhile. Only `disputes`.
    function release(BatchHeader calldata header) external;

    /// @notice Pays an account's payout wallet what it earned since its last claim, in whole units. Anyone may. Reverts
    /// with `NothingToClaim` if that is less than one.
    function claim(Claim calldata request) external;

    /// @notice As `claim`, many. An account that has less than a unit to claim, as when somebody claimed for it
    /// meanwhile, is passed over; any other failure reverts all with `ClaimFailed`, which says of which and why.
    function claimMany(Claim[] calldata requests) external;

    /// @notice Pays the caller's earnings at `wallet` from now on; zero means at the caller. The
    /// vault, which cannot be paid, is refused.
    function setPayoutWallet(address wallet) external;

    /// @notice As `setPayoutWallet`, by the account's `PayoutChange` signature (EOA or EIP-1271); anyone may relay it.
    function setPayoutWalletWithSig(
        address account,
        address wallet,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Whether the receipt stands in the batch and was signed by a receipt key of the batch's operator.
    /// Reverts if the opening is malformed or the batch is not among the operator's latest 256.
    function verifyReceipt(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        bytes calldata signature
    ) external view returns (bool);

    /// @notice Whether the entry stands in the batch with the opening's value. Reverts as `verifyReceipt`.
    function verifyEntry(
        BatchHeader calldata header,
        EntryKey calldata key,
        Opening calldata opening
    ) external view returns (bool);

    /// @notice Whether the batch stands and is not final: whether it can be voided.
    function isPending(BatchHeader calldata header) external view returns (bool);

    /// @notice Whether an open demand keeps batch `number` from becoming final.
    function isHeld(address operator, uint64 number) external view returns (bool);

    /// @notice The EIP-712 digest of a receipt: what a receipt key signs.
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32);

    /// @notice Number of batches whose hashes are kept per operator.
    function ringSize() external pure returns (uint32);

    /// @notice Where an operator's chain of batches stands.
    function stateOf(address operator) external view returns (OperatorState memory);

    /// @notice The hash kept in the ring for batch `number`; zero if there is none, it is voided or overwritten.
    function batchHashAt(address operator, uint64 number) external view returns (bytes32);

    /// @notice `keccak256(abi.encode(balancesRoot, balancesCount, cumulativeTotal))` of the latest final batch.
    function balancesHashOf(address operator) external view returns (bytes32);

    /// @notice What `account` claimed from `operator` so far, in micro-units.
    function claimedOf(address operator, address account) external view returns (uint128);

    /// @notice Where an account is paid.
    function payoutWalletOf(address account) external view returns (address);

    /// @notice The hash of a batch.
    function hashBatch(BatchHeader calldata header) external pure returns (bytes32);

    /// @notice The EIP-712 struct hash of a receipt: its key in the tree of receipts.
    function hashReceipt(Receipt calldata receipt) external pure returns (bytes32);

    /// @notice The vault from which this contract collects.
    function vault() external view returns (IPaymentVault);

    /// @notice The governed numbers.
    function parameters() external view returns (IParameters);

    /// @notice The operators' stakes and receipt keys.
    function operators() external view returns (IOperatorRegistry);

    /// @notice Who alone can void a batch: the fraud proofs.
    function disputes() external view returns (address);
}
