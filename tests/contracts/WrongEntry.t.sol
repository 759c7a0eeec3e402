// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {EntryPlace, IDisputes, Lookup, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {Book, Books, Part, Served} from "./support/Books.sol";
import {Disputed} from "./support/Disputed.sol";

contract WrongEntryTest is Disputed {
    using Books for *;

    // --- invalid batches ---

    function test_an_entry_that_differs_from_the_split_convicts(uint256 entry, uint256 other, uint128 amount) external {
        Book memory book = validBook();
        (entry, other) = (_entry(book, entry), _entry(book, other));
        vm.assume(entry != other);
        book.entries.shift(entry, other, uint128(bound(amount, 1, book.entries.values[entry])));
        commitBook(book);
        uint256 before = vm.snapshotState();
        _convict(book, book.entries.keys[entry]);
        vm.revertToState(before);
        _convict(book, book.entries.keys[other]);
    }

    function test_an_entry_that_is_missing_convicts(uint256 entry, uint256 other) external {
        Book memory book = validBook();
        (entry, other) = (_entry(book, entry), _entry(book, other));
        vm.assume(entry != other);
        bytes32 key = book.entries.keys[entry];
        book.entries.values[other] += book.entries.values[entry];
        book.entries = book.entries.remove(entry);
        commitBook(book);
        _convict(book, key);
    }

    /// @dev False attribution: the entry exists, but for another account.
    function test_an_entry_of_another_account_convicts(uint256 entry, address thief) external {
        Book memory book = validBook();
        entry = _entry(book, entry);
        bytes32 key = book.entries.keys[entry];
        vm.assume(uint160(thief) != uint256(key) >> 64);
        book.entries.keys[entry] = bytes32((uint256(uint160(thief)) << 64) | uint64(uint256(key)));
        book.entries.sort();
        commitBook(book);
        _convict(book, key);
    }

    function test_an_entry_of_a_zero_part_convicts(uint128 amount) external {
        Book memory book = validBook();
        // The first version's creator earns nothing.
        bytes32 key = keyOfPlace(book, 0, 0, 2);
        uint256 at = book.entries.placeOf(key);
        book.entries = book.entries.insert(at, key, 0);
        uint256 other = at == 0 ? 1 : at - 1;
        book.entries.shift(other, at, uint128(bound(amount, 1, book.entries.values[other])));
        commitBook(book);
        _convict(book, key);
    }

    /// @dev A surplus in a spare leaf implies a shortfall in another entry.
    function test_a_spare_leaf_is_paid_for_by_an_entry_that_convicts(bytes32 spare, uint256 entry) external {
        Book memory book = validBook();
        entry = _entry(book, entry);
        bytes32 key = book.entries.keys[entry];
        uint256 at = book.entries.placeOf(spare);
        vm.assume(book.entries.valueOf(spare) == 0);
        book.entries.values[entry] -= 1;
        book.entries = book.entries.insert(at, spare, 1);
        commitBook(book);
        _convict(book, key);
    }

    function test_one_contributor_receives_the_remainder() external {
        Book memory book = validBook();
        // On a tie of two, the first receives the remainder. It is the second slice of receipt 3.
        (bytes32 one, bytes32 two) = (keyOfPlace(book, 3, 1, 3), keyOfPlace(book, 3, 1, 4));
        uint256 from = book.entries.placeOf(one);
        uint256 to = book.entries.placeOf(two);
        vm.assertTrue(book.entries.values[from] > book.entries.values[to]);
        book.entries.shift(from, to, book.entries.values[from] - book.entries.values[to]);
        commitBook(book);
        _convict(book, one);
    }

    // --- valid batches ---

    function test_no_entry_of_a_valid_batch_convicts(uint256 i, uint256 slice, uint256 part) external {
        Book memory book = committed();
        (i, slice, part) = _part(book, i, slice, part);
        bytes32 key = keyOfPlace(book, i, slice, part);
        uint128 value = book.entries.valueOf(key);
        _expectError(
            book,
            i,
            placeOf(book, i, slice, part),
            book.look(Tree.Entries, key),
            abi.encodeWithSelector(IDisputes.ValueMatches.selector, key, value)
        );
    }

    function test_the_entries_of_the_first_batch_are_valid_too(uint256 part) external {
        Book memory book = first();
        part = bound(part, 0, 5);
        bytes32 key = keyOfPlace(book, 0, 0, part);
        _expectError(
            book,
            0,
            placeOf(book, 0, 0, part),
            book.look(Tree.Entries, key),
            abi.encodeWithSelector(IDisputes.ValueMatches.selector, key, book.entries.valueOf(key))
        );
    }

    function test_a_list_of_256_and_a_blend_of_four_is_valid_and_provable() external {
        Book memory book = _largest();
        uint256 before = vm.snapshotState();
        commitBook(book);
        vm.assertEq(numParts(book.served[0], 3), 259);
        for (uint256 part = 3; part < 259; part += 255) {
            bytes32 key = keyOfPlace(book, 0, 3, part);
            bytes memory isRight = abi.encodeWithSelector(
                IDisputes.ValueMatches.selector,
                key,
                book.entries.valueOf(key)
            );
            _expectError(book, 0, placeOf(book, 0, 3, part), book.look(Tree.Entries, key), isRight);
        }
        ReceiptWitness memory witness = book.witnessOf(0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NoFault.selector));
        disputes.proveBadReceipt(book.header, witness, "");
        vm.revertToState(before);
        bytes32 last = keyOfPlace(book, 0, 3, 258);
        book.entries.shift(book.entries.placeOf(last), 0, 1);
        commitBook(book);
        _convict(book, last);
    }

    // --- other witnesses ---

    function test_another_keys_lookup_is_refused(uint256 i, uint256 slice, uint256 part, bytes32 other) external {
        Book memory book = committed();
        (i, slice, part) = _part(book, i, slice, part);
        bytes32 key = keyOfPlace(book, i, slice, part);
        Lookup memory lookup = book.look(Tree.Entries, book.entries.keyNear(other));
        Lookup memory right = book.look(Tree.Entries, key);
        vm.assume(keccak256(abi.encode(lookup)) != keccak256(abi.encode(right)));
        bytes memory mismatch = abi.encodeWithSelector(Lookups.LookupMismatch.selector, key);
        _expectError(book, i, placeOf(book, i, slice, part), lookup, mismatch);
    }

    function test_an_entry_opened_in_another_tree_is_refused(uint256 i) external {
        Book memory book = committed();
        i = bound(i, 0, 6);
        bytes32 key = keyOfPlace(book, i, 0, 1);
        Lookup memory lookup = book.parentBalances.look(Books.tagOf(Tree.Entries), key);
        ReceiptWitness memory witness = book.witnessOf(i);
        EntryPlace memory place = placeOf(book, i, 0, 1);
        vm.expectRevert();
        disputes.proveWrongEntry(book.header, witness, place, lookup);
    }

    function test_parts_that_a_slice_does_not_have_are_refused(uint16 part) external {
        Book memory book = committed();
        // Receipt 1 has three and one contributors in its slices; receipt 0 has no snapshot.
        part = uint16(bound(part, 4, type(uint16).max));
        Lookup memory lookup = book.look(Tree.Entries, 0);
        EntryPlace memory place = placeOf(book, 0, 0, 0);
        place.part = part;
        bytes4 selector = IDisputes.PartOutOfRange.selector;
        _expectError(book, 0, place, lookup, abi.encodeWithSelector(selector, part, 4));
        _expectError(book, 1, place, lookup, abi.encodeWithSelector(selector, part, 4));
    }

    function test_slices_that_a_receipt_does_not_have_are_refused(uint16 slice) external {
        Book memory book = committed();
        Lookup memory lookup = book.look(Tree.Entries, 0);
        EntryPlace memory place = placeOf(book, 6, 3, 0);
        place.slice = uint16(bound(slice, 4, type(uint16).max));
        ReceiptWitness memory witness = book.witnessOf(6);
        vm.expectRevert();
        disputes.proveWrongEntry(book.header, witness, place, lookup);
    }

    function test_another_contribution_is_refused(bytes32 contentHash) external {
        Book memory book = committed();
        (uint32 index, uint256 i) = (3, 1);
        EntryPlace memory place = placeOf(book, i, 0, 3);
        vm.assume(contentHash != place.contentHash);
        Lookup memory lookup = book.look(Tree.Entries, 0);
        place.contentHash = contentHash;
        bytes4 selector = IDisputes.ContributionMismatch.selector;
        _expectError(book, i, place, lookup, abi.encodeWithSelector(selector, contentHash, index, 0));
        place.contentHash = contentOf(place.snapshot.datanetId, 4);
        _expectError(book, i, place, lookup, abi.encodeWithSelector(selector, place.contentHash, index, 4));
        // The same index in another datanet.
        place.contentHash = contentOf(place.snapshot.datanetId + 1, 0);
        _expectError(book, i, place, lookup, abi.encodeWithSelector(selector, place.contentHash, index, 0));
    }

    /// @dev An unknown hash has index 0, as the first contribution has.
    function test_an_unknown_hash_does_not_pass_for_the_first_contribution() external {
        Book memory book = committed();
        EntryPlace memory place = placeOf(book, 3, 1, 3);
        vm.assertEq(place.contentHash, contentOf(place.snapshot.datanetId, 0));
        place.contentHash = keccak256("unknown");
        bytes4 selector = IDisputes.ContributionMismatch.selector;
        _expectError(
            book,
            3,
            place,
            book.look(Tree.Entries, 0),
            abi.encodeWithSelector(selector, place.contentHash, 0, 0)
        );
    }

    function test_another_snapshot_is_refused() external {
        Book memory book = committed();
        EntryPlace memory place = placeOf(book, 1, 0, 3);
        place.snapshot = snapshotBehind[snapshots[1]];
        ReceiptWitness memory witness = book.witnessOf(1);
        Lookup memory lookup = book.look(Tree.Entries, 0);
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        disputes.proveWrongEntry(book.header, witness, place, lookup);
    }

    /// @dev Such a receipt is convicted by proveBadPosition, not by proveWrongEntry.
    function test_a_contribution_outside_its_snapshot_has_no_right_entry() external {
        Book memory book = validBook();
        Served memory served = book.served[1];
        served.parts[0].list = abi.encodePacked(uint32(2), uint32(1_000_000));
        served.repack();
        book.fillReceipts();
        commitBook(book);
        bytes memory none = abi.encodeWithSelector(IDisputes.NoFault.selector);
        _expectError(book, 1, placeOf(book, 1, 0, 3), book.look(Tree.Entries, 0), none);
    }

    function test_other_preimages_are_refused(uint256 kind) external {
        Book memory book = committed();
        ReceiptWitness memory witness = book.witnessOf(6);
        EntryPlace memory place = placeOf(book, 6, 1, 3);
        Lookup memory lookup = book.look(Tree.Entries, 0);
        kind %= 6;
        if (kind == 0) witness.parts[1].list = witness.parts[0].list;
        if (kind == 1) witness.parts[1].record.creatorPpm += 1;
        if (kind == 2) (witness.parts[0], witness.parts[1]) = (witness.parts[1], witness.parts[0]);
        if (kind == 3) witness.slices[36 + 35] = 0;
        if (kind == 4) witness.attribution = book.served[5].attribution;
        if (kind == 5) witness.parts[1].record.snapshots[0] = SnapshotId.wrap(0);
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        disputes.proveWrongEntry(book.header, witness, place, lookup);
    }

    function test_another_leafs_opening_is_refused() external {
        Book memory book = committed();
        ReceiptWitness memory witness = book.witnessOf(6);
        witness.opening = book.witnessOf(5).opening;
        EntryPlace memory place = placeOf(book, 6, 0, 0);
        Lookup memory lookup = book.look(Tree.Entries, 0);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        disputes.proveWrongEntry(book.header, witness, place, lookup);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, uint256 slice, uint256 seed) external {
        Book memory book = committed();
        uint256 part;
        (i, slice, part) = _part(book, i, slice, seed);
        EntryPlace memory place = placeOf(book, i, slice, part);
        Lookup memory lookup = book.look(Tree.Entries, keyOfPlace(book, i, slice, part));
        ReceiptWitness memory witness = book.witnessOf(i);
        expectAcquittal(book, abi.encodeCall(IDisputes.proveWrongEntry, (book.header, witness, place, lookup)), seed);
    }

    // --- internal ---

    function _entry(Book memory book, uint256 i) private pure returns (uint256) {
        return bound(i, 0, book.entries.keys.length - 1);
    }

    function _part(
        Book memory book,
        uint256 i,
        uint256 slice,
        uint256 part
    ) private pure returns (uint256, uint256, uint256) {
        i = bound(i, 0, 6);
        slice = bound(slice, 0, book.served[i].parts.length - 1);
        return (i, slice, bound(part, 0, numParts(book.served[i], slice) - 1));
    }

    /// @dev Convicts by the part that the correct key names.
    function _convict(Book memory book, bytes32 key) private {
        uint256 word = uint256(key);
        (uint256 i, uint256 slice, uint256 part) = (uint32(word >> 32), uint16(word >> 16), uint16(word));
        EntryPlace memory place = placeOf(book, i, slice, part);
        ReceiptWitness memory witness = book.witnessOf(i);
        Lookup memory lookup = book.look(Tree.Entries, key);
        expectConviction(book, IDisputes.proveWrongEntry.selector);
        disputes.proveWrongEntry(book.header, witness, place, lookup);
        assertVoid(book);
    }

    function _expectError(
        Book memory book,
        uint256 i,
        EntryPlace memory place,
        Lookup memory lookup,
        bytes memory error
    ) private {
        ReceiptWitness memory witness = book.witnessOf(i);
        vm.expectRevert(error);
        disputes.proveWrongEntry(book.header, witness, place, lookup);
    }

    /// @dev One receipt of a blend of four slices, the last with a list of 256 contributions.
    function _largest() private returns (Book memory) {
        VersionRecord memory record = versions[1];
        (record.name, record.snapshots[0]) = ("large", makeSnapshot(258, 256));
        registerVersion(record);
        bytes memory list;
        for (uint32 j = 0; j < 255; ++j) {
            list = abi.encodePacked(list, j, uint32(3_000 + j));
        }
        list = abi.encodePacked(list, uint32(257), uint32(1_000_000 - 255 * 3_000 - 127 * 255));
        Part[] memory parts = blend(0, 4, false);
        (parts[3].record, parts[3].list) = (record, list);
        Served[] memory served = new Served[](1);
        Refund[] memory spans = new Refund[](1);
        uint128 before = vault.channelOf(channel()).collected;
        served[0] = Books.serve(channel(), before, 50_000, parts);
        spans[0] = Refund(payer, before, before, served[0].receipt.cumulative);
        return bookOf(served, spans, first());
    }
}
