// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Contribution, Review, SnapshotId} from "../../../contracts/interfaces/IDatasetRegistry.sol";
import {VersionRecord} from "../../../contracts/interfaces/IAdapterRegistry.sol";
import {
    BalanceWitness,
    Demand,
    EntryPlace,
    IDisputes,
    SnapshotWitness,
    Tree
} from "../../../contracts/interfaces/IDisputes.sol";
import {ParameterSet} from "../../../contracts/interfaces/IParameters.sol";
import {ChannelId, Collection, Refund} from "../../../contracts/interfaces/IPaymentVault.sol";
import {BatchHeader, Commitment, Receipt} from "../../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {MerkleSum} from "../../../contracts/libraries/MerkleSum.sol";
import {Parts, Split} from "../../../contracts/libraries/Split.sol";
import {Batches} from "./Batches.sol";
import {Book, Books, Leaves, Part, Served} from "./Books.sol";
import {Tree as Sums, Trees} from "./Trees.sol";

/// @notice A batch on chain, and on top of it a right one of three channels and seven receipts, made and not yet
/// committed: blends of one to four versions, with and without snapshots, a waived interval, ties and rests. Tests
/// corrupt what they like of it, commit it and dispute it.
abstract contract Disputed is Batches {
    using Books for *;
    using Trees for Sums;

    /// @dev An answer may take ten seconds of it.
    uint32 internal constant DISPUTE_WINDOW = 80;
    uint64 internal constant PERIOD = 10;
    uint256 internal constant BOND = 10_000;
    uint32 private constant _WHOLE = 1_000_000;

    /// @dev The payers' names, in the order of their channels.
    string[3] internal payers;
    VersionRecord[4] internal versions;
    mapping(SnapshotId id => SnapshotWitness) internal snapshotBehind;
    SnapshotId[2] internal snapshots;
    address internal challenger;
    bytes private _honest;
    bytes private _first;

    function setUp() public virtual override {
        super.setUp();
        vm.prank(address(timelock));
        parameters.setDisputeWindow(DISPUTE_WINDOW);
        _openChannels();
        (snapshots[0], snapshots[1]) = (makeSnapshot(5, 2), makeSnapshot(3, 1));
        _registerVersions();
        challenger = who("challenger");
        Book memory parent = _parentBook();
        commitBook(parent);
        _first = abi.encode(parent);
        vm.warp(block.timestamp + 1);
        _honest = abi.encode(_honestBook(parent));
    }

    // --- the batch ---

    /// @notice The right batch, not committed.
    function honest() internal view returns (Book memory) {
        return abi.decode(_honest, (Book));
    }

    /// @notice The right batch, committed.
    function committed() internal returns (Book memory book) {
        book = honest();
        commitBook(book);
    }

    /// @notice The right batch before it, of one receipt, as it was committed.
    function first() internal view returns (Book memory) {
        return abi.decode(_first, (Book));
    }

    /// @notice As `first`, undone, so that it can be committed anew.
    function firstAgain() internal returns (Book memory book) {
        book = first();
        voidFrom(book.header);
        settlement.refund(book.header, book.refunds);
    }

    /// @notice A batch with a leaf of no value, committed.
    function wrong() internal returns (Book memory book) {
        book = honest();
        book.balances = book.balances.insert(0, bytes32(0), 0);
        commitBook(book);
    }

    /// @notice The call that convicts `wrong`.
    function proofOf(Book memory book) internal pure returns (bytes memory) {
        bytes32 leaf = MerkleSum.leafHash(MerkleSum.BALANCES, bytes32(0));
        return abi.encodeCall(IDisputes.zeroLeaf, (book.header, Tree.Balances, leaf, book.open(Tree.Balances, 0)));
    }

    /// @notice Convicts `wrong` as `sender`.
    function convict(Book memory book, address sender) internal {
        bytes memory proof = proofOf(book);
        vm.prank(sender);
        (bool isHeld, ) = address(disputes).call(proof);
        vm.assertTrue(isHeld);
    }

    /// @notice Commits what the book's leaves say.
    function commitBook(Book memory book) internal {
        Commitment memory c;
        c.parent = settlement.batchHashAt(operator, settlement.stateOf(operator).last);
        (c.parameterSet, c.total, c.dataDigest) = (parameters.currentId(), book.total, keccak256("data"));
        (c.receiptsRoot, c.receiptsCount) = _commit(book, Tree.Receipts);
        (c.entriesRoot, c.entriesCount) = _commit(book, Tree.Entries);
        (c.balancesRoot, c.balancesCount) = _commit(book, Tree.Balances);
        book.header = commit(c, book.collections);
    }

    /// @notice The book of a batch of these answers, in the order of the channels, on top of `parent`.
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

    /// @notice Writes the entries from the receipts.
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

    /// @notice Who earns a part of a slice, and what, by the current parameters.
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
        account = _contributorAt(record, list, part - 3);
        amount = this.contributorPart(parts.contributors, list, part - 3);
    }

    function contributorPart(uint128 contributors, bytes calldata list, uint256 j) external pure returns (uint128) {
        return Split.contributorPart(contributors, list, j);
    }

    // --- witnesses ---

    function placeOf(
        Book memory book,
        uint256 i,
        uint256 slice,
        uint256 part
    ) internal view returns (EntryPlace memory place) {
        Served memory served = book.served[i];
        (place.slice, place.part) = (uint16(slice), uint16(part));
        VersionRecord memory record = served.parts[slice].record;
        if (part < 3 || record.snapshots.length == 0) return place;
        uint256 position = served.parts[slice].list.bytesAt((part - 3) * 8);
        place.snapshot = snapshotBehind[record.snapshots[position >> 24]];
        place.contentHash = contentOf(place.snapshot.datanetId, uint32(position) & 0xffffff);
        return place;
    }

    function keyOfPlace(Book memory book, uint256 i, uint256 slice, uint256 part) internal view returns (bytes32) {
        (address account, ) = earned(book.served[i], slice, part);
        return Hashing.entryKey(account, uint32(i), uint16(slice), uint16(part));
    }

    function balanceWitness(Book memory book, address account) internal pure returns (BalanceWitness memory witness) {
        bytes32 key = Hashing.account(account);
        (witness.account, witness.parent) = (account, book.parent);
        if (book.parent.number != 0) witness.earlier = book.look(Tree.ParentBalances, key);
        witness.later = book.look(Tree.Balances, key);
        witness.entriesFrom = book.look(Tree.Entries, bytes32(uint256(key) << 64));
        witness.entriesUntil = book.look(Tree.Entries, bytes32((uint256(key) + 1) << 64));
    }

    function signed(Receipt memory receipt) internal view returns (bytes memory) {
        return sign(keyOf("receipt key"), settlement.receiptDigest(receipt));
    }

    // --- verdicts ---

    /// @notice Expects that the next call convicts the batch; nobody reserved.
    function expectConviction(Book memory book, bytes4 verb) internal {
        expectConviction(book, verb, address(0));
    }

    function expectConviction(Book memory book, bytes4 verb, address by) internal {
        vm.expectEmit(address(disputes));
        emit IDisputes.BatchConvicted(operator, book.header.number, Hashing.batch(book.header), verb, by);
    }

    function assertVoid(Book memory book) internal view {
        vm.assertFalse(settlement.isPending(book.header));
        vm.assertEq(settlement.stateOf(operator).last, book.header.number - 1);
    }

    /// @notice A call of the disputes that must not convict: changed in one to three words behind the header.
    function expectAcquittal(Book memory book, bytes memory call, uint256 seed) internal {
        (bool isHeld, ) = address(disputes).call(mutated(call, seed));
        vm.assertFalse(isHeld);
        vm.assertTrue(settlement.isPending(book.header));
    }

    /// @notice Changes one to three words of a call behind its selector and header: to another word of the call, by
    /// one, or to anything.
    function mutated(bytes memory call, uint256 seed) internal pure returns (bytes memory changed) {
        changed = bytes.concat(call);
        uint256 numWords = (call.length - 4) / 32;
        for (uint256 i = 0; i <= seed % 3; ++i) {
            uint256 draw = uint256(keccak256(abi.encode(seed, i)));
            uint256 at = 36 + 32 * (16 + (uint64(draw) % (numWords - 16)));
            uint256 other = 36 + 32 * (uint64(draw >> 64) % numWords);
            uint256 kind = (draw >> 128) % 4;
            assembly ("memory-safe") {
                let word := add(changed, at)
                switch kind
                case 0 {
                    mstore(word, mload(add(changed, other)))
                }
                case 1 {
                    mstore(word, add(mload(word), 1))
                }
                case 2 {
                    mstore(word, sub(mload(word), 1))
                }
                default {
                    mstore(word, draw)
                }
            }
        }
    }

    // --- demands ---

    /// @notice A demand of the challenger, as it would be made now.
    function demandOf(Book memory book, Tree tree, bytes32[] memory keys) internal view returns (Demand memory) {
        uint64 deadline = uint64(block.timestamp) + PERIOD;
        return Demand(Hashing.batch(book.header), tree, keys, challenger, deadline, BOND);
    }

    function demand(Book memory book, Tree tree, bytes32[] memory keys) internal returns (Demand memory asked) {
        asked = demandOf(book, tree, keys);
        fundChallenger(keys.length * BOND);
        vm.prank(challenger);
        disputes.demand(book.header, tree, keys);
    }

    function fundChallenger(uint256 units) internal {
        usd.mint(challenger, units);
        vm.prank(challenger);
        usd.approve(address(disputes), units);
    }

    function oneKey(bytes32 key) internal pure returns (bytes32[] memory keys) {
        keys = new bytes32[](1);
        keys[0] = key;
    }

    function idOf(Demand memory asked) internal pure returns (bytes32) {
        return keccak256(abi.encode(asked));
    }

    // --- provenance ---

    /// @dev Five people, so that several positions are one account's.
    function contributorOf(uint64 datanetId, uint32 index) internal returns (address) {
        return who(_contributorName(datanetId, index));
    }

    function contentOf(uint64 datanetId, uint32 index) internal pure returns (bytes32) {
        return keccak256(abi.encode("content", datanetId, index));
    }

    function contribute(uint64 datanetId, uint32 index) internal returns (bytes32 content) {
        content = contentOf(datanetId, index);
        Contribution memory c = Contribution(datanetId, content, keccak256("folder"), "MIT", 1);
        vm.prank(contributorOf(datanetId, index));
        datasets.contribute(c);
    }

    /// @notice A new datanet of `count` contributions, all but `rejected` accepted, frozen.
    function makeSnapshot(uint32 count, uint32 rejected) internal returns (SnapshotId id) {
        uint64 datanetId = datasets.createDatanet("data", keccak256("description"));
        Review[] memory reviews = new Review[](count);
        for (uint32 i = 0; i < count; ++i) {
            reviews[i] = Review(contribute(datanetId, i), i != rejected, 0);
        }
        vm.prank(curator);
        datasets.review(datanetId, reviews);
        id = datasets.freeze(datanetId, count);
        snapshotBehind[id] = SnapshotWitness(datanetId, count, _words(count, rejected));
    }

    function registerVersion(VersionRecord memory record) internal {
        vm.prank(record.creator);
        adapters.register(record);
    }

    /// @notice Blends `count` versions from number `first` on; each version has two lists to choose from.
    function blend(uint256 first, uint256 count, bool isOther) internal view returns (Part[] memory parts) {
        parts = new Part[](count);
        uint32 left = _WHOLE;
        for (uint256 i = 0; i < count; ++i) {
            uint256 number = (first + i) % versions.length;
            uint32 weight = i + 1 == count ? left : uint32(_WHOLE / (count + 1) + 7 * i);
            left -= weight;
            parts[i] = Part(versions[number], weight, _listOf(number, isOther));
        }
    }

    // --- inside ---

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

    function _registerVersions() private {
        for (uint256 i = 0; i < versions.length; ++i) {
            VersionRecord memory record;
            (record.creator, record.baseModel) = (who(i < 2 ? "creator" : "other creator"), keccak256("base"));
            record.name = i == 0 ? bytes32("base") : bytes32("tuned");
            if (i != 0) (record.adapterDigest, record.cidDigest) = (keccak256(abi.encode(i)), keccak256("folder"));
            record.snapshots = new SnapshotId[](i < 3 ? i : 0);
            for (uint256 j = 0; j < record.snapshots.length; ++j) {
                record.snapshots[j] = snapshots[j];
            }
            (record.promptPrice, record.completionPrice) = (uint64(300_001 + 1_000 * i), uint64(900_007 + i));
            (record.operatorPpm, record.creatorPpm) = (uint32(200_000 + 33 * i), uint32(100_003 * i));
            versions[i] = record;
            registerVersion(record);
        }
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

    function _honestBook(Book memory parent) private returns (Book memory) {
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

    function _contributorAt(VersionRecord memory record, bytes memory list, uint256 j) private view returns (address) {
        uint256 position = list.bytesAt(j * 8);
        uint64 datanetId = snapshotBehind[record.snapshots[position >> 24]].datanetId;
        return vm.addr(keyOf(_contributorName(datanetId, uint32(position) & 0xffffff)));
    }

    function _contributorName(uint64 datanetId, uint32 index) private pure returns (string memory) {
        return string(abi.encodePacked("contributor ", bytes1(uint8(48 + ((datanetId + index) % 5)))));
    }

    function _words(uint32 count, uint32 rejected) private pure returns (bytes memory words) {
        for (uint32 first = 0; first < count; first += 256) {
            uint256 word = count - first < 256 ? (1 << (count - first)) - 1 : type(uint256).max;
            if (rejected >= first && rejected < first + 256) word &= ~(1 << (rejected - first));
            words = abi.encodePacked(words, word);
        }
    }

    function _listOf(uint256 version, bool isOther) private pure returns (bytes memory) {
        if (version % 3 == 0) return "";
        if (version == 1) {
            if (isOther) return abi.encodePacked(uint32(3), _WHOLE);
            return abi.encodePacked(uint32(0), uint32(400_000), uint32(1), uint32(400_000), uint32(4), uint32(200_000));
        }
        uint32 second = 1 << 24;
        if (isOther) return abi.encodePacked(second, uint32(1), second + 2, _WHOLE - 1);
        return abi.encodePacked(uint32(0), uint32(333_333), uint32(3), uint32(1), second, uint32(666_666));
    }
}
