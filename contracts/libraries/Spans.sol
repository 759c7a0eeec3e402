// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @title Spans
/// @notice Where a receipt must stand: the packed spans of a batch as its `spansHash` covers them, 80 bytes each:
/// channelId 32, before 16, from 16, until 16. Each has `before <= from < until`, as the vault collected it.
library Spans {
    uint256 private constant _SPAN = 80;

    /// @notice Whether a receipt is off its place on the batch's line. The money of a batch is the interval
    /// `[0, total)`, cut into spans in their order and each span into its receipts.
    /// @param spans The batch's spans.
    /// @param channelId The receipt's channel.
    /// @param cumulative The end of its interval on the channel's line.
    /// @param charge The interval's length.
    /// @param prefix The sum of all receipts left of it in the batch.
    function isMisplaced(
        bytes calldata spans,
        bytes32 channelId,
        uint128 cumulative,
        uint128 charge,
        uint128 prefix
    ) internal pure returns (bool) {
        if (cumulative < charge) return true;
        (bool isFound, uint256 offset, uint128 from, uint128 until) = _find(spans, channelId);
        uint128 begin = cumulative - charge;
        if (!isFound || begin < from || cumulative > until) return true;
        return prefix != offset + (begin - from);
    }

    /// @notice The span of a channel.
    /// @return isFound Whether the channel has a span.
    /// @return offset The sum of the spans before it.
    /// @return from Where its paid interval begins.
    /// @return until Where it ends.
    function _find(
        bytes calldata spans,
        bytes32 channelId
    ) private pure returns (bool isFound, uint256 offset, uint128 from, uint128 until) {
        for (uint256 at = 0; at < spans.length; at += _SPAN) {
            bytes32 last = bytes32(spans[at + 48:at + _SPAN]);
            (from, until) = (uint128(bytes16(last)), uint128(uint256(last)));
            if (bytes32(spans[at:at + 32]) == channelId) return (true, offset, from, until);
            offset += until - from;
        }
    }
}
