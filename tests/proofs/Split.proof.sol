// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Parts, Split} from "../../contracts/libraries/Split.sol";
import {Units} from "../../contracts/libraries/Units.sol";
import {Proof} from "./Prover.sol";

contract Splitter {
    function partsOf(uint128 charge, uint32 fee, uint32 operator, uint32 creator) external pure returns (Parts memory) {
        return Split.partsOf(charge, fee, operator, creator);
    }

    function contributorPart(uint128 contributors, bytes calldata list, uint256 j) external pure returns (uint128) {
        return Split.contributorPart(contributors, list, j);
    }
}

/// @notice Invariant 5: the parts of a split sum exactly, one fixed contributor receives the remainder, and no split
/// reverts.
contract SplitProof is Proof {
    Splitter private immutable _splitter = new Splitter();

    function check_a_share_never_exceeds_the_whole(uint128 amount, uint32 ppm) external pure {
        vm.assume(ppm <= Units.PPM);
        assert(Units.mulPpmDown(amount, ppm) <= amount);
    }

    function check_parts_sum_to_the_charge(uint128 charge, uint32 fee, uint32 operator, uint32 creator) external view {
        vm.assume(fee <= Units.PPM && uint256(operator) + creator <= Units.PPM);
        try _splitter.partsOf(charge, fee, operator, creator) returns (Parts memory parts) {
            assert(uint256(parts.fee) + parts.operator + parts.creator + parts.contributors == charge);
            assert(parts.fee == (uint256(charge) * fee) / 1e6);
        } catch {
            assert(false);
        }
    }

    function check_one_contributor_takes_all(uint128 amount, uint32 position) external view {
        bytes memory list = abi.encodePacked(position, uint32(Units.PPM));
        assert(_splitter.contributorPart(amount, list, 0) == amount);
    }

    function check_two_contributors(uint128 amount, uint32 first) external view {
        vm.assume(first <= Units.PPM);
        uint32[] memory ppm = new uint32[](2);
        (ppm[0], ppm[1]) = (first, uint32(Units.PPM) - first);
        _check(amount, ppm);
    }

    function check_three_contributors(uint128 amount, uint32 first, uint32 second) external view {
        vm.assume(uint256(first) + second <= Units.PPM);
        uint32[] memory ppm = new uint32[](3);
        (ppm[0], ppm[1], ppm[2]) = (first, second, uint32(Units.PPM) - first - second);
        _check(amount, ppm);
    }

    function check_four_contributors(uint128 amount, uint32 first, uint32 second, uint32 third) external view {
        vm.assume(uint256(first) + second + third <= Units.PPM);
        uint32[] memory ppm = new uint32[](4);
        (ppm[0], ppm[1], ppm[2]) = (first, second, third);
        ppm[3] = uint32(Units.PPM) - first - second - third;
        _check(amount, ppm);
    }

    function check_no_contributors_part_reverts(uint128 amount, uint32 first, uint32 second, uint256 j) external view {
        vm.assume(uint256(first) + second <= Units.PPM && j < 3);
        uint32[] memory ppm = new uint32[](3);
        (ppm[0], ppm[1], ppm[2]) = (first, second, uint32(Units.PPM) - first - second);
        try _splitter.contributorPart(amount, _list(ppm), j) {} catch {
            assert(false);
        }
    }

    /// @dev The remainder can be positive, and the second share can receive it.
    function refute_two_floored_parts_sum(uint128 amount, uint32 first) external view {
        vm.assume(first <= Units.PPM);
        bytes memory list = abi.encodePacked(uint32(0), first, uint32(1), uint32(Units.PPM) - first);
        assert(_splitter.contributorPart(amount, list, 1) == (uint256(amount) * (Units.PPM - first)) / 1e6);
    }

    function refute_the_operator_earns_of_the_whole_charge(uint128 charge, uint32 fee, uint32 operator) external view {
        vm.assume(fee <= Units.PPM && operator <= Units.PPM);
        assert(_splitter.partsOf(charge, fee, operator, 0).operator == (uint256(charge) * operator) / 1e6);
    }

    function _check(uint128 amount, uint32[] memory ppm) private view {
        bytes memory list = _list(ppm);
        uint256 owner = _ownerOfRemainder(ppm);
        uint256 sum = 0;
        for (uint256 j = 0; j < ppm.length; ++j) {
            uint256 part = _splitter.contributorPart(amount, list, j);
            assert(j == owner || part == (uint256(amount) * ppm[j]) / 1e6);
            sum += part;
        }
        assert(sum == amount);
    }

    function _list(uint32[] memory ppm) private pure returns (bytes memory list) {
        for (uint32 i = 0; i < ppm.length; ++i) {
            list = abi.encodePacked(list, i, ppm[i]);
        }
    }

    /// @dev The index of the largest share, the first one on a tie.
    function _ownerOfRemainder(uint32[] memory ppm) private pure returns (uint256 owner) {
        for (uint256 i = 1; i < ppm.length; ++i) {
            if (ppm[i] > ppm[owner]) owner = i;
        }
    }
}
