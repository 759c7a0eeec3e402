// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {IDisputes, Tree} from "./interfaces/IDisputes.sol";
import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {IParameters, ParameterSet} from "./interfaces/IParameters.sol";
import {Collection, IPaymentVault, Refund} from "./interfaces/IPaymentVault.sol";
import {
    BatchHeader,
    Claim,
    Commitment,
    EntryKey,
    ISettlement,
    Opening,
    OperatorState,
    Receipt
} from "./interfaces/ISettlement.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Lookups, TreeRoot} from "./libraries/Lookups.sol";
import {MerkleSum} from "./libraries/MerkleSum.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Units} from "./libraries/Units.sol";

/// @title Settlement
/// @notice See `ISettlement`.
contract Settlement is ISettlement, EIP712, Nonces {
    using Lookups for TreeRoot;

    uint256 private constant _MAX_SPANS = 256;

    /// @inheritdoc ISettlement
    IPaymentVault public immutable override vault;
    /// @inheritdoc ISettlement
    IParameters public immutable override parameters;
    /// @inheritdoc ISettlement
    IOperatorRegistry public immutable override operators;
    /// @inheritdoc ISettlement
    address public immutable override disputes;

    /// @inheritdoc ISettlement
    mapping(address operator => mapping(address account => uint128 amount)) public override claimedOf;

    mapping(address operator => OperatorState) private _states;
    /// @dev Hashes of numbers above the operator's `last` are those of voided batches, until a commit overwrites them.
    mapping(address operator => mapping(uint64 number => bytes32)) private _batchHashes;
    mapping(address account => address wallet) private _payoutWallets;

    /// @notice Deployed as part of a `Generation`.
    /// @param parameters_ The governed parameters; they name the vault against which their bounds were checked.
    /// @param operators_ The operator registry of the same generation.
    /// @param disputes_ The fraud proofs of the same generation.
    constructor(
        IParameters parameters_,
        IOperatorRegistry operators_,
        address disputes_
    ) EIP712("loraledger", "1") {
        vault = parameters_.vault();
        parameters = parameters_;
        operators = operators_;
        disputes = disputes_;
    }

    // --- batches ---

    /// @inheritdoc ISettlement
    function commit(
        Commitment calldata commitment,
        Collection[] calldata collections
    ) external returns (uint64 number, bytes32 batchHash) {
        OperatorState storage state = _states[msg.sender];
        (uint64 last, uint64 toRefund, uint128 cumulativeTotal) = (state.last, state.toRefund, state.cumulativeTotal);
        require(toRefund == 0, RefundsOutstanding(msg.sender, toRefund));
        // Before the first batch the hash is zero, which is the parent that a first batch names.
        bytes32 parent = _batchHashes[msg.sender][last];
        require(parent == commitment.parent, ParentMismatch(parent, commitment.parent));

        BatchHeader memory header = _headerOf(commitment);
        number = last + 1;
        header.number = number;
        header.cumulativeTotal = cumulativeTotal + commitment.total;
        uint32 coverPpm = _setTimes(header);
        _collect(header, collections, coverPpm);
        batchHash = Hashing.batch(header);
        _batchHashes[msg.sender][number] = batchHash;
        state.last = number;
        state.cumulativeTotal = header.cumulativeTotal;
        emit BatchCommitted(msg.sender, number, batchHash, header);
    }

    /// @inheritdoc ISettlement
    function finalise(BatchHeader[] calldata headers) external {
        for (uint256 i = 0; i < headers.length; ++i) {
            _finalise(headers[i]);
        }
    }

    /// @inheritdoc ISettlement
    function refund(BatchHeader calldata header, Refund[] calldata refunds) external {
        address operator = header.operator;
        OperatorState storage state = _states[operator];
        (uint64 last, uint64 toRefund) = (state.last, state.toRefund);
        bytes32 batchHash = Hashing.batch(header);
        bytes32 next = toRefund == 0 ? bytes32(0) : _batchHashes[operator][last + toRefund];
        require(batchHash == next, NotNextToRefund(next, batchHash));
        state.toRefund = toRefund - 1;
        state.cumulativeTotal -= header.total;
        emit BatchRefunded(operator, header.number, batchHash, header.total);
        (, bytes32 spansHash) = vault.refund(operator, refunds);
        require(spansHash == header.spansHash, SpansMismatch(header.spansHash, spansHash));
        _slash(header, address(0));
    }

    /// @inheritdoc ISettlement
    function voidPending(BatchHeader calldata header, address challenger) external {
        require(msg.sender == disputes, NotDisputes(msg.sender));
        bytes32 batchHash = _checkKnown(header);
        OperatorState storage state = _states[header.operator];
        (uint64 last, uint64 finalised) = (state.last, state.finalised);
        require(header.number > finalised, AlreadyFinal(header.number));
        // Nothing is pending while refunds are outstanding, so `toRefund` was zero. `cumulativeTotal` decreases with
        // each refund.
        state.last = finalised;
        state.toRefund = last - finalised;
        emit BatchesVoided(header.operator, finalised + 1, last, batchHash);
        _slash(header, challenger);
    }

    // --- claims ---

    /// @inheritdoc ISettlement
    function claim(Claim calldata request) external {
        (address operator, address account) = (request.header.operator, request.account);
        uint128 finalTotal = _checkFinal(request.header);
        Lookups.treeOf(request.header, Tree.Balances).openKey(Hashing.account(account), request.opening);
        mapping(address => uint128) storage claimedBy = claimedOf[operator];
        uint128 claimed = claimedBy[account];
        (uint256 units, uint128 amount) = _claimable(operator, account, request.opening.value, claimed);

        uint128 cumulative = claimed + amount;
        claimedBy[account] = cumulative;
        address wallet = payoutWalletOf(account);
        emit Claimed(operator, account, wallet, amount, cumulative);
        // `finalTotal` caps the total payout at what final batches collected, so that amounts collected by pending and
        // unrefunded batches stay in the pot.
        vault.payOut(operator, wallet, units, finalTotal);
    }

    /// @inheritdoc ISettlement
    function claimMany(Claim[] calldata requests) external {
        for (uint256 i = 0; i < requests.length; ++i) {
            // An external call per claim, so that the error of a failed claim can be reported with its index.
            // solhint-disable-next-line no-empty-blocks
            try this.claim(requests[i]) {} catch (bytes memory reason) {
                require(bytes4(reason) == NothingToClaim.selector, ClaimFailed(i, reason));
            }
        }
    }

    /// @inheritdoc ISettlement
    function setPayoutWallet(address wallet) external {
        // A change that was signed with the next nonce and not relayed is void.
        _useNonce(msg.sender);
        _setPayoutWallet(msg.sender, wallet);
    }

    /// @inheritdoc ISettlement
    function setPayoutWalletWithSig(
        address account,
        address wallet,
        uint256 nonce,
        uint256 deadline,
        bytes calldata signature
    ) external {
        require(block.timestamp <= deadline, SignatureExpired(deadline));
        _useCheckedNonce(account, nonce);
        bytes32 structHash = Hashing.payoutChange(account, wallet, nonce, deadline);
        require(Signatures.isValid(account, _hashTypedDataV4(structHash), signature), InvalidSignature(account));
        _setPayoutWallet(account, wallet);
    }

    // --- views ---

    /// @inheritdoc ISettlement
    function verifyReceipt(
        BatchHeader calldata header,
        Receipt calldata receipt,
        Opening calldata opening,
        bytes calldata signature
    ) external view returns (bool) {
        _checkKnown(header);
        bytes32 structHash = Hashing.receipt(receipt);
        (address signer, , ) = ECDSA.tryRecoverCalldata(_hashTypedDataV4(structHash), signature);
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.RECEIPTS, structHash);
        (bytes32 root, uint128 sum, ) = MerkleSum.open(leaf, header.receiptsCount, opening);
        return
            root == header.receiptsRoot &&
            sum == header.total &&
            opening.value == receipt.charge &&
            operators.isReceiptKey(signer, header.operator, header.committedAt);
    }

    /// @inheritdoc ISettlement
    function verifyEntry(
        BatchHeader calldata header,
        EntryKey calldata key,
        Opening calldata opening
    ) external view returns (bool) {
        _checkKnown(header);
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.ENTRIES, Hashing.entry(key));
        (bytes32 root, uint128 sum, ) = MerkleSum.open(leaf, header.entriesCount, opening);
        return root == header.entriesRoot && sum == header.total;
    }

    /// @inheritdoc ISettlement
    function isPending(BatchHeader calldata header) external view returns (bool) {
        return header.number > _states[header.operator].finalised && _isKnown(header, Hashing.batch(header));
    }

    /// @inheritdoc ISettlement
    function receiptDigest(Receipt calldata receipt) external view returns (bytes32) {
        return _hashTypedDataV4(Hashing.receipt(receipt));
    }

    /// @inheritdoc ISettlement
    function stateOf(address operator) external view returns (OperatorState memory) {
        return _states[operator];
    }

    /// @inheritdoc ISettlement
    function batchHashAt(address operator, uint64 number) external view returns (bytes32) {
        return number > _states[operator].last ? bytes32(0) : _batchHashes[operator][number];
    }

    /// @inheritdoc ISettlement
    function payoutWalletOf(address account) public view returns (address) {
        address wallet = _payoutWallets[account];
        return wallet == address(0) ? account : wallet;
    }

    /// @inheritdoc ISettlement
    function hashBatch(BatchHeader calldata header) external pure returns (bytes32) {
        return Hashing.batch(header);
    }

    /// @inheritdoc ISettlement
    function hashReceipt(Receipt calldata receipt) external pure returns (bytes32) {
        return Hashing.receipt(receipt);
    }

    // --- batches, internal ---

    /// @notice Returns a header with the operator and its commitments.
    function _headerOf(Commitment calldata commitment) private view returns (BatchHeader memory header) {
        require(
            commitment.receiptsCount != 0 && commitment.entriesCount != 0 && commitment.balancesCount != 0,
            EmptyTree()
        );
        header.operator = msg.sender;
        header.parent = commitment.parent;
        header.parameterSet = commitment.parameterSet;
        header.total = commitment.total;
        header.receiptsRoot = commitment.receiptsRoot;
        header.receiptsCount = commitment.receiptsCount;
        header.entriesRoot = commitment.entriesRoot;
        header.entriesCount = commitment.entriesCount;
        header.balancesRoot = commitment.balancesRoot;
        header.balancesCount = commitment.balancesCount;
        header.dataDigest = commitment.dataDigest;
    }

    /// @notice Sets the time of the commit and the earliest time and block of finality.
    /// @return coverPpm Fraction of the pot that the stake must cover.
    function _setTimes(BatchHeader memory header) private view returns (uint32 coverPpm) {
        uint32 window;
        uint32 windowBlocks;
        (window, windowBlocks, coverPpm) = parameters.commitTerms(header.parameterSet);
        header.committedAt = uint64(block.timestamp);
        header.finalAt = uint64(block.timestamp) + window;
        header.finalBlock = windowBlocks == 0 ? 0 : uint64(block.number) + windowBlocks;
    }

    /// @notice Collects the vouchers, checks their sum and the stake cover, and sets `spansHash` and `slashUpTo`.
    function _collect(BatchHeader memory header, Collection[] calldata collections, uint32 coverPpm) private {
        uint256 count = collections.length;
        require(count != 0 && count <= _MAX_SPANS, InvalidSpanCount(count, _MAX_SPANS));
        // `collect` makes no external calls, so calling it before the effects of `commit` allows no reentrancy.
        (uint128 total, bytes32 spansHash, uint128 pot) = vault.collect(msg.sender, collections);
        require(total == header.total, TotalMismatch(total, header.total));
        uint128 needed = Units.toAmount(Units.mulPpmToUnitsUp(pot, coverPpm));
        (uint128 cover, uint128 slashed) = operators.coverOf(msg.sender);
        require(cover >= needed, StakeTooLow(cover, needed));
        header.spansHash = spansHash;
        header.slashUpTo = slashed + needed;
    }

    function _finalise(BatchHeader calldata header) private {
        bytes32 batchHash = _checkKnown(header);
        OperatorState storage state = _states[header.operator];
        uint64 next = state.finalised + 1;
        require(header.number == next, NotNextToFinalise(next, header.number));
        (uint32 open, , uint64 proofsUntil) = IDisputes(disputes).demandsOn(batchHash);
        require(open == 0, DemandsOpen(batchHash, open));
        uint64 finalAt = header.finalAt > proofsUntil ? header.finalAt : proofsUntil;
        bool isDue = block.timestamp >= finalAt && block.number >= header.finalBlock;
        require(isDue, NotYetFinal(finalAt, header.finalBlock));
        state.finalised = next;
        state.finalTotal = header.cumulativeTotal;
        emit BatchFinalised(header.operator, next, batchHash, header.cumulativeTotal);
    }

    /// @notice Slashes up to what the batch's header states, by the terms of its parameter set.
    function _slash(BatchHeader calldata header, address challenger) private {
        ParameterSet memory terms = parameters.setAt(header.parameterSet);
        uint32 challengerPpm = challenger == address(0) ? 0 : terms.challengerPpm;
        operators.slash(header.operator, header.slashUpTo, challenger, challengerPpm, terms.treasury);
    }

    function _checkKnown(BatchHeader calldata header) private view returns (bytes32 batchHash) {
        batchHash = Hashing.batch(header);
        require(_isKnown(header, batchHash), BatchUnknown(batchHash));
    }

    function _isKnown(BatchHeader calldata header, bytes32 batchHash) private view returns (bool) {
        (address operator, uint64 number) = (header.operator, header.number);
        return number <= _states[operator].last && _batchHashes[operator][number] == batchHash;
    }

    // --- claims, internal ---

    /// @notice Reverts unless the batch is final.
    /// @return finalTotal The cumulative total of the operator's latest final batch.
    function _checkFinal(BatchHeader calldata header) private view returns (uint128 finalTotal) {
        (address operator, uint64 number) = (header.operator, header.number);
        bytes32 batchHash = Hashing.batch(header);
        require(_batchHashes[operator][number] == batchHash, BatchUnknown(batchHash));
        // A number up to `finalised` is not that of a voided batch.
        require(number <= _states[operator].finalised, BatchNotFinal(number));
        return _states[operator].finalTotal;
    }

    /// @notice Computes the claimable part of `earned`. Reverts if it is below one unit.
    /// @return units Claimable token units.
    /// @return amount The same in micro-units, at most `earned - claimed`.
    function _claimable(
        address operator,
        address account,
        uint128 earned,
        uint128 claimed
    ) private pure returns (uint256 units, uint128 amount) {
        // An earlier batch, or a dishonest one, may state a balance below the amount already claimed.
        unchecked {
            uint128 claimable = earned > claimed ? earned - claimed : 0;
            units = Units.toUnitsDown(claimable);
            require(units != 0, NothingToClaim(operator, account, claimable));
            return (units, claimable - (claimable % Units.MICRO));
        }
    }

    function _setPayoutWallet(address account, address wallet) private {
        // The vault refuses to pay itself, so every claim of the account would revert.
        require(wallet != address(vault), InvalidWallet(wallet));
        _payoutWallets[account] = wallet;
        emit PayoutWalletChanged(account, wallet == address(0) ? account : wallet);
    }
}
