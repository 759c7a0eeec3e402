// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {EntryPlace, IDisputes, Lookup, ReceiptWitness, Tree} from "../../contracts/interfaces/IDisputes.sol";
import {Refund} from "../../contracts/interfaces/IPaymentVault.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {BatchData, BatchModel, Part, Served} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract WrongEntryTest is Disputed {
    using BatchModel for *;

    // --- invalid batches ---

    function test_an_entry_that_differs_from_the_split_convicts(uint256 entry, uint256 other, uint128 amount) external {
        BatchData memory batch = validBatch();
        (entry, other) = (_entry(batch, entry), _entry(batch, other));
        vm.assume(entry != other);
        batch.entries.shift(entry, other, uint128(bound(amount, 1, batch.entries.values[entry])));
        commitBatch(batch);
        uint256 before = vm.snapshotState();
        _convict(batch, batch.entries.keys[entry]);
        vm.revertToState(before);
        _convict(batch, batch.entries.keys[other]);
    }

    function test_an_entry_that_is_missing_convicts(uint256 entry, uint256 other) external {
        BatchData memory batch = validBatch();
        (entry, other) = (_entry(batch, entry), _entry(batch, other));
        vm.assume(entry != other);
        bytes32 key = batch.entries.keys[entry];
        batch.entries.values[other] += batch.entries.values[entry];
        batch.entries = batch.entries.remove(entry);
        commitBatch(batch);
        _convict(batch, key);
    }

    /// @dev False attribution: the entry exists, but for another account.
    function test_an_entry_of_another_account_convicts(uint256 entry, address thief) external {
        BatchData memory batch = validBatch();
        entry = _entry(batch, entry);
        bytes32 key = batch.entries.keys[entry];
        vm.assume(uint160(thief) != uint256(key) >> 64);
        batch.entries.keys[entry] = bytes32((uint256(uint160(thief)) << 64) | uint64(uint256(key)));
        batch.entries.sort();
        commitBatch(batch);
        _convict(batch, key);
    }

    function test_an_entry_of_a_zero_part_convicts(uint128 amount) external {
        BatchData memory batch = validBatch();
        // The first version's creator earns nothing.
        bytes32 key = keyOfPlace(batch, 0, 0, 2);
        uint256 at = batch.entries.placeOf(key);
        batch.entries = batch.entries.insert(at, key, 0);
        uint256 other = at == 0 ? 1 : at - 1;
        batch.entries.shift(other, at, uint128(bound(amount, 1, batch.entries.values[other])));
        commitBatch(batch);
        _convict(batch, key);
    }

    /// @dev A surplus in a spare leaf implies a shortfall in another entry.
    function test_a_spare_leaf_is_paid_for_by_an_entry_that_convicts(bytes32 spare, uint256 entry) external {
        BatchData memory batch = validBatch();
        entry = _entry(batch, entry);
        bytes32 key = batch.entries.keys[entry];
        uint256 at = batch.entries.placeOf(spare);
        vm.assume(batch.entries.valueOf(spare) == 0);
        batch.entries.values[entry] -= 1;
        batch.entries = batch.entries.insert(at, spare, 1);
        commitBatch(batch);
        _convict(batch, key);
    }

    function test_one_contributor_receives_the_remainder() external {
        BatchData memory batch = validBatch();
        // On a tie of two, the first receives the remainder. It is the second slice of receipt 3.
        (bytes32 one, bytes32 two) = (keyOfPlace(batch, 3, 1, 3), keyOfPlace(batch, 3, 1, 4));
        uint256 from = batch.entries.placeOf(one);
        uint256 to = batch.entries.placeOf(two);
        vm.assertTrue(batch.entries.values[from] > batch.entries.values[to]);
        batch.entries.shift(from, to, batch.entries.values[from] - batch.entries.values[to]);
        commitBatch(batch);
        _convict(batch, one);
    }

    // --- valid batches ---

    function test_no_entry_of_a_valid_batch_convicts(uint256 i, uint256 slice, uint256 part) external {
        BatchData memory batch = committedBatch();
        (i, slice, part) = _part(batch, i, slice, part);
        bytes32 key = keyOfPlace(batch, i, slice, part);
        uint128 value = batch.entries.valueOf(key);
        _expectError(
            batch,
            i,
            placeOf(batch, i, slice, part),
            batch.lookUp(Tree.Entries, key),
            abi.encodeWithSelector(IDisputes.ValueMatches.selector, key, value)
        );
    }

    function test_the_entries_of_the_first_batch_are_valid_too(uint256 part) external {
        BatchData memory batch = firstBatch();
        part = bound(part, 0, 5);
        bytes32 key = keyOfPlace(batch, 0, 0, part);
        _expectError(
            batch,
            0,
            placeOf(batch, 0, 0, part),
            batch.lookUp(Tree.Entries, key),
            abi.encodeWithSelector(IDisputes.ValueMatches.selector, key, batch.entries.valueOf(key))
        );
    }

    function test_a_list_of_256_and_a_blend_of_four_is_valid_and_provable() external {
        BatchData memory batch = _largest();
        uint256 before = vm.snapshotState();
        commitBatch(batch);
        vm.assertEq(numParts(batch.served[0], 3), 259);
        for (uint256 part = 3; part < 259; part += 255) {
            bytes32 key = keyOfPlace(batch, 0, 3, part);
            bytes memory isRight = abi.encodeWithSelector(
                IDisputes.ValueMatches.selector,
                key,
                batch.entries.valueOf(key)
            );
            _expectError(batch, 0, placeOf(batch, 0, 3, part), batch.lookUp(Tree.Entries, key), isRight);
        }
        ReceiptWitness memory witness = batch.witnessOf(0);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NoFault.selector));
        prover.proveBadReceipt(batch.header, witness, "");
        vm.revertToState(before);
        bytes32 last = keyOfPlace(batch, 0, 3, 258);
        batch.entries.shift(batch.entries.placeOf(last), 0, 1);
        commitBatch(batch);
        _convict(batch, last);
    }

    // --- other witnesses ---

    function test_another_keys_lookup_is_refused(uint256 i, uint256 slice, uint256 part, bytes32 other) external {
        BatchData memory batch = committedBatch();
        (i, slice, part) = _part(batch, i, slice, part);
        bytes32 key = keyOfPlace(batch, i, slice, part);
        Lookup memory lookup = batch.lookUp(Tree.Entries, batch.entries.keyNear(other));
        Lookup memory right = batch.lookUp(Tree.Entries, key);
        vm.assume(keccak256(abi.encode(lookup)) != keccak256(abi.encode(right)));
        bytes memory mismatch = abi.encodeWithSelector(Lookups.LookupMismatch.selector, key);
        _expectError(batch, i, placeOf(batch, i, slice, part), lookup, mismatch);
    }

    function test_an_entry_opened_in_another_tree_is_refused(uint256 i) external {
        BatchData memory batch = committedBatch();
        i = bound(i, 0, 6);
        bytes32 key = keyOfPlace(batch, i, 0, 1);
        Lookup memory lookup = batch.parentBalances.lookUp(BatchModel.tagOf(Tree.Entries), key);
        ReceiptWitness memory witness = batch.witnessOf(i);
        EntryPlace memory place = placeOf(batch, i, 0, 1);
        vm.expectRevert();
        prover.proveWrongEntry(batch.header, witness, place, lookup);
    }

    function test_parts_that_a_slice_does_not_have_are_refused(uint16 part) external {
        BatchData memory batch = committedBatch();
        // Receipt 1 has three and one contributors in its slices; receipt 0 has no snapshot.
        part = uint16(bound(part, 4, type(uint16).max));
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        EntryPlace memory place = placeOf(batch, 0, 0, 0);
        place.part = part;
        bytes4 selector = IDisputes.PartOutOfRange.selector;
        _expectError(batch, 0, place, lookup, abi.encodeWithSelector(selector, part, 4));
        _expectError(batch, 1, place, lookup, abi.encodeWithSelector(selector, part, 4));
    }

    function test_slices_that_a_receipt_does_not_have_are_refused(uint16 slice) external {
        BatchData memory batch = committedBatch();
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        EntryPlace memory place = placeOf(batch, 6, 3, 0);
        place.slice = uint16(bound(slice, 4, type(uint16).max));
        ReceiptWitness memory witness = batch.witnessOf(6);
        vm.expectRevert();
        prover.proveWrongEntry(batch.header, witness, place, lookup);
    }

    function test_another_contribution_is_refused(bytes32 contentHash) external {
        BatchData memory batch = committedBatch();
        (uint32 index, uint256 i) = (3, 1);
        EntryPlace memory place = placeOf(batch, i, 0, 3);
        vm.assume(contentHash != place.contentHash);
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        place.contentHash = contentHash;
        bytes4 selector = IDisputes.ContributionMismatch.selector;
        _expectError(batch, i, place, lookup, abi.encodeWithSelector(selector, contentHash, index, 0));
        place.contentHash = contentOf(place.snapshot.datanetId, 4);
        _expectError(batch, i, place, lookup, abi.encodeWithSelector(selector, place.contentHash, index, 4));
        // The same index in another datanet.
        place.contentHash = contentOf(place.snapshot.datanetId + 1, 0);
        _expectError(batch, i, place, lookup, abi.encodeWithSelector(selector, place.contentHash, index, 0));
    }

    /// @dev An unknown hash has index 0, as the first contribution has.
    function test_an_unknown_hash_does_not_pass_for_the_first_contribution() external {
        BatchData memory batch = committedBatch();
        EntryPlace memory place = placeOf(batch, 3, 1, 3);
        vm.assertEq(place.contentHash, contentOf(place.snapshot.datanetId, 0));
        place.contentHash = keccak256("unknown");
        bytes4 selector = IDisputes.ContributionMismatch.selector;
        _expectError(
            batch,
            3,
            place,
            batch.lookUp(Tree.Entries, 0),
            abi.encodeWithSelector(selector, place.contentHash, 0, 0)
        );
    }

    /// @dev A contribution without an index has index 0 too.
    function test_finding9_a_contribution_that_is_not_admitted_does_not_pass_for_the_first() external {
        BatchData memory batch = committedBatch();
        EntryPlace memory place = placeOf(batch, 3, 1, 3);
        place.contentHash = contribute(place.snapshot.datanetId, 99);
        bytes4 selector = IDisputes.ContributionMismatch.selector;
        bytes memory error = abi.encodeWithSelector(selector, place.contentHash, 0, 0);
        _expectError(batch, 3, place, batch.lookUp(Tree.Entries, 0), error);
    }

    function test_another_snapshot_is_refused() external {
        BatchData memory batch = committedBatch();
        EntryPlace memory place = placeOf(batch, 1, 0, 3);
        place.snapshot = snapshotBehind[snapshots[1]];
        ReceiptWitness memory witness = batch.witnessOf(1);
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        prover.proveWrongEntry(batch.header, witness, place, lookup);
    }

    /// @dev Such a receipt is convicted by proveBadPosition, not by proveWrongEntry.
    function test_a_contribution_outside_its_snapshot_has_no_right_entry() external {
        BatchData memory batch = validBatch();
        Served memory served = batch.served[1];
        served.parts[0].list = abi.encodePacked(uint32(2), uint32(1_000_000));
        served.repack();
        batch.fillReceipts();
        commitBatch(batch);
        bytes memory none = abi.encodeWithSelector(IDisputes.NoFault.selector);
        _expectError(batch, 1, placeOf(batch, 1, 0, 3), batch.lookUp(Tree.Entries, 0), none);
    }

    function test_other_preimages_are_refused(uint256 kind) external {
        BatchData memory batch = committedBatch();
        ReceiptWitness memory witness = batch.witnessOf(6);
        EntryPlace memory place = placeOf(batch, 6, 1, 3);
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        kind %= 6;
        if (kind == 0) witness.parts[1].list = witness.parts[0].list;
        if (kind == 1) witness.parts[1].record.creatorPpm += 1;
        if (kind == 2) (witness.parts[0], witness.parts[1]) = (witness.parts[1], witness.parts[0]);
        if (kind == 3) witness.slices[36 + 35] = 0;
        if (kind == 4) witness.attribution = batch.served[5].attribution;
        if (kind == 5) witness.parts[1].record.snapshots[0] = SnapshotId.wrap(0);
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        prover.proveWrongEntry(batch.header, witness, place, lookup);
    }

    function test_another_leafs_opening_is_refused() external {
        BatchData memory batch = committedBatch();
        ReceiptWitness memory witness = batch.witnessOf(6);
        witness.opening = batch.witnessOf(5).opening;
        EntryPlace memory place = placeOf(batch, 6, 0, 0);
        Lookup memory lookup = batch.lookUp(Tree.Entries, 0);
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveWrongEntry(batch.header, witness, place, lookup);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, uint256 slice, uint256 seed) external {
        BatchData memory batch = committedBatch();
        uint256 part;
        (i, slice, part) = _part(batch, i, slice, seed);
        EntryPlace memory place = placeOf(batch, i, slice, part);
        Lookup memory lookup = batch.lookUp(Tree.Entries, keyOfPlace(batch, i, slice, part));
        ReceiptWitness memory witness = batch.witnessOf(i);
        expectAcquittal(batch, abi.encodeCall(IDisputes.proveWrongEntry, (batch.header, witness, place, lookup)), seed);
    }

    // --- internal ---

    function _entry(BatchData memory batch, uint256 i) private pure returns (uint256) {
        return bound(i, 0, batch.entries.keys.length - 1);
    }

    function _part(
        BatchData memory batch,
        uint256 i,
        uint256 slice,
        uint256 part
    ) private pure returns (uint256, uint256, uint256) {
        i = bound(i, 0, 6);
        slice = bound(slice, 0, batch.served[i].parts.length - 1);
        return (i, slice, bound(part, 0, numParts(batch.served[i], slice) - 1));
    }

    /// @dev Convicts by the part that the correct key names.
    function _convict(BatchData memory batch, bytes32 key) private {
        uint256 word = uint256(key);
        (uint256 i, uint256 slice, uint256 part) = (uint32(word >> 32), uint16(word >> 16), uint16(word));
        EntryPlace memory place = placeOf(batch, i, slice, part);
        ReceiptWitness memory witness = batch.witnessOf(i);
        Lookup memory lookup = batch.lookUp(Tree.Entries, key);
        expectConviction(batch, IDisputes.proveWrongEntry.selector);
        prover.proveWrongEntry(batch.header, witness, place, lookup);
        assertVoid(batch);
    }

    function _expectError(
        BatchData memory batch,
        uint256 i,
        EntryPlace memory place,
        Lookup memory lookup,
        bytes memory error
    ) private {
        ReceiptWitness memory witness = batch.witnessOf(i);
        vm.expectRevert(error);
        prover.proveWrongEntry(batch.header, witness, place, lookup);
    }

    /// @dev One receipt of a blend of four slices, the last with a list of 256 contributions.
    function _largest() private returns (BatchData memory) {
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
        served[0] = BatchModel.serve(channel(), before, 50_000, parts);
        spans[0] = Refund(payer, before, before, served[0].receipt.cumulative);
        return buildBatch(served, spans, firstBatch());
    }
}
