// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Parts, Split} from "../../contracts/libraries/Split.sol";
import {Base} from "./support/Base.sol";

/// @notice The fifth invariant over many answers: the parts of a split sum exactly, one fixed contributor receives the
/// remainder, and over 10,000 small answers each account is within one unit of its exact share.
contract InvariantsSplitTest is Base {
    uint256 private constant _ANSWERS = 10_000;
    uint256 private constant _CONTRIBUTORS = 64;
    uint256 private constant _WHOLE = 1_000_000;
    uint256 private constant _MICRO = 1_000_000;

    /// @dev Exact shares and earnings in micro-units times ppm of ppm of ppm, so that nothing is rounded here.
    function test_invariant_5_over_10000_small_answers_each_account_is_within_a_unit() external view {
        (uint32 feePpm, uint32 operatorPpm, uint32 creatorPpm) = (50_001, 300_007, 200_003);
        uint256[4] memory earned;
        uint256 sum = 0;
        for (uint256 i = 0; i < _ANSWERS; ++i) {
            uint128 charge = _chargeAt(i);
            Parts memory parts = Split.partsOf(charge, feePpm, operatorPpm, creatorPpm);
            vm.assertEq(uint256(parts.fee) + parts.operator + parts.creator + parts.contributors, charge);
            sum += charge;
            earned[0] += parts.fee;
            earned[1] += parts.operator;
            earned[2] += parts.creator;
            earned[3] += parts.contributors;
        }
        uint256 rest = sum * (_WHOLE - feePpm);
        _checkShare(earned[0] * _WHOLE, sum * feePpm, _WHOLE);
        _checkShare(earned[1] * _WHOLE * _WHOLE, rest * operatorPpm, _WHOLE * _WHOLE);
        _checkShare(earned[2] * _WHOLE * _WHOLE, rest * creatorPpm, _WHOLE * _WHOLE);
        _checkShare(earned[3] * _WHOLE * _WHOLE, rest * (_WHOLE - operatorPpm - creatorPpm), _WHOLE * _WHOLE);
    }

    /// @dev The first of the largest shares receives all remainders of its list: per answer, fewer micro-units than
    /// there are contributors.
    function test_invariant_5_over_10000_small_answers_each_contributor_is_within_a_unit(uint256 seed) external view {
        bytes memory list = _listOf(seed);
        // A hundred answers, each a hundred times.
        uint256 j = seed % _CONTRIBUTORS;
        uint256 step = _ANSWERS / 100;
        (uint256 earned, uint256 exact) = (0, 0);
        for (uint256 i = 0; i < 100; ++i) {
            uint128 amount = _chargeAt(uint256(keccak256(abi.encode(seed, i))));
            earned += step * this.partAt(amount, list, j);
            exact += step * amount * this.ppmAt(list, j);
        }
        _checkShare(earned * _WHOLE, exact, _WHOLE);
    }

    function test_invariant_5_the_remainder_has_one_fixed_owner(uint256 seed, uint128 amount) external view {
        bytes memory list = _listOf(seed);
        uint256 sum = 0;
        uint256 numOwners = 0;
        for (uint256 j = 0; j < _CONTRIBUTORS; ++j) {
            uint256 part = this.partAt(amount, list, j);
            sum += part;
            if (part != (uint256(amount) * this.ppmAt(list, j)) / _WHOLE) ++numOwners;
        }
        vm.assertEq(sum, amount);
        vm.assertLe(numOwners, 1);
    }

    function partAt(uint128 amount, bytes calldata list, uint256 j) external pure returns (uint128) {
        return Split.contributorPart(amount, list, j);
    }

    function ppmAt(bytes calldata list, uint256 j) external pure returns (uint256) {
        return uint32(Split.itemAt(list, j));
    }

    /// @dev The two differ by less than one token unit.
    function _checkShare(uint256 earned, uint256 exact, uint256 scale) private pure {
        uint256 apart = earned > exact ? earned - exact : exact - earned;
        vm.assertLe(apart + 1, _MICRO * scale);
    }

    /// @dev A small charge, from one micro-unit to a few units.
    function _chargeAt(uint256 i) private pure returns (uint128) {
        uint256 draw = uint256(keccak256(abi.encode(i)));
        return uint128(1 + (draw >> 8) % (10 ** (1 + draw % 7)));
    }

    /// @dev Positive weights that sum to one.
    function _listOf(uint256 seed) private pure returns (bytes memory list) {
        uint256 left = _WHOLE;
        for (uint256 j = 0; j < _CONTRIBUTORS; ++j) {
            uint256 others = _CONTRIBUTORS - 1 - j;
            uint256 most = (2 * (left - others)) / (others + 1);
            uint256 draw = uint256(keccak256(abi.encode(seed, "list", j)));
            uint256 ppm = others == 0 ? left : 1 + draw % (most < left - others ? most : left - others);
            list = abi.encodePacked(list, uint32(j), uint32(ppm));
            left -= ppm;
        }
    }
}
