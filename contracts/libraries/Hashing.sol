// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {BatchHeader, EntryKey, Receipt} from "../interfaces/ISettlement.sol";
import {ChannelId, ChannelMove, SessionGrant} from "../interfaces/IPaymentVault.sol";
import {Contribution, SnapshotId} from "../interfaces/IDatasetRegistry.sol";
import {VersionId, VersionRecord} from "../interfaces/IAdapterRegistry.sol";

/// @title Hashing
/// @notice Computes the ids, keys and struct hashes that docs/protocol.md specifies.
library Hashing {
    bytes32 private constant _RECEIPT_TYPEHASH =
        keccak256(
            "Receipt(bytes32 channelId,uint128 cumulative,uint128 charge,bytes32 requestHash,bytes32 responseHash,"
            "bytes32 slicesHash,uint32 promptTokens,uint32 completionTokens,bytes32 attributionHash,uint64 servedAt)"
        );
    bytes32 private constant _VOUCHER_TYPEHASH =
        keccak256("Voucher(bytes32 channelId,uint128 from,uint128 maxCumulative)");
    bytes32 private constant _SESSION_GRANT_TYPEHASH =
        keccak256("SessionGrant(bytes32 channelId,address key,uint128 cap,uint64 expiry,uint256 nonce)");
    bytes32 private constant _SESSION_REVOCATION_TYPEHASH =
        keccak256("SessionRevocation(bytes32 channelId,address key,uint256 nonce)");
    bytes32 private constant _CHANNEL_MOVE_TYPEHASH =
        keccak256(
            "ChannelMove(address payer,address operator,address collector,address newCollector,uint128 maxAmount,"
            "address key,uint128 cap,uint64 expiry,uint256 nonce,uint256 deadline)"
        );
    bytes32 private constant _CONTRIBUTION_TYPEHASH =
        keccak256(
            "Contribution(address account,uint64 datanetId,bytes32 contentHash,bytes32 cidDigest,bytes32 licence,"
            "uint32 rows,uint256 nonce,uint256 deadline)"
        );
    bytes32 private constant _PAYOUT_CHANGE_TYPEHASH =
        keccak256("PayoutChange(address account,address newWallet,uint256 nonce,uint256 deadline)");
    bytes32 private constant _RECEIPT_KEY_TYPEHASH = keccak256("ReceiptKey(address operator)");

    uint256 private constant _SPAN_SIZE = 80;
    uint256 private constant _HEADER_SIZE = 18 * 32;

    function channelId(address payer, address operator, address collector) internal pure returns (ChannelId) {
        return ChannelId.wrap(_hash(account(payer), account(operator), account(collector)));
    }

    function depositNonce(
        ChannelId channel,
        SessionGrant calldata grant,
        bytes32 salt
    ) internal pure returns (bytes32) {
        return keccak256(abi.encode(channel, grant.key, grant.cap, grant.expiry, salt));
    }

    function snapshotId(uint64 datanetId, uint32 count, bytes32 acceptedHash) internal pure returns (SnapshotId) {
        return SnapshotId.wrap(keccak256(abi.encode(datanetId, count, acceptedHash)));
    }

    function versionId(VersionRecord memory record) internal pure returns (VersionId) {
        return VersionId.wrap(keccak256(abi.encode(record)));
    }

    /// @notice `keccak256(abi.encode(header))`.
    function batch(BatchHeader memory header) internal pure returns (bytes32 hash) {
        // The memory layout of a struct without dynamic fields equals its `abi.encode`: one cleaned word per field.
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            hash := keccak256(header, _HEADER_SIZE)
        }
    }

    function voucher(ChannelId channel, uint128 from, uint128 maxCumulative) internal pure returns (bytes32) {
        return keccak256(abi.encode(_VOUCHER_TYPEHASH, channel, from, maxCumulative));
    }

    function sessionGrant(
        ChannelId channel,
        SessionGrant calldata grant,
        uint256 nonce
    ) internal pure returns (bytes32) {
        return keccak256(abi.encode(_SESSION_GRANT_TYPEHASH, channel, grant, nonce));
    }

    function sessionRevocation(ChannelId channel, address key, uint256 nonce) internal pure returns (bytes32) {
        return keccak256(abi.encode(_SESSION_REVOCATION_TYPEHASH, channel, key, nonce));
    }

    /// @notice Returns the EIP-712 struct hash of a move, in which the grant's fields stand in place of the grant.
    function channelMove(address payer, address operator, ChannelMove calldata move) internal pure returns (bytes32) {
        return keccak256(abi.encode(_CHANNEL_MOVE_TYPEHASH, payer, operator, move));
    }

    /// @notice Returns the EIP-712 struct hash of a contribution, whose contributor is `contributor`.
    function contribution(
        address contributor,
        Contribution memory content,
        uint256 nonce,
        uint256 deadline
    ) internal pure returns (bytes32) {
        return keccak256(abi.encode(_CONTRIBUTION_TYPEHASH, contributor, content, nonce, deadline));
    }

    function payoutChange(
        address earner,
        address newWallet,
        uint256 nonce,
        uint256 deadline
    ) internal pure returns (bytes32) {
        return keccak256(abi.encode(_PAYOUT_CHANGE_TYPEHASH, earner, newWallet, nonce, deadline));
    }

    function receiptKey(address operator) internal pure returns (bytes32) {
        return keccak256(abi.encode(_RECEIPT_KEY_TYPEHASH, operator));
    }

    /// @notice Returns the EIP-712 struct hash of a receipt, which is its key in the receipts tree.
    function receipt(Receipt memory r) internal pure returns (bytes32) {
        return keccak256(abi.encode(_RECEIPT_TYPEHASH, r));
    }

    /// @notice Returns the key of an entry in the entries tree.
    function entry(EntryKey calldata key) internal pure returns (bytes32) {
        return entryKey(key.account, key.receiptIndex, key.slice, key.part);
    }

    /// @notice Returns the key of an entry in the entries tree, packed into one word.
    function entryKey(
        address earner,
        uint32 receiptIndex,
        uint16 slice,
        uint16 part
    ) internal pure returns (bytes32) {
        uint256 position = (uint256(receiptIndex) << 32) | (uint256(slice) << 16) | part;
        return bytes32((uint256(uint160(earner)) << 64) | position);
    }

    /// @notice Returns the key of an account in the balances tree.
    function account(address earner) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(earner)));
    }

    /// @notice Allocates `count` packed spans, to be written by `writeSpan` and hashed.
    function newSpans(uint256 count) internal pure returns (bytes memory) {
        return new bytes(count * _SPAN_SIZE);
    }

    /// @notice Writes span `i` as channelId 32, before 16, from 16, until 16.
    function writeSpan(
        bytes memory spans,
        uint256 i,
        ChannelId channel,
        uint128 before,
        uint128 from,
        uint128 until
    ) internal pure {
        // The last word holds `from` and `until`. The word of `before` ends where that word begins, and its upper half
        // is overwritten by the channel.
        uint256 offset = 32 + i * _SPAN_SIZE;
        uint256 last = (uint256(from) << 128) | until;
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let span := add(spans, offset)
            mstore(add(span, 16), before)
            mstore(span, channel)
            mstore(add(span, 48), last)
        }
    }

    /// @notice `keccak256(abi.encode(a, b, c))`.
    function _hash(bytes32 a, bytes32 b, bytes32 c) private pure returns (bytes32 hash) {
        // The three words are written after the free memory pointer without allocating them.
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            let words := mload(0x40)
            mstore(words, a)
            mstore(add(words, 32), b)
            mstore(add(words, 64), c)
            hash := keccak256(words, 96)
        }
    }
}
