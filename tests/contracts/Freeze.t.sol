// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDatasetRegistry, Review, Snapshot, SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {Datanets} from "./support/Datanets.sol";
import {Log} from "./support/Vm.sol";

contract FreezeTest is Datanets {
    function test_a_snapshot_contains_the_accept_bits_of_its_contributions(uint256 accepted, uint32 count) external {
        _admitMany(12);
        count = uint32(bound(count, 1, 12));
        accepted = bound(accepted, 0, (1 << 12) - 1) | 1;
        _acceptMany(accepted, 12);
        bytes32 words = bytes32(accepted & ((1 << count) - 1));
        bytes32 acceptedHash = keccak256(abi.encode(words));
        bytes32 expected = keccak256(abi.encode(datanetId, count, acceptedHash));
        vm.expectEmit(address(datasets));
        emit IDatasetRegistry.SnapshotFrozen(
            SnapshotId.wrap(expected),
            datanetId,
            count,
            acceptedHash,
            abi.encode(words)
        );
        SnapshotId id = datasets.freeze(datanetId, count);
        vm.assertEq(SnapshotId.unwrap(id), expected);
        Snapshot memory kept = datasets.snapshotOf(id);
        vm.assertEq(kept.datanetId, datanetId);
        vm.assertEq(kept.count, count);
        vm.assertEq(kept.frozenAt, block.timestamp);
    }

    function test_bits_beyond_a_word_are_frozen_too() external {
        _admitMany(300);
        Review[] memory reviews = new Review[](298);
        uint256 last = 0;
        for (uint256 i = 0; i < 300; ++i) {
            if (i != 3 && i != 299) reviews[last++] = Review(_content(i), false, 1);
        }
        vm.prank(curator);
        datasets.review(datanetId, reviews);
        (, bytes32 acceptedHash) = datasets.previewSnapshot(datanetId, 300);
        vm.assertEq(acceptedHash, keccak256(abi.encode(uint256(1) << 3, uint256(1) << 43)));
        (, acceptedHash) = datasets.previewSnapshot(datanetId, 299);
        vm.assertEq(acceptedHash, keccak256(abi.encode(uint256(1) << 3, uint256(0))));
        (, acceptedHash) = datasets.previewSnapshot(datanetId, 256);
        vm.assertEq(acceptedHash, keccak256(abi.encode(uint256(1) << 3)));
    }

    function test_freezing_again_changes_nothing() external {
        contribute("a");
        review("a", true);
        SnapshotId id = datasets.freeze(datanetId, 1);
        uint64 frozenAt = datasets.snapshotOf(id).frozenAt;
        vm.warp(block.timestamp + 9);
        vm.recordLogs();
        vm.assertEq(SnapshotId.unwrap(datasets.freeze(datanetId, 1)), SnapshotId.unwrap(id));
        vm.assertEq(vm.getRecordedLogs().length, 0);
        vm.assertEq(datasets.snapshotOf(id).frozenAt, frozenAt);
    }

    function test_a_later_decision_leaves_an_old_snapshot() external {
        contribute("a");
        contribute("b");
        review("a", true);
        review("b", true);
        review("b", false);
        SnapshotId old = datasets.freeze(datanetId, 2);
        review("b", true);
        SnapshotId next = datasets.freeze(datanetId, 2);
        vm.assertNotEq(SnapshotId.unwrap(old), SnapshotId.unwrap(next));
        vm.assertTrue(datasets.snapshotOf(old).frozenAt != 0);
    }

    function test_a_snapshot_covers_at_most_the_admitted_contributions(uint32 count) external {
        contribute("a");
        review("a", true);
        contribute("b");
        review("b", false);
        vm.assume(count != 1);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.InvalidCount.selector, datanetId, count, 1));
        datasets.freeze(datanetId, count);
    }

    function test_a_snapshot_accepts_at_least_one_contribution() external {
        contribute("a");
        contribute("b");
        review("a", true);
        review("b", true);
        review("a", false);
        vm.expectRevert(abi.encodeWithSelector(IDatasetRegistry.NothingAccepted.selector, datanetId, 1));
        datasets.freeze(datanetId, 1);
    }

    function _admitMany(uint256 count) private {
        for (uint256 i = 0; i < count; ++i) {
            datasets.contribute(contribution(_content(i)));
        }
        _acceptMany(type(uint256).max, count);
    }

    function _acceptMany(uint256 accepted, uint256 count) private {
        Review[] memory reviews = new Review[](count);
        for (uint256 i = 0; i < count; ++i) {
            reviews[i] = Review(_content(i), i > 255 || (accepted >> i) & 1 == 1, 0);
        }
        vm.prank(curator);
        datasets.review(datanetId, reviews);
    }

    function _content(uint256 i) private pure returns (bytes32) {
        return keccak256(abi.encode(i));
    }
}
