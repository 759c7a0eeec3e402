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
/// @notice What a slice of an answer costs and who earns it. Amounts in micro-units, ratios in ppm.
library Split {
    uint256 private constant _ITEM = 8;

    /// @notice The charge of a slice: its weight of tokens times prices, rounded down.
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

    /// @notice Cuts a slice's charge: the protocol fee first, operator and creator by ppm of the rest, what remains to
    /// the contributors. `operatorPpm + creatorPpm` is at most one whole, which registration checked.
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

    /// @notice What entry `j` of an attribution list earns of `contributors`: its ppm rounded down; what all roundings
    /// leave goes to the largest ppm, the first of them on a tie.
    /// @param list Entries of position 4, ppm 4; well-formed, the ppm summing to one whole.
    function contributorPart(uint128 contributors, bytes calldata list, uint256 j) internal pure returns (uint128) {
        uint256 count = list.length / _ITEM;
        uint256 given = 0;
        uint256 own = 0;
        uint256 largest = 0;
        uint256 largestPpm = 0;
        // 128 bits by 32: neither a part nor the sum of all can overflow.
        unchecked {
            for (uint256 i = 0; i < count; ++i) {
                uint256 ppm = uint32(itemAt(list, i));
                uint256 part = (contributors * ppm) / Units.PPM;
                given += part;
                if (i == j) own = part;
                if (ppm > largestPpm) (largest, largestPpm) = (i, ppm);
            }
        }
        return uint128(j == largest ? own + contributors - given : own);
    }

    /// @notice Entry `i` of an attribution list, `position << 32 | ppm`. There must be one: it is not checked.
    function itemAt(bytes calldata list, uint256 i) internal pure returns (uint256 item) {
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            item := shr(192, calldataload(add(list.offset, mul(i, _ITEM))))
        }
    }
}
