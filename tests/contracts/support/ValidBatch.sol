// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {Tree} from "../../../contracts/interfaces/IDisputes.sol";
import {ParameterSet} from "../../../contracts/interfaces/IParameters.sol";
import {ChannelId, Collection, Refund} from "../../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Commitment} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {Parts, Split} from "../../../contracts/libraries/Split.sol";
import {BatchData, BatchModel, Leaves, Served} from "./BatchModel.sol";
import {Provenance} from "./Provenance.sol";
import {Tree as Sums, Trees} from "./Trees.sol";

/// @notice A committed batch, and a valid one on top of it that is built but not committed: three channels, seven
/// receipts, blends of one to four versions with and without snapshots, a skipped interval, ties and remainders.
abstract contract ValidBatch is Provenance {
    using BatchModel for *;
    using Trees for Sums;

    uint32 internal constant DISPUTE_WINDOW = 80;

    /// @dev The payers' names in order of channel id.
    string[3] internal payers;
    bytes private _encodedBatch;
    bytes private _first;

    function setUp() public virtual override {
        super.setUp();
        setDisputeWindow(DISPUTE_WINDOW);
        _openChannels();
        BatchData memory parent = _buildParent();
        commitBatch(parent);
        _first = abi.encode(parent);
        vm.warp(block.timestamp + 1);
        _encodedBatch = abi.encode(_buildValid(parent));
    }

    /// @notice The valid batch, not committed.
    function validBatch() internal view returns (BatchData memory) {
        return abi.decode(_encodedBatch, (BatchData));
    }

    /// @notice The valid batch, committed.
    function committedBatch() internal returns (BatchData memory batch) {
        batch = validBatch();
        commitBatch(batch);
    }

    /// @notice The committed valid batch before it, with one receipt.
    function firstBatch() internal view returns (BatchData memory) {
        return abi.decode(_first, (BatchData));
    }

    /// @notice Finalises `firstBatch`, so that a conviction of the next batch does not void it.
    function finaliseFirst() internal {
        BatchHeader memory header = firstBatch().header;
        vm.warp(header.finalAt);
        finalise(header);
    }

    /// @notice Voids and refunds `firstBatch`, so that it can be committed again.
    function firstToRecommit() internal returns (BatchData memory batch) {
        batch = firstBatch();
        voidPending(batch.header);
        settlement.refund(batch.header, batch.refunds);
    }

    /// @notice Commits the book's leaves.
    function commitBatch(BatchData memory batch) internal {
        Commitment memory c;
        c.parent = settlement.batchHashAt(operator, settlement.stateOf(operator).last);
        (c.parameterSet, c.total, c.dataDigest) = (parameters.currentId(), batch.total, keccak256("data"));
        (c.receiptsRoot, c.receiptsCount) = _commit(batch, Tree.Receipts);
        (c.entriesRoot, c.entriesCount) = _commit(batch, Tree.Entries);
        (c.balancesRoot, c.balancesCount) = _commit(batch, Tree.Balances);
        batch.header = commit(c, batch.collections);
    }

    /// @notice Builds the book of a batch of answers, in order of channel id, on top of `parent`.
    function buildBatch(
        Served[] memory served,
        Refund[] memory spans,
        BatchData memory parent
    ) internal returns (BatchData memory batch) {
        (batch.served, batch.refunds) = (served, spans);
        (batch.parent, batch.parentBalances) = (parent.header, parent.balances);
        batch.collections = new Collection[](spans.length);
        for (uint256 i = 0; i < spans.length; ++i) {
            Refund memory span = spans[i];
            ChannelId id = vault.channelIdOf(span.payer, operator, address(settlement));
            batch.spans = abi.encodePacked(batch.spans, id, span.before, span.from, span.until);
            batch.collections[i] = _voucher(span);
            batch.total += span.until - span.from;
        }
        batch.fillReceipts();
        fillEntries(batch);
        batch.fillBalances();
    }

    /// @notice Computes the entries from the receipts.
    function fillEntries(BatchData memory batch) internal view {
        Leaves memory leaves = BatchModel.newLeaves(batch.served.length * 4 * (3 + 256));
        uint256 count = 0;
        for (uint256 i = 0; i < batch.served.length; ++i) {
            for (uint256 slice = 0; slice < batch.served[i].parts.length; ++slice) {
                for (uint256 part = 0; part < numParts(batch.served[i], slice); ++part) {
                    (address account, uint128 amount) = earningOf(batch.served[i], slice, part);
                    if (amount == 0) continue;
                    leaves.keys[count] = Hashing.entryKey(account, uint32(i), uint16(slice), uint16(part));
                    leaves.values[count++] = amount;
                }
            }
        }
        leaves.truncate(count);
        leaves.sort();
        batch.entries = leaves;
    }

    function numParts(Served memory served, uint256 slice) internal pure returns (uint256) {
        uint256 numItems = served.parts[slice].list.length / 8;
        return 3 + (numItems == 0 ? 1 : numItems);
    }

    /// @notice Returns the account that earns a part of a slice and the amount, by the current parameters.
    function earningOf(
        Served memory served,
        uint256 slice,
        uint256 part
    ) internal view returns (address account, uint128 amount) {
        ParameterSet memory terms = parameters.current();
        VersionRecord memory record = served.parts[slice].record;
        uint128 charge = BatchModel.chargeOf(served.receipt, record, served.weightOf(slice));
        Parts memory parts = Split.partsOf(charge, terms.feePpm, record.operatorPpm, record.creatorPpm);
        if (part == 0) return (terms.treasury, parts.fee);
        if (part == 1) return (operator, parts.operator);
        if (part == 2) return (record.creator, parts.creator);
        if (record.snapshots.length == 0) return (terms.treasury, parts.contributors);
        bytes memory list = served.parts[slice].list;
        account = contributorAt(record, list, part - 3);
        amount = this.contributorPart(parts.contributors, list, part - 3);
    }

    function contributorPart(uint128 contributors, bytes calldata list, uint256 j) external pure returns (uint128) {
        return Split.contributorPart(contributors, list, j);
    }

    // --- internal ---

    function _openChannels() private {
        string[3] memory names = ["payer", "second payer", "third payer"];
        for (uint256 i = 1; i < names.length; ++i) {
            payer = accountOf(names[i]);
            deposit(DEPOSIT_UNITS);
        }
        payer = accountOf("payer");
        for (uint256 n = 0; n < 3; ++n) {
            uint256 i = n % 2;
            bool isRising = _channelOf(names[i]) < _channelOf(names[i + 1]);
            if (!isRising) (names[i], names[i + 1]) = (names[i + 1], names[i]);
        }
        payers = names;
    }

    function _channelOf(string memory name) internal returns (bytes32) {
        return ChannelId.unwrap(vault.channelIdOf(accountOf(name), operator, address(settlement)));
    }

    /// @dev One receipt of the payer, of the version with one snapshot.
    function _buildParent() private returns (BatchData memory) {
        Served[] memory served = new Served[](1);
        served[0] = BatchModel.serve(channel(), 0, 1_001, blend(1, 1, false));
        Refund[] memory spans = new Refund[](1);
        spans[0] = Refund(payer, 0, 0, served[0].receipt.cumulative);
        BatchData memory none;
        return buildBatch(served, spans, none);
    }

    function _buildValid(BatchData memory parent) private returns (BatchData memory) {
        Served[] memory served = new Served[](7);
        Refund[] memory spans = new Refund[](3);
        uint256 count = 0;
        for (uint256 k = 0; k < 3; ++k) {
            Refund memory span = spans[k];
            span.payer = accountOf(payers[k]);
            ChannelId id = vault.channelIdOf(span.payer, operator, address(settlement));
            span.before = vault.channelOf(id).collected;
            span.from = span.before + (k == 1 ? 777 : 0);
            span.until = span.from;
            for (uint256 r = 0; r < (k == 0 ? 3 : 2); ++r) {
                uint32 tokens = uint32(900 + 101 * count);
                Served memory one = BatchModel.serve(id, span.until, tokens, blend(r, 1 + k + r, r == 1));
                span.until = one.receipt.cumulative;
                served[count++] = one;
            }
        }
        return buildBatch(served, spans, parent);
    }

    function _voucher(Refund memory span) private returns (Collection memory c) {
        payer = span.payer;
        c = collection(_keyOfPayer(span.payer), span.before, span.from, span.until, span.until);
        payer = accountOf("payer");
    }

    function _keyOfPayer(address account) private returns (uint256) {
        for (uint256 i = 0; i < payers.length; ++i) {
            if (accountOf(payers[i]) == account) return keyOf(payers[i]);
        }
        revert("no payer");
    }

    function _commit(BatchData memory batch, Tree tree) private pure returns (bytes32 root, uint32 count) {
        Sums memory sums = batch.sums(tree);
        return (sums.rootOf(), uint32(sums.leaves.length));
    }
}
