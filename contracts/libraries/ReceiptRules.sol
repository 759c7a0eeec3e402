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
/// @notice The rules for a receipt, except for the position of its interval. A witness that is not the preimage of a
/// hash in the receipt or on the chain reverts; only faults of the receipt itself are returned.
library ReceiptRules {
    uint256 private constant _SLICE_SIZE = 36;
    uint256 private constant _MAX_SLICES = 4;
    uint256 private constant _ITEM_SIZE = 8;
    uint256 private constant _MAX_ITEMS = 256;
    uint256 private constant _INDEX_BITS = 24;

    error WitnessMismatch(bytes32 expected, bytes32 found);

    /// @notice Returns the receipt's first fault in the order of `Fault`.
    /// @param witness The receipt, with the preimages that are needed to reach the fault.
    /// @param value Value of its leaf.
    /// @param committedAt Time of the batch's commit; versions registered later are invalid.
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
        if (!_areValidSlices(witness.slices)) return Fault.Slices;
        _checkPreimage(receipt.attributionHash, witness.attribution);
        if (witness.attribution.length != 32 * (numSlices(witness) + 1)) return Fault.Attribution;
        if (!_isMethod(bytes32(witness.attribution[:32]))) return Fault.Attribution;
        return _faultOfSlices(witness, value, committedAt, versions);
    }

    /// @notice Returns the witness of slice `i` after checking its record and list against the receipt.
    function checkedSlice(
        ReceiptWitness calldata witness,
        uint256 i
    ) internal pure returns (SliceWitness calldata slice) {
        slice = witness.parts[i];
        bytes32 expected = VersionId.unwrap(versionAt(witness.slices, i));
        bytes32 found = VersionId.unwrap(Hashing.versionId(slice.record));
        require(found == expected, WitnessMismatch(expected, found));
        _checkPreimage(bytes32(witness.attribution[32 * (i + 1):32 * (i + 2)]), slice.list);
    }

    /// @notice Returns the number of slices of a receipt whose slices are valid.
    function numSlices(ReceiptWitness calldata witness) internal pure returns (uint256) {
        return witness.slices.length / _SLICE_SIZE;
    }

    /// @notice Returns the charge of slice `i` by its weight and its record's prices.
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

    /// @notice Reverts unless the witness contains the preimages of `slicesHash` and `attributionHash`.
    function checkPreimages(ReceiptWitness calldata witness) internal pure {
        _checkPreimage(witness.receipt.slicesHash, witness.slices);
        _checkPreimage(witness.receipt.attributionHash, witness.attribution);
    }

    /// @notice Returns the contribution that entry `j` of a list names.
    /// @return snapshot Index of its snapshot in the record.
    /// @return index Index of the contribution in the datanet.
    function positionAt(bytes calldata list, uint256 j) internal pure returns (uint256 snapshot, uint32 index) {
        uint32 position = _positionAt(list, j);
        return (position >> _INDEX_BITS, position & uint32((1 << _INDEX_BITS) - 1));
    }

    /// @notice Returns whether snapshot number `snapshot` of the record includes a contribution. Reverts if the witness
    /// is not the preimage of that snapshot.
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
        return VersionId.wrap(bytes32(slices[i * _SLICE_SIZE:i * _SLICE_SIZE + 32]));
    }

    function _faultOfSlices(
        ReceiptWitness calldata witness,
        uint128 value,
        uint64 committedAt,
        IAdapterRegistry versions
    ) private view returns (Fault) {
        uint256 charge = 0;
        for (uint256 i = 0; i < numSlices(witness); ++i) {
            if (!_isRegistered(versions, versionAt(witness.slices, i), committedAt)) return Fault.Version;
            SliceWitness calldata slice = checkedSlice(witness, i);
            if (!_isValidList(slice.list, slice.record.snapshots.length)) return Fault.List;
            charge += chargeOf(witness, i);
        }
        return charge == value ? Fault.None : Fault.Price;
    }

    function _weightAt(bytes calldata slices, uint256 i) private pure returns (uint32) {
        return uint32(bytes4(slices[i * _SLICE_SIZE + 32:(i + 1) * _SLICE_SIZE]));
    }

    function _positionAt(bytes calldata list, uint256 j) private pure returns (uint32) {
        return uint32(bytes4(list[j * _ITEM_SIZE:j * _ITEM_SIZE + 4]));
    }

    /// @dev Valid slices are one to four with positive weights that sum to one.
    function _areValidSlices(bytes calldata slices) private pure returns (bool) {
        uint256 count = slices.length / _SLICE_SIZE;
        if (slices.length % _SLICE_SIZE != 0 || count == 0 || count > _MAX_SLICES) return false;
        uint256 sum = 0;
        for (uint256 i = 0; i < count; ++i) {
            uint256 weight = _weightAt(slices, i);
            if (weight == 0) return false;
            sum += weight;
        }
        return sum == Units.PPM;
    }

    /// @dev A method is 1 to 32 of the characters `!` to `~`, padded with zeros. The batch data can state no other.
    function _isMethod(bytes32 method) private pure returns (bool) {
        uint256 length = 0;
        while (length < 32 && method[length] >= "!" && method[length] <= "~") ++length;
        return length != 0 && (length == 32 || uint256(method) << (8 * length) == 0);
    }

    /// @dev A valid list is empty if the version has no snapshot. Otherwise its positions are strictly ascending and
    /// name existing snapshots, and its ppm are positive and sum to one.
    function _isValidList(bytes calldata list, uint256 numSnapshots) private pure returns (bool) {
        uint256 count = list.length / _ITEM_SIZE;
        if (numSnapshots == 0) return list.length == 0;
        if (list.length % _ITEM_SIZE != 0 || count == 0 || count > _MAX_ITEMS) return false;
        uint256 sum = 0;
        uint256 next = 0;
        // Sums of at most 256 numbers of 32 bits cannot overflow.
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
