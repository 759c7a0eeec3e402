// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ChannelId, Collection, IPaymentVault, Refund} from "./IPaymentVault.sol";
import {IOperatorRegistry} from "./IOperatorRegistry.sol";
import {IParameters} from "./IParameters.sol";

/// @notice The signed record of one answer. Amounts in micro-units.
/// @param channelId Channel that pays.
/// @param cumulative The channel's cumulative charge after this answer.
/// @param charge Charge of this answer, which pays the interval `[cumulative - charge, cumulative)` of the channel.
/// @param requestHash Salted hash of the request's bytes.
/// @param responseHash Salted hash of the response's bytes.
/// @param slicesHash Hash of the adapter versions that answered and their weights.
/// @param promptTokens Number of prompt tokens.
/// @param completionTokens Number of completion tokens.
/// @param attributionHash Hash of the method and of one attribution list per slice.
/// @param servedAt Unix seconds by the operator's clock.
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

/// @notice A batch. Its hash is `keccak256(abi.encode(header))`. Amounts in micro-units, times in Unix seconds.
/// @param operator Operator that committed the batch.
/// @param number Number of the batch, from 1.
/// @param parent Hash of the operator's previous batch; zero for the first.
/// @param parameterSet Id of the parameter set that applies to the batch.
/// @param committedAt Time of the commit.
/// @param finalAt Earliest time of finalisation, never before the parent's.
/// @param total Collected amount, equal to the sum of the receipts and to the sum of the entries.
/// @param cumulativeTotal The parent's `cumulativeTotal` plus `total`, equal to the sum of the balances.
/// @param spansHash Hash of the collected interval of each channel.
/// @param receiptsRoot Merkle-sum root of the receipts, ordered by (channel, cumulative).
/// @param receiptsCount Number of receipts.
/// @param entriesRoot Merkle-sum root of the entries, ordered by key.
/// @param entriesCount Number of entries.
/// @param balancesRoot Merkle-sum root of the balances, ordered by account.
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

/// @notice The fields of a `BatchHeader` that the operator provides. The contract derives the others.
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

/// @notice Inclusion proof of one leaf of a Merkle-sum tree.
/// @param index Index of the leaf, from 0.
/// @param value Value of the leaf.
/// @param path Siblings from the leaf to the root, 48 bytes each: sum 16, hash 32. A promoted node has no sibling.
struct Opening {
    uint32 index;
    uint128 value;
    bytes path;
}

/// @notice A claim of an account's earnings against an operator's latest final batch.
/// @param operator Operator whose pot pays.
/// @param account Account that earned; its payout wallet is paid.
/// @param balancesCount Number of balances in the batch.
/// @param opening Inclusion proof of the account in the batch's balances.
struct Claim {
    address operator;
    address account;
    uint32 balancesCount;
    Opening opening;
}

/// @notice Identifies an entry: the earnings of `account` from one part of one slice of one receipt.
/// @param account Account that earns.
/// @param receiptIndex Index of the receipt in the batch.
/// @param slice Index of the slice in the receipt.
/// @param part 0 for the fee, 1 for the operator, 2 for the creator, 3 + j for contributor j of the slice's list.
struct EntryKey {
    address account;
    uint32 receiptIndex;
    uint16 slice;
    uint16 part;
}

/// @notice The state of an operator's chain of batches.
/// @param last Number of the latest batch; zero if there is none.
/// @param finalised Number of the latest final batch; all earlier ones are final too.
/// @param toRefund Number of voided batches that are not refunded yet, numbered from `last + 1` on.
/// @param finalAt The latest `finalAt` of all batches, including voided ones.
/// @param cumulativeTotal Amount collected and not refunded, in micro-units. If `toRefund` is zero, it equals the
/// `cumulativeTotal` of the latest batch.
struct OperatorState {
    uint32 last;
    uint32 finalised;
    uint24 toRefund;
    uint40 finalAt;
    uint128 cumulativeTotal;
}

/// @title Settlement
/// @notice Settles operators' batches as an optimistic rollup does. A batch collects payers' vouchers and commits, by
/// three Merkle-sum trees over the same amount, to its receipts, to the earnings of each account from each receipt,
/// and to all balances so far. After the dispute window it is final, and accounts claim against its balances.
///
/// Units: amounts in micro-units. Tokens move in whole units; a remainder below one unit stays claimable.
///
/// Trust: no owner and no upgrade. An operator can collect only what payers signed, and can misallocate only amounts of
/// its own channels: claims cannot touch what pending and unrefunded batches collected. Only `disputes`, which is fixed
/// at construction together with the operator registry, can void a batch and all later ones, or hold its finality, and
/// only by the proofs of `IDisputes`. Anyone can then refund the voided batches, newest first, which restores their
/// channels exactly. The operator cannot commit before all of them are refunded.
interface ISettlement {
    /// @notice A batch was committed.
    event BatchCommitted(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        BatchHeader header
    );
    /// @notice The batch and all earlier ones were finalised. `finalTotal` is its cumulative total.
    event BatchFinalised(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        uint128 finalTotal
    );
    /// @notice The batches from `first` to `last` were voided. `batchHash` is the hash of batch `first`.
    event BatchesVoided(address indexed operator, uint64 indexed first, uint64 last, bytes32 indexed batchHash);
    /// @notice A voided batch was refunded: `amount` returned to its channels, which are as before the batch.
    event BatchRefunded(address indexed operator, uint64 indexed number, bytes32 indexed batchHash, uint128 amount);
    /// @notice `wallet` received `amount` for `account`. `cumulative` is the total that `account` has claimed from
    /// `operator`.
    event Claimed(
        address indexed operator,
        address indexed account,
        address wallet,
        uint128 amount,
        uint128 cumulative
    );
    /// @notice `account` changed its payout wallet to `wallet`.
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
    /// @notice Claim `i` of the list reverted with `reason`.
    error ClaimFailed(uint256 i, bytes reason);
    error InvalidSignature(address signer);
    error InvalidWallet(address wallet);
    error SignatureExpired(uint256 deadline);

    /// @notice Commits the caller's next batch and collects its vouchers. Reverts if the parent or the current
    /// parameter set differs from the named one, so that an operator never commits on top of a state that it has not
    /// seen. Reverts also while voided batches await refunds, and while 255 batches are pending.
    /// @param commitment The batch's commitments. No tree may be empty.
    /// @param collections 1 to 256 collections, one per channel, in strictly ascending order of channel id; their sum
    /// must equal `commitment.total`.
    function commit(
        Commitment calldata commitment,
        Collection[] calldata collections
    ) external returns (uint64 number, bytes32 batchHash);

    /// @notice Finalises a batch and all earlier ones. Anyone may call it from the batch's `finalAt` on, unless an open
    /// demand holds one of them.
    function finalise(BatchHeader calldata header) external;

    /// @notice Refunds the newest voided batch that is not refunded yet. Anyone may call it.
    /// @param header The voided batch.
    /// @param refunds The batch's spans in order, with the payers of their channels.
    function refund(BatchHeader calldata header, Refund[] calldata refunds) external;

    /// @notice Voids a pending batch and all later ones. Only `disputes`.
    function voidFrom(BatchHeader calldata header) external;

    /// @notice Prevents the finalisation of a pending batch until `release`. Only `disputes`.
    /// @return batchHash The batch's hash.
    function hold(BatchHeader calldata header) external returns (bytes32 batchHash);

    /// @notice Ends a `hold`. It has no effect if the batch was voided in between. Only `disputes`.
    function release(BatchHeader calldata header) external;

    /// @notice Pays an account's payout wallet its earnings since the last claim, in whole units. Anyone may call it.
    /// Reverts with `NothingToClaim` if they are below one unit.
    function claim(Claim calldata request) external;

    /// @notice Executes several claims. It skips claims that revert with `NothingToClaim`, for instance because they
    /// were claimed in the meantime, and reverts with `ClaimFailed` on any other failure.
    function claimMany(Claim[] calldata requests) external;

    /// @notice Sets the wallet that receives the caller's claims; zero resets it to the caller. The vault is refused,
    /// because it cannot be paid.
    function setPayoutWallet(address wallet) external;

    /// @notice Sets the payout wallet by the account's `PayoutChange` signature (EOA or EIP-1271). Anyone may relay it.
    function setPayoutWalletWithSig(
        address account,
        address wallet,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Returns whether the batch includes the receipt and a receipt key of the batch's operator signed it.
    /// Reverts if the opening is malformed or the batch is not among the operator's latest 256.
    function verifyReceipt(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        bytes calldata signature
    ) external view returns (bool);

    /// @notice Returns whether the batch includes the entry with the opening's value. Reverts as `verifyReceipt` does.
    function verifyEntry(
        BatchHeader calldata header,
        EntryKey calldata key,
        Opening calldata opening
    ) external view returns (bool);

    /// @notice Returns whether the batch is neither voided nor final, so that it can be voided.
    function isPending(BatchHeader calldata header) external view returns (bool);

    /// @notice Returns whether an open demand prevents the finalisation of batch `number`.
    function isHeld(address operator, uint64 number) external view returns (bool);

    /// @notice Returns the EIP-712 digest of a receipt, which a receipt key signs.
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32);

    /// @notice Returns the number of batch hashes that are stored per operator.
    function ringSize() external pure returns (uint32);

    /// @notice Returns the state of an operator's chain of batches.
    function stateOf(address operator) external view returns (OperatorState memory);

    /// @notice Returns the stored hash of batch `number`; zero if it does not exist, is voided or was overwritten.
    function batchHashAt(address operator, uint64 number) external view returns (bytes32);

    /// @notice Returns `keccak256(abi.encode(balancesRoot, balancesCount, cumulativeTotal))` of the latest final batch.
    function balancesHashOf(address operator) external view returns (bytes32);

    /// @notice Returns the total that `account` has claimed from `operator`, in micro-units.
    function claimedOf(address operator, address account) external view returns (uint128);

    /// @notice Returns the wallet that receives an account's claims.
    function payoutWalletOf(address account) external view returns (address);

    /// @notice Returns the hash of a batch.
    function hashBatch(BatchHeader calldata header) external pure returns (bytes32);

    /// @notice Returns the EIP-712 struct hash of a receipt, which is its key in the receipts tree.
    function hashReceipt(Receipt calldata receipt) external pure returns (bytes32);

    /// @notice The vault from which this contract collects.
    function vault() external view returns (IPaymentVault);

    /// @notice The governed parameters.
    function parameters() external view returns (IParameters);

    /// @notice The registry of stakes and receipt keys.
    function operators() external view returns (IOperatorRegistry);

    /// @notice The fraud proofs: the only account that can void a batch.
    function disputes() external view returns (address);
}
