// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @title Spans
/// @notice Checks the position of a receipt against the spans of its batch: the preimage of `spansHash`, 80 bytes each:
/// channelId 32, before 16, from 16, until 16. The vault ensured `before <= from < until` when it collected them.
library Spans {
    uint256 private constant _SPAN_SIZE = 80;

    /// @notice Returns whether a receipt is not at its position in the batch. The spans of a batch, in order, divide
    /// its total `[0, total)`, and the receipts of a channel, in order, divide its span.
    /// @param spans The batch's spans.
    /// @param channelId Channel of the receipt.
    /// @param cumulative End of the receipt's interval in the channel.
    /// @param charge Length of the interval.
    /// @param prefix Sum of the receipts with lower indices in the batch.
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

    /// @notice Finds the span of a channel.
    /// @return isFound Whether the channel has a span.
    /// @return offset Sum of the spans before it.
    /// @return from Start of the paid interval.
    /// @return until End of the paid interval.
    function _find(
        bytes calldata spans,
        bytes32 channelId
    ) private pure returns (bool isFound, uint256 offset, uint128 from, uint128 until) {
        for (uint256 at = 0; at < spans.length; at += _SPAN_SIZE) {
            bytes32 last = bytes32(spans[at + 48:at + _SPAN_SIZE]);
            (from, until) = (uint128(bytes16(last)), uint128(uint256(last)));
            if (bytes32(spans[at:at + 32]) == channelId) return (true, offset, from, until);
            offset += until - from;
        }
    }
}
