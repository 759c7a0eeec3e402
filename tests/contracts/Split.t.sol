// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Parts, Split} from "../../contracts/libraries/Split.sol";
import {Base} from "./support/Base.sol";

contract Splitter {
    function contributorPart(uint128 contributors, bytes calldata list, uint256 j) external pure returns (uint128) {
        return Split.contributorPart(contributors, list, j);
    }
}

contract SplitTest is Base {
    uint32 private constant _WHOLE = 1_000_000;

    Splitter private _splitter = new Splitter();

    function test_parts_sum_to_the_charge_under_any_fee(
        uint128 charge,
        uint32 feePpm,
        uint32 operatorPpm,
        uint32 creatorPpm
    ) external pure {
        feePpm = uint32(bound(feePpm, 0, _WHOLE));
        operatorPpm = uint32(bound(operatorPpm, 0, _WHOLE));
        creatorPpm = uint32(bound(creatorPpm, 0, _WHOLE - operatorPpm));
        Parts memory parts = Split.partsOf(charge, feePpm, operatorPpm, creatorPpm);
        uint256 sum = uint256(parts.fee) + parts.operator + parts.creator + parts.contributors;
        vm.assertEq(sum, charge);
        vm.assertEq(parts.fee, (uint256(charge) * feePpm) / _WHOLE);
    }

    function test_contributors_parts_sum_and_one_receives_the_remainder(
        uint128 amount,
        uint32[] calldata weights
    ) external view {
        vm.assume(weights.length != 0);
        uint256 count = weights.length < 32 ? weights.length : 32;
        uint32[] memory ppm = _shares(weights, count);
        bytes memory list = _list(ppm);
        uint256 sum = 0;
        uint256 numAbove = 0;
        for (uint256 j = 0; j < count; ++j) {
            uint256 part = _splitter.contributorPart(amount, list, j);
            uint256 floored = (uint256(amount) * ppm[j]) / _WHOLE;
            if (part != floored) {
                ++numAbove;
                vm.assertEq(j, _largest(ppm));
            }
            sum += part;
        }
        vm.assertEq(sum, amount);
        vm.assertLe(numAbove, 1);
    }

    function test_a_charge_never_exceeds_tokens_times_price(uint32 weightPpm, uint32 tokens, uint64 price) external pure {
        weightPpm = uint32(bound(weightPpm, 0, _WHOLE));
        uint256 full = 2 * uint256(tokens) * price;
        uint128 charge = Split.sliceCharge(weightPpm, tokens, tokens, price, price);
        vm.assertLe(charge, full);
        vm.assertEq(charge, (full * weightPpm) / _WHOLE);
    }

    /// @dev Positive shares that sum to one, in a fuzzed order.
    function _shares(uint32[] calldata weights, uint256 count) private pure returns (uint32[] memory ppm) {
        ppm = new uint32[](count);
        uint32 left = _WHOLE;
        for (uint256 i = 0; i < count - 1; ++i) {
            ppm[i] = uint32(bound(weights[i], 1, left - (count - 1 - i)));
            left -= ppm[i];
        }
        ppm[count - 1] = left;
    }

    function _list(uint32[] memory ppm) private pure returns (bytes memory list) {
        for (uint32 i = 0; i < ppm.length; ++i) {
            list = abi.encodePacked(list, i, ppm[i]);
        }
    }

    function _largest(uint32[] memory ppm) private pure returns (uint256 largest) {
        for (uint256 i = 1; i < ppm.length; ++i) {
            if (ppm[i] > ppm[largest]) largest = i;
        }
    }
}
