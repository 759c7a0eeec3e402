// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAdapterRegistry, Version, VersionId, VersionRecord} from "../../contracts/interfaces/IAdapterRegistry.sol";
import {SnapshotId} from "../../contracts/interfaces/IDatasetRegistry.sol";
import {Fault, ReceiptWitness, SnapshotWitness} from "../../contracts/interfaces/IDisputes.sol";
import {ChannelId} from "../../contracts/interfaces/IPaymentVault.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {ReceiptRules} from "../../contracts/libraries/ReceiptRules.sol";
import {Base} from "./support/Base.sol";
import {BatchModel, Part, Served} from "./support/BatchModel.sol";

/// @notice Exposes the rules, with a registry in which every version is registered at a given time.
contract Ruler {
    uint64 private _registeredAt;

    function setRegisteredAt(uint64 registeredAt) external {
        _registeredAt = registeredAt;
    }

    function versionOf(VersionId) external view returns (Version memory) {
        return Version(_registeredAt, 0, true);
    }

    function faultOf(ReceiptWitness calldata witness, uint64 committedAt) external view returns (Fault) {
        IAdapterRegistry versions = IAdapterRegistry(address(this));
        return ReceiptRules.faultOf(witness, witness.receipt.charge, committedAt, versions);
    }

    function positionAt(bytes calldata list, uint256 j) external pure returns (uint256 snapshot, uint32 index) {
        return ReceiptRules.positionAt(list, j);
    }

    function isInSnapshot(
        VersionRecord calldata record,
        uint256 snapshot,
        uint32 index,
        SnapshotWitness calldata witness
    ) external pure returns (bool) {
        return ReceiptRules.isInSnapshot(record, snapshot, index, witness);
    }
}

contract ReceiptRulesTest is Base {
    using BatchModel for *;

    uint32 private constant _WHOLE = 1_000_000;

    Ruler private _ruler = new Ruler();

    function setUp() external {
        _ruler.setRegisteredAt(1);
    }

    // --- faults ---

    function test_a_blend_of_one_to_four_with_lists_up_to_256_is_valid(uint256 count, uint256 items) external view {
        count = bound(count, 1, 4);
        items = bound(items, 1, 256);
        vm.assertTrue(_fault(_served(count, _list(items), 1)) == Fault.None);
    }

    function test_five_slices_are_too_many() external view {
        vm.assertTrue(_fault(_served(5, _list(1), 1)) == Fault.Slices);
    }

    function test_257_entries_are_too_many() external view {
        vm.assertTrue(_fault(_served(1, _list(257), 1)) == Fault.List);
    }

    function test_a_list_is_required_exactly_for_versions_with_snapshots(uint256 numSnapshots) external view {
        numSnapshots = bound(numSnapshots, 1, 4);
        vm.assertTrue(_fault(_served(1, "", 0)) == Fault.None);
        vm.assertTrue(_fault(_served(1, "", numSnapshots)) == Fault.List);
        vm.assertTrue(_fault(_served(1, _list(1), 0)) == Fault.List);
        vm.assertTrue(_fault(_served(1, _list(1), numSnapshots)) == Fault.None);
    }

    function test_positions_ascend_within_the_versions_snapshots(
        uint32 left,
        uint32 right,
        uint256 numSnapshots
    ) external view {
        numSnapshots = bound(numSnapshots, 1, 4);
        // Makes close values likely.
        if (left % 2 == 0) right = uint32((uint256(left) + (right % 3)) % (1 << 32));
        bytes memory list = abi.encodePacked(left, uint32(400_000), right, uint32(600_000));
        bool isRight = left < right && right >> 24 < numSnapshots;
        vm.assertTrue(_fault(_served(1, list, numSnapshots)) == (isRight ? Fault.None : Fault.List));
    }

    function test_ppm_of_a_list_sum_to_one(uint32 left, uint32 right) external view {
        if (left % 2 == 0) (left, right) = (left % (_WHOLE + 1), _WHOLE - (left % (_WHOLE + 1)) + (right % 2));
        bytes memory list = abi.encodePacked(uint32(0), left, uint32(7), right);
        bool isRight = uint256(left) + right == _WHOLE && left != 0 && right != 0;
        vm.assertTrue(_fault(_served(1, list, 1)) == (isRight ? Fault.None : Fault.List));
    }

    function test_weights_sum_to_one(uint32 left, uint32 right) external view {
        if (left % 2 == 0) (left, right) = (left % (_WHOLE + 1), _WHOLE - (left % (_WHOLE + 1)) + (right % 2));
        Part[] memory parts = new Part[](2);
        (parts[0], parts[1]) = (Part(_record(0), left, ""), Part(_record(0), right, ""));
        Served memory served = BatchModel.serve(ChannelId.wrap(0), 0, 1_000, parts);
        bool isRight = uint256(left) + right == _WHOLE && left != 0 && right != 0;
        vm.assertTrue(_fault(served) == (isRight ? Fault.None : Fault.Slices));
    }

    function test_a_version_is_valid_from_the_time_of_its_registration(
        uint64 registeredAt,
        uint64 committedAt
    ) external {
        _ruler.setRegisteredAt(registeredAt);
        bool isRight = registeredAt != 0 && registeredAt <= committedAt;
        ReceiptWitness memory witness = _witness(_served(2, "", 0));
        vm.assertTrue(_ruler.faultOf(witness, committedAt) == (isRight ? Fault.None : Fault.Version));
        witness.receipt.charge += 1;
        vm.assertTrue(_ruler.faultOf(witness, committedAt) == (isRight ? Fault.Price : Fault.Version));
    }

    function test_the_most_expensive_answer_is_priced_exactly() external view {
        VersionRecord memory record = _record(0);
        (record.promptPrice, record.completionPrice) = (type(uint64).max, type(uint64).max);
        Part[] memory parts = new Part[](1);
        parts[0] = Part(record, _WHOLE, "");
        Served memory served = BatchModel.serve(ChannelId.wrap(0), 0, type(uint32).max, parts);
        uint256 tokens = uint256(type(uint32).max) + type(uint32).max / 2;
        vm.assertEq(served.receipt.charge, tokens * type(uint64).max);
        vm.assertTrue(_fault(served) == Fault.None);
    }

    // --- positions ---

    function test_a_position_is_a_snapshot_and_an_index(
        uint8 snapshot,
        uint24 index,
        uint32 ppm,
        uint8 at
    ) external view {
        bytes memory list = abi.encodePacked(new bytes(8 * uint256(at)), snapshot, index, ppm);
        (uint256 number, uint32 found) = _ruler.positionAt(list, at);
        vm.assertEq(number, snapshot);
        vm.assertEq(found, index);
    }

    function test_a_contribution_is_in_the_snapshot_if_its_bit_is_set(
        uint256 seed,
        uint256 count,
        uint32 index
    ) external view {
        count = bound(count, 1, 1_024);
        index = index % 2 == 0 ? uint32(index % (count + 2)) : index % (1 << 24);
        uint256[] memory words = new uint256[]((count + 255) / 256);
        for (uint256 i = 0; i < words.length; ++i) {
            words[i] = uint256(keccak256(abi.encode(seed, i)));
        }
        // Frozen snapshots have zero bits from the count on; here they are set and must be ignored.
        bool isIn = index < count && (words[index / 256] >> (index % 256)) & 1 == 1;
        vm.assertEq(_isIn(uint32(count), abi.encodePacked(words), index), isIn);
    }

    function test_word_boundaries_of_accept_bits_are_correct() external view {
        for (uint32 at = 254; at < 259; ++at) {
            uint256[2] memory words;
            words[at / 256] = 1 << (at % 256);
            for (uint32 index = 254; index < 259; ++index) {
                vm.assertEq(_isIn(512, abi.encodePacked(words), index), index == at);
            }
        }
    }

    function test_another_snapshots_preimage_is_refused(
        uint64 datanetId,
        uint32 count,
        uint256 word,
        uint32 index
    ) external {
        VersionRecord memory record = _record(1);
        bytes memory accepted = abi.encode(word);
        SnapshotId right = Hashing.snapshotId(3, 7, keccak256(abi.encode(uint256(0x7f))));
        record.snapshots[0] = right;
        bytes32 found = SnapshotId.unwrap(Hashing.snapshotId(datanetId, count, keccak256(accepted)));
        vm.assume(found != SnapshotId.unwrap(right));
        bytes4 selector = ReceiptRules.WitnessMismatch.selector;
        vm.expectRevert(abi.encodeWithSelector(selector, SnapshotId.unwrap(right), found));
        _ruler.isInSnapshot(record, 0, index, SnapshotWitness(datanetId, count, accepted));
    }

    function test_a_snapshot_that_the_version_does_not_have_is_refused(uint256 number) external {
        VersionRecord memory record = _record(2);
        number = bound(number, 2, type(uint256).max);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x32));
        _ruler.isInSnapshot(record, number, 0, SnapshotWitness(1, 1, abi.encode(1)));
    }

    // --- internal ---

    function _isIn(uint32 count, bytes memory accepted, uint32 index) private view returns (bool) {
        VersionRecord memory record = _record(1);
        record.snapshots[0] = Hashing.snapshotId(1, count, keccak256(accepted));
        return _ruler.isInSnapshot(record, 0, index, SnapshotWitness(1, count, accepted));
    }

    function _record(uint256 numSnapshots) private pure returns (VersionRecord memory record) {
        (record.promptPrice, record.completionPrice) = (300_001, 900_007);
        record.snapshots = new SnapshotId[](numSnapshots);
    }

    function _served(
        uint256 count,
        bytes memory list,
        uint256 numSnapshots
    ) private pure returns (Served memory) {
        Part[] memory parts = new Part[](count);
        uint32 left = _WHOLE;
        for (uint256 i = 0; i < count; ++i) {
            uint32 weight = i + 1 == count ? left : left / 3;
            left -= weight;
            parts[i] = Part(_record(numSnapshots), weight, list);
        }
        return BatchModel.serve(ChannelId.wrap(0), 5, 1_001, parts);
    }

    /// @dev Adds the rest to the first part, so that the parts sum to one.
    function _list(uint256 count) private pure returns (bytes memory list) {
        for (uint32 i = 0; i < count; ++i) {
            uint32 ppm = i == 0 ? _WHOLE - uint32(count - 1) * 3 : 3;
            list = abi.encodePacked(list, i * 2, ppm);
        }
    }

    function _witness(Served memory served) private pure returns (ReceiptWitness memory witness) {
        (witness.receipt, witness.slices) = (served.receipt, served.slices);
        (witness.attribution, witness.parts) = (served.attribution, served.parts);
    }

    function _fault(Served memory served) private view returns (Fault) {
        return _ruler.faultOf(_witness(served), 10);
    }
}
