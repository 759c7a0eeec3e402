// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Spans} from "../../contracts/libraries/Spans.sol";
import {Base} from "./support/Base.sol";

contract Placer {
    function isMisplaced(
        bytes calldata spans,
        bytes32 channelId,
        uint128 cumulative,
        uint128 charge,
        uint128 prefix
    ) external pure returns (bool) {
        return Spans.isMisplaced(spans, channelId, cumulative, charge, prefix);
    }
}

contract SpansTest is Base {
    Placer private _placer = new Placer();

    struct Span {
        uint128 before;
        uint128 from;
        uint128 until;
        uint128 offset;
    }

    function test_a_receipt_at_its_position_is_not_misplaced(
        uint256 seed,
        uint256 count,
        uint256 k,
        uint128 begin,
        uint128 charge
    ) external view {
        count = bound(count, 1, 20);
        k = bound(k, 0, count - 1);
        (bytes memory spans, Span[] memory all) = _spans(seed, count);
        Span memory span = all[k];
        begin = uint128(bound(begin, span.from, span.until - 1));
        charge = uint128(bound(charge, 1, span.until - begin));
        vm.assertFalse(_isMisplaced(spans, k, begin, charge, span.offset + (begin - span.from)));
    }

    function test_any_other_prefix_is_misplaced(
        uint256 seed,
        uint256 k,
        uint128 begin,
        uint128 charge,
        uint128 prefix
    ) external view {
        k = bound(k, 0, 5);
        (bytes memory spans, Span[] memory all) = _spans(seed, 6);
        Span memory span = all[k];
        begin = uint128(bound(begin, span.from, span.until - 1));
        charge = uint128(bound(charge, 1, span.until - begin));
        uint128 right = span.offset + (begin - span.from);
        vm.assertEq(_isMisplaced(spans, k, begin, charge, prefix), prefix != right);
        vm.assertTrue(_isMisplaced(spans, k, begin, charge, right + 1));
        if (right != 0) vm.assertTrue(_isMisplaced(spans, k, begin, charge, right - 1));
    }

    function test_an_interval_that_exceeds_its_span_is_misplaced(
        uint256 seed,
        uint256 k,
        uint128 over
    ) external view {
        k = bound(k, 0, 5);
        (bytes memory spans, Span[] memory all) = _spans(seed, 6);
        Span memory span = all[k];
        over = uint128(bound(over, 1, span.from));
        uint128 batch = span.until - span.from;
        vm.assertFalse(_isMisplaced(spans, k, span.from, batch, span.offset));
        // It ends where the next channel's span begins, but names this channel.
        vm.assertTrue(_isMisplaced(spans, k, span.from, batch + over, span.offset));
        // It has the prefix that the interval would have, but it lies in the skipped or earlier interval.
        uint128 prefix = span.offset > over ? span.offset - over : span.offset;
        vm.assertTrue(_isMisplaced(spans, k, span.from - over, over, prefix));
        vm.assertTrue(_isMisplaced(spans, k, span.from - over, over + batch, span.offset));
    }

    function test_a_receipt_of_a_channel_without_span_is_misplaced(
        uint256 seed,
        bytes32 channelId,
        uint128 prefix
    ) external view {
        (bytes memory spans, ) = _spans(seed, 6);
        vm.assume(uint256(channelId) == 0 || uint256(channelId) > 6);
        vm.assertTrue(_placer.isMisplaced(spans, channelId, type(uint128).max, 1, prefix));
        vm.assertTrue(_placer.isMisplaced("", channelId, type(uint128).max, 1, prefix));
    }

    function test_an_interval_below_zero_is_misplaced(
        uint256 seed,
        uint128 cumulative,
        uint128 charge,
        uint128 prefix
    ) external view {
        vm.assume(cumulative < charge);
        (bytes memory spans, ) = _spans(seed, 6);
        vm.assertTrue(_placer.isMisplaced(spans, bytes32(uint256(1)), cumulative, charge, prefix));
    }

    function test_the_last_of_256_spans_is_found(uint256 seed) external view {
        (bytes memory spans, Span[] memory all) = _spans(seed, 256);
        for (uint256 k = 0; k < 256; k += 255) {
            Span memory span = all[k];
            vm.assertFalse(_isMisplaced(spans, k, span.from, span.until - span.from, span.offset));
            vm.assertTrue(_isMisplaced(spans, k, span.from, span.until - span.from, span.offset + 1));
        }
    }

    function test_the_largest_amounts_do_not_overflow() external view {
        uint128 max = type(uint128).max;
        bytes memory spans = abi.encodePacked(bytes32(uint256(1)), uint128(0), uint128(0), max);
        spans = abi.encodePacked(spans, bytes32(uint256(2)), uint128(0), uint128(0), max);
        vm.assertFalse(_placer.isMisplaced(spans, bytes32(uint256(1)), max, max, 0));
        vm.assertFalse(_placer.isMisplaced(spans, bytes32(uint256(2)), 1, 1, max));
        vm.assertTrue(_placer.isMisplaced(spans, bytes32(uint256(2)), max, 1, max));
    }

    function _isMisplaced(
        bytes memory spans,
        uint256 k,
        uint128 begin,
        uint128 charge,
        uint128 prefix
    ) private view returns (bool) {
        return _placer.isMisplaced(spans, bytes32(k + 1), begin + charge, charge, prefix);
    }

    /// @dev Channels 1, 2, ..., each with an earlier interval before its span, part of it skipped.
    function _spans(uint256 seed, uint256 count) private pure returns (bytes memory spans, Span[] memory all) {
        all = new Span[](count);
        uint128 offset = 0;
        bytes[] memory packed = new bytes[](count);
        for (uint256 k = 0; k < count; ++k) {
            uint256 draw = uint256(keccak256(abi.encode(seed, k)));
            uint128 before = uint64(draw);
            uint128 from = before + 1 + uint32(draw >> 64);
            uint128 until = from + 1 + uint64(draw >> 96);
            all[k] = Span(before, from, until, offset);
            packed[k] = abi.encodePacked(bytes32(k + 1), before, from, until);
            offset += until - from;
        }
        spans = new bytes(count * 80);
        for (uint256 i = 0; i < spans.length; ++i) {
            spans[i] = packed[i / 80][i % 80];
        }
    }
}
