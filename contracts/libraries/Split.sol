// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Units} from "./Units.sol";

/// @notice The parts of a slice's charge, in micro-units; they sum to the charge.
struct Parts {
    uint128 fee;
    uint128 operator;
    uint128 creator;
    uint128 contributors;
}

/// @title Split
/// @notice Computes the charge of a slice and its division among the earners. Amounts in micro-units, ratios in ppm.
library Split {
    uint256 private constant _ITEM_SIZE = 8;

    /// @notice Returns the charge of a slice: its weight times the price of all tokens, rounded down.
    function sliceCharge(
        uint32 weightPpm,
        uint32 promptTokens,
        uint32 completionTokens,
        uint64 promptPrice,
        uint64 completionPrice
    ) internal pure returns (uint128) {
        uint256 full = uint256(promptTokens) * promptPrice + uint256(completionTokens) * completionPrice;
        return uint128(Units.mulPpmDown(full, weightPpm));
    }

    /// @notice Divides a slice's charge: the protocol fee first, then the operator's and the creator's ppm of the rest.
    /// The contributors earn the remainder. Registration ensures that `operatorPpm + creatorPpm` is at most one.
    function partsOf(
        uint128 charge,
        uint32 feePpm,
        uint32 operatorPpm,
        uint32 creatorPpm
    ) internal pure returns (Parts memory parts) {
        parts.fee = uint128(Units.mulPpmDown(charge, feePpm));
        uint128 rest = charge - parts.fee;
        parts.operator = uint128(Units.mulPpmDown(rest, operatorPpm));
        parts.creator = uint128(Units.mulPpmDown(rest, creatorPpm));
        parts.contributors = rest - parts.operator - parts.creator;
    }

    /// @notice Returns the earnings of entry `j` of an attribution list: its ppm of `contributors`, rounded down. The
    /// sum of all rounding remainders goes to the entry with the largest ppm, the first one on a tie.
    /// @param list Entries of position 4, ppm 4; must be well-formed, with ppm that sum to one.
    function contributorPart(uint128 contributors, bytes calldata list, uint256 j) internal pure returns (uint128) {
        uint256 count = list.length / _ITEM_SIZE;
        uint256 distributed = 0;
        uint256 share = 0;
        uint256 largest = 0;
        uint256 largestPpm = 0;
        // Products of 128 by 32 bits cannot overflow, nor can the sum of the parts.
        unchecked {
            for (uint256 i = 0; i < count; ++i) {
                uint256 ppm = uint32(itemAt(list, i));
                uint256 part = (contributors * ppm) / Units.PPM;
                distributed += part;
                if (i == j) share = part;
                if (ppm > largestPpm) (largest, largestPpm) = (i, ppm);
            }
        }
        return uint128(j == largest ? share + contributors - distributed : share);
    }

    /// @notice Returns entry `i` of an attribution list, `position << 32 | ppm`. It does not check that the entry
    /// exists.
    function itemAt(bytes calldata list, uint256 i) internal pure returns (uint256 item) {
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            item := shr(192, calldataload(add(list.offset, mul(i, _ITEM_SIZE))))
        }
    }
}
