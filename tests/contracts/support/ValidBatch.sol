// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {Tree} from "../../../contracts/interfaces/IDisputes.sol";
import {ParameterSet} from "../../../contracts/interfaces/IParameters.sol";
import {ChannelId, Collection, Refund} from "../../../contracts/interfaces/IPaymentVault.sol";
import {Commitment} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {Parts, Split} from "../../../contracts/libraries/Split.sol";
import {Book, Books, Leaves, Served} from "./Books.sol";
import {Provenance} from "./Provenance.sol";
import {Tree as Sums, Trees} from "./Trees.sol";

/// @notice A committed batch, and a valid one on top of it that is built but not committed: three channels, seven
/// receipts, blends of one to four versions with and without snapshots, a skipped interval, ties and remainders.
abstract contract ValidBatch is Provenance {
    using Books for *;
    using Trees for Sums;

    uint32 internal constant DISPUTE_WINDOW = 80;

    /// @dev The payers' names in order of channel id.
    string[3] internal payers;
    bytes private _encodedBook;
    bytes private _first;

    function setUp() public virtual override {
        super.setUp();
        vm.prank(address(timelock));
        parameters.setDisputeWindow(DISPUTE_WINDOW);
        _openChannels();
        Book memory parent = _parentBook();
        commitBook(parent);
        _first = abi.encode(parent);
        vm.warp(block.timestamp + 1);
        _encodedBook = abi.encode(_validBook(parent));
    }

    /// @notice The valid batch, not committed.
    function validBook() internal view returns (Book memory) {
        return abi.decode(_encodedBook, (Book));
    }

    /// @notice The valid batch, committed.
    function committed() internal returns (Book memory book) {
        book = validBook();
        commitBook(book);
    }

    /// @notice The committed valid batch before it, with one receipt.
    function first() internal view returns (Book memory) {
        return abi.decode(_first, (Book));
    }

    /// @notice Voids and refunds `first`, so that it can be committed again.
    function firstToRecommit() internal returns (Book memory book) {
        book = first();
        voidFrom(book.header);
        settlement.refund(book.header, book.refunds);
    }

    /// @notice Commits the book's leaves.
    function commitBook(Book memory book) internal {
        Commitment memory c;
        c.parent = settlement.batchHashAt(operator, settlement.stateOf(operator).last);
        (c.parameterSet, c.total, c.dataDigest) = (parameters.currentId(), book.total, keccak256("data"));
        (c.receiptsRoot, c.receiptsCount) = _commit(book, Tree.Receipts);
        (c.entriesRoot, c.entriesCount) = _commit(book, Tree.Entries);
        (c.balancesRoot, c.balancesCount) = _commit(book, Tree.Balances);
        book.header = commit(c, book.collections);
    }

    /// @notice Builds the book of a batch of answers, in order of channel id, on top of `parent`.
    function bookOf(
        Served[] memory served,
        Refund[] memory spans,
        Book memory parent
    ) internal returns (Book memory book) {
        (book.served, book.refunds) = (served, spans);
        (book.parent, book.parentBalances) = (parent.header, parent.balances);
        book.collections = new Collection[](spans.length);
        for (uint256 i = 0; i < spans.length; ++i) {
            Refund memory span = spans[i];
            ChannelId id = vault.channelIdOf(span.payer, operator, address(settlement));
            book.spans = abi.encodePacked(book.spans, id, span.before, span.from, span.until);
            book.collections[i] = _voucher(span);
            book.total += span.until - span.from;
        }
        book.fillReceipts();
        fillEntries(book);
        book.fillBalances();
    }

    /// @notice Computes the entries from the receipts.
    function fillEntries(Book memory book) internal view {
        Leaves memory leaves = Books.newLeaves(book.served.length * 4 * (3 + 256));
        uint256 count = 0;
        for (uint256 i = 0; i < book.served.length; ++i) {
            for (uint256 slice = 0; slice < book.served[i].parts.length; ++slice) {
                for (uint256 part = 0; part < numParts(book.served[i], slice); ++part) {
                    (address account, uint128 amount) = earned(book.served[i], slice, part);
                    if (amount == 0) continue;
                    leaves.keys[count] = Hashing.entryKey(account, uint32(i), uint16(slice), uint16(part));
                    leaves.values[count++] = amount;
                }
            }
        }
        leaves.truncate(count);
        leaves.sort();
        book.entries = leaves;
    }

    function numParts(Served memory served, uint256 slice) internal pure returns (uint256) {
        uint256 numItems = served.parts[slice].list.length / 8;
        return 3 + (numItems == 0 ? 1 : numItems);
    }

    /// @notice Returns the account that earns a part of a slice and the amount, by the current parameters.
    function earned(
        Served memory served,
        uint256 slice,
        uint256 part
    ) internal view returns (address account, uint128 amount) {
        ParameterSet memory terms = parameters.current();
        VersionRecord memory record = served.parts[slice].record;
        uint128 charge = Books.chargeOf(served.receipt, record, served.weightOf(slice));
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
            payer = who(names[i]);
            deposit(DEPOSIT_UNITS);
        }
        payer = who("payer");
        for (uint256 n = 0; n < 3; ++n) {
            uint256 i = n % 2;
            bool isRising = _channelOf(names[i]) < _channelOf(names[i + 1]);
            if (!isRising) (names[i], names[i + 1]) = (names[i + 1], names[i]);
        }
        payers = names;
    }

    function _channelOf(string memory name) internal returns (bytes32) {
        return ChannelId.unwrap(vault.channelIdOf(who(name), operator, address(settlement)));
    }

    /// @dev One receipt of the payer, of the version with one snapshot.
    function _parentBook() private returns (Book memory) {
        Served[] memory served = new Served[](1);
        served[0] = Books.serve(channel(), 0, 1_001, blend(1, 1, false));
        Refund[] memory spans = new Refund[](1);
        spans[0] = Refund(payer, 0, 0, served[0].receipt.cumulative);
        Book memory none;
        return bookOf(served, spans, none);
    }

    function _validBook(Book memory parent) private returns (Book memory) {
        Served[] memory served = new Served[](7);
        Refund[] memory spans = new Refund[](3);
        uint256 count = 0;
        for (uint256 k = 0; k < 3; ++k) {
            Refund memory span = spans[k];
            span.payer = who(payers[k]);
            ChannelId id = vault.channelIdOf(span.payer, operator, address(settlement));
            span.before = vault.channelOf(id).collected;
            span.from = span.before + (k == 1 ? 777 : 0);
            span.until = span.from;
            for (uint256 r = 0; r < (k == 0 ? 3 : 2); ++r) {
                Served memory one = Books.serve(id, span.until, uint32(900 + 101 * count), blend(r, 1 + k + r, r == 1));
                span.until = one.receipt.cumulative;
                served[count++] = one;
            }
        }
        return bookOf(served, spans, parent);
    }

    function _voucher(Refund memory span) private returns (Collection memory c) {
        payer = span.payer;
        c = collection(_keyOfPayer(span.payer), span.before, span.from, span.until, span.until);
        payer = who("payer");
    }

    function _keyOfPayer(address account) private returns (uint256) {
        for (uint256 i = 0; i < payers.length; ++i) {
            if (who(payers[i]) == account) return keyOf(payers[i]);
        }
        revert("no payer");
    }

    function _commit(Book memory book, Tree tree) private pure returns (bytes32 root, uint32 count) {
        Sums memory sums = book.sums(tree);
        return (sums.rootOf(), uint32(sums.leaves.length));
    }
}
