// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {VersionRecord} from "../interfaces/IAdapterRegistry.sol";
import {ContributionRecord, IDatasetRegistry} from "../interfaces/IDatasetRegistry.sol";
import {EntryPlace, IDisputes, ReceiptWitness, SliceWitness} from "../interfaces/IDisputes.sol";
import {ParameterSet} from "../interfaces/IParameters.sol";
import {ReceiptRules} from "./ReceiptRules.sol";
import {Parts, Split} from "./Split.sol";

/// @title Earnings
/// @notice Computes who earns a part of a receipt's charge, and how much.
library Earnings {
    uint256 private constant _ITEM_SIZE = 8;
    uint256 private constant _FIRST_CONTRIBUTOR = 3;

    /// @notice Returns the account that earns a part of a slice and the amount, by the split of a parameter set.
    /// @param witness The receipt, whose slice was checked by `ReceiptRules.checkedSlice`.
    function earningOf(
        ReceiptWitness calldata witness,
        EntryPlace calldata place,
        address operator,
        ParameterSet memory terms,
        IDatasetRegistry datasets
    ) internal view returns (address account, uint128 amount) {
        VersionRecord calldata record = witness.parts[place.slice].record;
        uint128 charge = ReceiptRules.chargeOf(witness, place.slice);
        Parts memory parts = Split.partsOf(charge, terms.feePpm, record.operatorPpm, record.creatorPpm);
        if (place.part == 0) return (terms.treasury, parts.fee);
        if (place.part == 1) return (operator, parts.operator);
        if (place.part == 2) return (record.creator, parts.creator);
        if (record.snapshots.length == 0) {
            uint256 numParts = _FIRST_CONTRIBUTOR + 1;
            require(place.part < numParts, IDisputes.PartOutOfRange(place.part, numParts));
            return (terms.treasury, parts.contributors);
        }
        return _contributorEarning(witness.parts[place.slice], place, parts.contributors, datasets);
    }

    /// @notice Returns the contributor whom a part of a slice names, and its amount.
    /// @param contributors What all contributors of the slice earn.
    function _contributorEarning(
        SliceWitness calldata slice,
        EntryPlace calldata place,
        uint128 contributors,
        IDatasetRegistry datasets
    ) private view returns (address account, uint128 amount) {
        uint256 j = place.part - _FIRST_CONTRIBUTOR;
        uint256 count = slice.list.length / _ITEM_SIZE;
        require(j < count, IDisputes.PartOutOfRange(place.part, _FIRST_CONTRIBUTOR + count));
        (uint256 number, uint32 index) = ReceiptRules.positionAt(slice.list, j);
        require(ReceiptRules.isInSnapshot(slice.record, number, index, place.snapshot), IDisputes.NoFault());
        ContributionRecord memory stored = datasets.contributionOf(place.snapshot.datanetId, place.contentHash);
        bool isMatch = stored.isAdmitted && stored.index == index;
        require(isMatch, IDisputes.ContributionMismatch(place.contentHash, index, stored.index));
        return (stored.contributor, Split.contributorPart(contributors, slice.list, j));
    }
}
