// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IAdapterRegistry, VersionId, VersionRecord} from "../interfaces/IAdapterRegistry.sol";
import {SnapshotId} from "../interfaces/IDatasetRegistry.sol";
import {Fault, ReceiptWitness, SliceWitness, SnapshotWitness} from "../interfaces/IDisputes.sol";
import {Receipt} from "../interfaces/ISettlement.sol";
import {Hashing} from "./Hashing.sol";
import {Split} from "./Split.sol";
import {Units} from "./Units.sol";

/// @title Receipt rules
/// @notice What a receipt must satisfy, apart from its place on the line. A witness that is not the preimage of what
/// the receipt or the chain names reverts; only a fault of the receipt itself is reported.
library ReceiptRules {
    uint256 private constant _SLICE = 36;
    uint256 private constant _MAX_SLICES = 4;
    uint256 private constant _ITEM = 8;
    uint256 private constant _MAX_ITEMS = 256;
    uint256 private constant _INDEX_BITS = 24;

    error WitnessMismatch(bytes32 expected, bytes32 found);

    /// @notice The receipt's first fault, in the order of `Fault`.
    /// @param witness The receipt's preimages, as far as they are needed to reach the fault.
    /// @param value What its leaf is worth in the tree.
    /// @param committedAt When its batch was committed: a version registered later does not count.
    function faultOf(
        ReceiptWitness calldata witness,
        uint128 value,
        uint64 committedAt,
        IAdapterRegistry versions
    ) internal view returns (Fault) {
        Receipt calldata receipt = witness.receipt;
        if (value != receipt.charge) return Fault.Value;
        if (value == 0) return Fault.ZeroCharge;
        _checkPreimage(receipt.slicesHash, witness.slices);
        if (!_areSlices(witness.slices)) return Fault.Slices;
        _checkPreimage(receipt.attributionHash, witness.attribution);
        if (witness.attribution.length != 32 * (witness.slices.length / _SLICE + 1)) return Fault.Attribution;
        return _faultOfSlices(witness, value, committedAt, versions);
    }

    /// @notice The witness of slice `i`, its record and list checked against what the receipt names.
    function checkedSlice(
        ReceiptWitness calldata witness,
        uint256 i
    ) internal pure returns (SliceWitness calldata part) {
        part = witness.parts[i];
        bytes32 expected = VersionId.unwrap(versionAt(witness.slices, i));
        bytes32 found = VersionId.unwrap(Hashing.versionId(part.record));
        require(found == expected, WitnessMismatch(expected, found));
        _checkPreimage(bytes32(witness.attribution[32 * (i + 1):32 * (i + 2)]), part.list);
    }

    /// @notice What slice `i` costs, by its weight and its record's prices.
    function chargeOf(ReceiptWitness calldata witness, uint256 i) internal pure returns (uint128) {
        VersionRecord calldata record = witness.parts[i].record;
        return
            Split.sliceCharge(
                _weightAt(witness.slices, i),
                witness.receipt.promptTokens,
                witness.receipt.completionTokens,
                record.promptPrice,
                record.completionPrice
            );
    }

    /// @notice Reverts unless the witness holds what the receipt's hashes name.
    function checkPreimages(ReceiptWitness calldata witness) internal pure {
        _checkPreimage(witness.receipt.slicesHash, witness.slices);
        _checkPreimage(witness.receipt.attributionHash, witness.attribution);
    }

    /// @notice The contribution behind entry `j` of a list.
    /// @return snapshot Its snapshot's number in the record.
    /// @return index Its index in the datanet.
    function positionAt(bytes calldata list, uint256 j) internal pure returns (uint256 snapshot, uint32 index) {
        uint32 position = _positionAt(list, j);
        return (position >> _INDEX_BITS, position & uint32((1 << _INDEX_BITS) - 1));
    }

    /// @notice Whether a contribution was accepted in the snapshot that the record names as number `snapshot`; reverts
    /// if the witness is another snapshot's.
    function isInSnapshot(
        VersionRecord calldata record,
        uint256 snapshot,
        uint32 index,
        SnapshotWitness calldata witness
    ) internal pure returns (bool) {
        bytes32 acceptedHash = keccak256(witness.accepted);
        bytes32 expected = SnapshotId.unwrap(record.snapshots[snapshot]);
        bytes32 found = SnapshotId.unwrap(Hashing.snapshotId(witness.datanetId, witness.count, acceptedHash));
        require(found == expected, WitnessMismatch(expected, found));
        if (index >= witness.count) return false;
        uint256 at = (index >> 8) * 32;
        return (uint256(bytes32(witness.accepted[at:at + 32])) >> (index & 0xff)) & 1 == 1;
    }

    function versionAt(bytes calldata slices, uint256 i) internal pure returns (VersionId) {
        return VersionId.wrap(bytes32(slices[i * _SLICE:i * _SLICE + 32]));
    }

    function _faultOfSlices(
        ReceiptWitness calldata witness,
        uint128 value,
        uint64 committedAt,
        IAdapterRegistry versions
    ) private view returns (Fault) {
        uint256 charge = 0;
        for (uint256 i = 0; i < witness.slices.length / _SLICE; ++i) {
            if (!_isRegistered(versions, versionAt(witness.slices, i), committedAt)) return Fault.Version;
            SliceWitness calldata part = checkedSlice(witness, i);
            if (!_isList(part.list, part.record.snapshots.length)) return Fault.List;
            charge += chargeOf(witness, i);
        }
        return charge == value ? Fault.None : Fault.Price;
    }

    function _weightAt(bytes calldata slices, uint256 i) private pure returns (uint32) {
        return uint32(bytes4(slices[i * _SLICE + 32:(i + 1) * _SLICE]));
    }

    function _positionAt(bytes calldata list, uint256 j) private pure returns (uint32) {
        return uint32(bytes4(list[j * _ITEM:j * _ITEM + 4]));
    }

    /// @dev One to four, each with a weight, the weights one whole.
    function _areSlices(bytes calldata slices) private pure returns (bool) {
        uint256 count = slices.length / _SLICE;
        if (slices.length % _SLICE != 0 || count == 0 || count > _MAX_SLICES) return false;
        uint256 sum = 0;
        for (uint256 i = 0; i < count; ++i) {
            uint256 weight = _weightAt(slices, i);
            if (weight == 0) return false;
            sum += weight;
        }
        return sum == Units.PPM;
    }

    /// @dev Empty exactly when the version has no snapshot; else positions strictly rising within its snapshots'
    /// numbers, each with a part, the parts one whole.
    function _isList(bytes calldata list, uint256 numSnapshots) private pure returns (bool) {
        uint256 count = list.length / _ITEM;
        if (numSnapshots == 0) return list.length == 0;
        if (list.length % _ITEM != 0 || count == 0 || count > _MAX_ITEMS) return false;
        uint256 sum = 0;
        uint256 next = 0;
        // A few numbers of 32 bits do not overflow.
        unchecked {
            for (uint256 j = 0; j < count; ++j) {
                uint256 item = Split.itemAt(list, j);
                (uint256 position, uint256 ppm) = (item >> 32, uint32(item));
                if (position < next || ppm == 0) return false;
                next = position + 1;
                sum += ppm;
            }
        }
        return sum == Units.PPM && (next - 1) >> _INDEX_BITS < numSnapshots;
    }

    function _isRegistered(
        IAdapterRegistry versions,
        VersionId versionId,
        uint64 committedAt
    ) private view returns (bool) {
        uint64 registeredAt = versions.versionOf(versionId).registeredAt;
        return registeredAt != 0 && registeredAt <= committedAt;
    }

    function _checkPreimage(bytes32 expected, bytes calldata preimage) private pure {
        bytes32 found = keccak256(preimage);
        require(found == expected, WitnessMismatch(expected, found));
    }
}
