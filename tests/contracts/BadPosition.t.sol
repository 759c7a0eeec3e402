// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Fault, IDisputes, ReceiptWitness, SnapshotWitness} from "../../contracts/interfaces/IDisputes.sol";
import {SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Lookups} from "../../contracts/libraries/Lookups.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {BatchData, BatchModel, Served} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract BadPositionTest is Disputed {
    using BatchModel for *;

    uint32 private constant _SECOND = 1 << 24;

    /// @dev The first snapshot has five contributions with the third rejected, the second has three with the second
    /// rejected.
    function test_a_rejected_contribution_convicts(bool isSecond) external {
        _convict(isSecond ? _SECOND + 1 : 2);
    }

    function test_a_contribution_past_the_snapshots_count_convicts(uint32 index, bool isSecond) external {
        index = uint32(bound(index, isSecond ? 3 : 5, _SECOND - 1));
        _convict(isSecond ? _SECOND + index : index);
    }

    function test_a_contribution_that_came_after_the_snapshot_convicts() external {
        uint64 datanetId = snapshotBehind[snapshots[0]].datanetId;
        contribute(datanetId, 5);
        _convict(5);
    }

    function test_no_position_of_a_valid_batch_convicts(uint256 i, uint256 slice, uint256 item) external {
        BatchData memory batch = committedBatch();
        (i, slice, item) = _position(batch, i, slice, item);
        SnapshotWitness memory snapshot = placeOf(batch, i, slice, 3 + item).snapshot;
        ReceiptWitness memory witness = batch.witnessOf(i);
        vm.expectRevert(abi.encodeWithSelector(IDisputes.NoFault.selector));
        prover.proveBadPosition(batch.header, witness, slice, item, snapshot);
    }

    function test_another_snapshot_is_refused(uint256 i, uint256 slice, uint256 item, uint256 kind) external {
        BatchData memory batch = committedBatch();
        (i, slice, item) = _position(batch, i, slice, item);
        SnapshotWitness memory snapshot = placeOf(batch, i, slice, 3 + item).snapshot;
        if (kind % 4 == 0) snapshot = snapshotBehind[snapshots[snapshot.datanetId == 1 ? 1 : 0]];
        if (kind % 4 == 1) snapshot.count = 0;
        if (kind % 4 == 2) snapshot.accepted = abi.encode(0);
        if (kind % 4 == 3) snapshot.datanetId += 1;
        ReceiptWitness memory witness = batch.witnessOf(i);
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        prover.proveBadPosition(batch.header, witness, slice, item, snapshot);
    }

    function test_another_list_or_record_is_refused(uint256 kind) external {
        BatchData memory batch = committedBatch();
        ReceiptWitness memory witness = batch.witnessOf(6);
        SnapshotWitness memory snapshot = snapshotBehind[snapshots[0]];
        kind %= 4;
        // The last receipt's slices: versions with one and two snapshots, then without, in a blend of four.
        if (kind == 0) witness.parts[0].list = abi.encodePacked(uint32(2), uint32(1_000_000));
        if (kind == 1) witness.parts[0].record.snapshots[0] = SnapshotId.wrap(keccak256("none"));
        if (kind == 2) (witness.parts[0], witness.parts[1]) = (witness.parts[1], witness.parts[0]);
        if (kind == 3) witness.slices = batch.served[5].slices;
        vm.expectPartialRevert(ReceiptRules.WitnessMismatch.selector);
        prover.proveBadPosition(batch.header, witness, 0, 0, snapshot);
    }

    function test_an_index_that_the_receipt_does_not_have_is_refused(uint256 slice, uint256 item) external {
        BatchData memory batch = committedBatch();
        ReceiptWitness memory witness = batch.witnessOf(6);
        SnapshotWitness memory snapshot = snapshotBehind[snapshots[0]];
        vm.expectRevert();
        prover.proveBadPosition(batch.header, witness, bound(slice, 4, type(uint256).max), 0, snapshot);
        vm.expectRevert();
        prover.proveBadPosition(batch.header, witness, 0, bound(item, 3, type(uint256).max), snapshot);
    }

    function test_another_leafs_opening_is_refused() external {
        BatchData memory batch = committedBatch();
        ReceiptWitness memory witness = batch.witnessOf(1);
        witness.opening = batch.witnessOf(2).opening;
        SnapshotWitness memory snapshot = snapshotBehind[snapshots[0]];
        vm.expectPartialRevert(Lookups.LeafNotInTree.selector);
        prover.proveBadPosition(batch.header, witness, 0, 0, snapshot);
    }

    function test_a_valid_batch_survives_any_changed_proof(uint256 i, uint256 slice, uint256 seed) external {
        BatchData memory batch = committedBatch();
        uint256 item = 0;
        (i, slice, item) = _position(batch, i, slice, seed);
        SnapshotWitness memory snapshot = placeOf(batch, i, slice, 3 + item).snapshot;
        ReceiptWitness memory witness = batch.witnessOf(i);
        bytes memory call = abi.encodeCall(IDisputes.proveBadPosition, (batch.header, witness, slice, item, snapshot));
        expectAcquittal(batch, call, seed);
    }

    // --- internal ---

    /// @dev A batch whose last receipt names only `position` in its slice of the version with two snapshots.
    function _convict(uint32 position) private {
        BatchData memory batch = validBatch();
        Served memory served = batch.served[6];
        uint256 slice = served.parts[0].record.snapshots.length == 2 ? 0 : 1;
        served.parts[slice].list = abi.encodePacked(position, uint32(1_000_000));
        served.repack();
        batch.fillReceipts();
        commitBatch(batch);
        ReceiptWitness memory witness = batch.witnessOf(6);
        SnapshotWitness memory snapshot = snapshotBehind[snapshots[position >> 24]];
        vm.expectEmit(address(disputes));
        emit IDisputes.ReceiptFaulty(Hashing.batch(batch.header), 6, Fault.Position);
        expectConviction(batch, IDisputes.proveBadPosition.selector);
        prover.proveBadPosition(batch.header, witness, slice, 0, snapshot);
        assertVoid(batch);
    }

    /// @dev An item of a list of the batch.
    function _position(
        BatchData memory batch,
        uint256 i,
        uint256 slice,
        uint256 item
    ) private pure returns (uint256, uint256, uint256) {
        // Every receipt from the second on has a slice of a version with snapshots.
        i = bound(i, 1, 6);
        uint256 numSlices = batch.served[i].parts.length;
        slice = bound(slice, 0, numSlices - 1);
        while (batch.served[i].parts[slice].list.length == 0) slice = (slice + 1) % numSlices;
        return (i, slice, bound(item, 0, batch.served[i].parts[slice].list.length / 8 - 1));
    }
}
