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
/// @param finalAt Earliest time of finalisation.
/// @param finalBlock Earliest block of finalisation; zero if the profile counts no blocks.
/// @param total Collected amount, equal to the sum of the receipts and to the sum of the entries.
/// @param cumulativeTotal The parent's `cumulativeTotal` plus `total`, equal to the sum of the balances.
/// @param slashUpTo What the operator's slashes sum to at least once the batch is voided and refunded: the slashes
/// before the commit plus the stake cover that the commit required, in whole token units.
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
    uint64 finalBlock;
    uint128 total;
    uint128 cumulativeTotal;
    uint128 slashUpTo;
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

/// @notice A claim of an account's earnings against a final batch of an operator, whose pot pays.
/// @param header Any final batch of the operator; a later one credits at least as much.
/// @param account Account that earned; its payout wallet is paid.
/// @param opening Inclusion proof of the account in the batch's balances.
struct Claim {
    BatchHeader header;
    address account;
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
/// @param toRefund Number of voided batches that are not refunded yet, numbered from `last + 1` on.
/// @param cumulativeTotal Amount collected and not refunded, in micro-units. If `toRefund` is zero, it equals the
/// `cumulativeTotal` of the latest batch.
/// @param finalised Number of the latest final batch; all earlier ones are final too.
/// @param finalTotal The `cumulativeTotal` of the latest final batch: the claims against the operator's pot never
/// exceed it together.
struct OperatorState {
    uint64 last;
    uint64 toRefund;
    uint128 cumulativeTotal;
    uint64 finalised;
    uint128 finalTotal;
}

/// @title Settlement
/// @notice Settles operators' batches as an optimistic rollup does. A batch collects payers' vouchers and commits, by
/// three Merkle-sum trees over the same amount, to its receipts, to the earnings of each account from each receipt,
/// and to all balances so far. After the dispute window it is final, and accounts claim against its balances. Batches
/// become final in order, and a final batch stays claimable and verifiable for ever.
///
/// Units: amounts in micro-units. Tokens move in whole units; a remainder below one unit stays claimable.
///
/// Trust: no owner and no upgrade. An operator can collect only what payers signed, and can misallocate only amounts of
/// its own channels: claims cannot touch what pending and unrefunded batches collected. Only `disputes`, which is fixed
/// at construction together with the operator registry, can void batches, and only by the proofs of `IDisputes`: one
/// proof voids all pending batches of the operator. Its open demands delay the finality of their batch. Anyone can then
/// refund the voided batches, newest first, which restores their channels exactly. The operator cannot commit before
/// all of them are refunded.
///
/// Voiding slashes the stake by the largest cover that the commits of the voided batches required, less what was
/// slashed while that batch was pending: the void itself raises the operator's slashes to `slashUpTo` of the convicted
/// batch, and each refund raises them to that of its batch. Whichever of several wrong batches is convicted, the sum is
/// the same, and none of them stays behind: an operator cannot pay for a wrong batch by convicting a later one of its
/// own.
interface ISettlement {
    /// @notice A batch was committed.
    event BatchCommitted(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        BatchHeader header
    );
    /// @notice The batch is final. `finalTotal` is its cumulative total.
    event BatchFinalised(
        address indexed operator,
        uint64 indexed number,
        bytes32 indexed batchHash,
        uint128 finalTotal
    );
    /// @notice All pending batches, those from `first` to `last`, were voided. `batchHash` is the hash of the convicted
    /// one, which may be any of them.
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
    error BatchUnknown(bytes32 batchHash);
    error DemandsOpen(bytes32 batchHash, uint32 open);
    error RefundsOutstanding(address operator, uint64 toRefund);
    error NotNextToRefund(bytes32 expected, bytes32 batchHash);
    error SpansMismatch(bytes32 expected, bytes32 found);
    error NotDisputes(address caller);
    error AlreadyFinal(uint64 number);
    error NotNextToFinalise(uint64 expected, uint64 number);
    error NotYetFinal(uint64 finalAt, uint64 finalBlock);
    error BatchNotFinal(uint64 number);
    error NothingToClaim(address operator, address account, uint128 claimable);
    /// @notice Claim `i` of the list reverted with `reason`.
    error ClaimFailed(uint256 i, bytes reason);
    error InvalidSignature(address signer);
    error InvalidWallet(address wallet);
    error SignatureExpired(uint256 deadline);

    /// @notice Commits the caller's next batch and collects its vouchers. Reverts if the parent or the current
    /// parameter set differs from the named one, so that an operator never commits on top of a state that it has not
    /// seen. Reverts also while voided batches await refunds.
    /// @param commitment The batch's commitments. No tree may be empty.
    /// @param collections 1 to 256 collections, one per channel, in strictly ascending order of channel id; their sum
    /// must equal `commitment.total`.
    function commit(
        Commitment calldata commitment,
        Collection[] calldata collections
    ) external returns (uint64 number, bytes32 batchHash);

    /// @notice Finalises batches, each of which must be its operator's next one. Anyone may call it once the batch's
    /// `finalAt` and `finalBlock` are reached, no demand on it is open, and the time for proofs from the answers to
    /// earlier demands has passed.
    function finalise(BatchHeader[] calldata headers) external;

    /// @notice Refunds the newest voided batch that is not refunded yet, and slashes the operator up to the batch's
    /// `slashUpTo`. Anyone may call it.
    /// @param header The voided batch.
    /// @param refunds The batch's spans in order, with the payers of their channels.
    function refund(BatchHeader calldata header, Refund[] calldata refunds) external;

    /// @notice Voids all pending batches of the operator, and slashes it up to the `slashUpTo` of the convicted one.
    /// Only `disputes`.
    /// @param header The convicted batch, any pending one.
    /// @param challenger Account that receives the challenger's share of the slash; zero if the treasury receives all.
    function voidPending(BatchHeader calldata header, address challenger) external;

    /// @notice Pays an account's payout wallet what the batch credits to the account beyond its claims so far, in whole
    /// units. Anyone may call it. Reverts with `NothingToClaim` if that is below one unit.
    function claim(Claim calldata request) external;

    /// @notice Executes several claims. It skips claims that revert with `NothingToClaim`, for instance because they
    /// were claimed in the meantime, and reverts with `ClaimFailed` on any other failure.
    function claimMany(Claim[] calldata requests) external;

    /// @notice Sets the wallet that receives the caller's claims; zero resets it to the caller. The vault is refused,
    /// because it cannot be paid. A `PayoutChange` that the caller signed with its next nonce becomes void.
    function setPayoutWallet(address wallet) external;

    /// @notice Sets the payout wallet by the account's `PayoutChange` signature (EOA or EIP-1271). Anyone may relay it.
    function setPayoutWalletWithSig(
        address account,
        address wallet,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external;

    /// @notice Returns whether the batch includes the receipt and a receipt key that counts for the batch signed it.
    /// Reverts if the opening is malformed, or the batch was never committed or is voided.
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

    /// @notice Returns the EIP-712 digest of a receipt, which a receipt key signs.
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32);

    /// @notice Returns the state of an operator's chain of batches.
    function stateOf(address operator) external view returns (OperatorState memory);

    /// @notice Returns the hash of batch `number`; zero if it does not exist or is voided.
    function batchHashAt(address operator, uint64 number) external view returns (bytes32);

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
