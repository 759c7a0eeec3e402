// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Units
/// @notice Conversions between token units and amounts (micro-units, 10^-6 of a token unit), and ratios in ppm.
library Units {
    /// @notice One in ppm.
    uint256 internal constant PPM = 1_000_000;

    /// @notice Micro-units per token unit.
    uint128 internal constant MICRO = 1_000_000;

    /// @notice `units` exceed the largest amount.
    error UnitsOverflow(uint256 units);

    /// @notice Converts `units` to an amount, exactly.
    function toAmount(uint256 units) internal pure returns (uint128) {
        require(units <= type(uint128).max / MICRO, UnitsOverflow(units));
        unchecked {
            return uint128(units) * MICRO;
        }
    }

    /// @notice Converts `amount` to whole units, rounded down.
    function toUnitsDown(uint128 amount) internal pure returns (uint256) {
        return amount / MICRO;
    }

    /// @notice Returns `ppm` of `amount` in whole units, rounded up.
    function mulPpmToUnitsUp(uint128 amount, uint32 ppm) internal pure returns (uint256) {
        return Math.ceilDiv(uint256(amount) * ppm, PPM * MICRO);
    }

    /// @notice Returns `ppm` of `amount`, rounded down.
    function mulPpmDown(uint256 amount, uint256 ppm) internal pure returns (uint256) {
        return (amount * ppm) / PPM;
    }
}
