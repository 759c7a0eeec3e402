// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ChannelId, IPaymentVault, Session, SessionGrant} from "./interfaces/IPaymentVault.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Signatures} from "./libraries/Signatures.sol";

/// @title Session keys
/// @notice The part of `PaymentVault` that manages the session keys of payers; see `IPaymentVault`.
abstract contract SessionKeys is IPaymentVault, EIP712, Nonces {
    uint64 private constant _MAX_THAW = 365 days;

    /// @inheritdoc IPaymentVault
    uint64 public immutable override thawSeconds;

    mapping(ChannelId channelId => mapping(address key => Session)) private _sessions;

    constructor(uint64 thawSeconds_) EIP712("loraledger", "1") {
        require(thawSeconds_ <= _MAX_THAW, ThawTooLong(thawSeconds_, _MAX_THAW));
        thawSeconds = thawSeconds_;
    }

    /// @inheritdoc IPaymentVault
    function grantSession(address operator, address collector, SessionGrant calldata grant) external {
        _grant(Hashing.channelId(msg.sender, operator, collector), grant);
    }

    /// @inheritdoc IPaymentVault
    function grantSessionWithSig(
        address payer,
        address operator,
        address collector,
        SessionGrant calldata grant,
        uint256 nonce,
        bytes calldata signature
    ) external {
        ChannelId channelId = Hashing.channelId(payer, operator, collector);
        _useSignature(payer, Hashing.sessionGrant(channelId, grant, nonce), nonce, signature);
        _grant(channelId, grant);
    }

    /// @inheritdoc IPaymentVault
    function revokeSession(address operator, address collector, address key) external {
        _revoke(Hashing.channelId(msg.sender, operator, collector), key);
    }

    /// @inheritdoc IPaymentVault
    function revokeSessionWithSig(
        address payer,
        address operator,
        address collector,
        address key,
        uint256 nonce,
        bytes calldata signature
    ) external {
        ChannelId channelId = Hashing.channelId(payer, operator, collector);
        _useSignature(payer, Hashing.sessionRevocation(channelId, key, nonce), nonce, signature);
        _revoke(channelId, key);
    }

    /// @inheritdoc IPaymentVault
    function sessionOf(ChannelId channelId, address key) external view returns (Session memory) {
        return _sessions[channelId][key];
    }

    // --- internal ---

    function _grantIfPresent(ChannelId channelId, SessionGrant calldata grant) internal {
        if (grant.key != address(0)) _grant(channelId, grant);
    }

    /// @notice Reverts unless `key` may sign for the channel up to `until`, and its vouchers are collectable now.
    function _checkSession(ChannelId channelId, address key, uint128 until) internal view {
        Session storage session = _sessions[channelId][key];
        (uint128 cap, uint64 expiry) = (session.cap, session.expiry);
        require(expiry != 0, NotAuthorised(channelId, key));
        uint256 collectableUntil = uint256(expiry) + thawSeconds;
        // The error is raised only if `collectableUntil` is in the past, so that it fits into 64 bits.
        require(block.timestamp <= collectableUntil, VouchersExpired(channelId, key, uint64(collectableUntil)));
        require(until <= cap, CapExceeded(channelId, key, cap, until));
    }

    function _useSignature(address payer, bytes32 structHash, uint256 nonce, bytes calldata signature) private {
        _useCheckedNonce(payer, nonce);
        require(Signatures.isValid(payer, _hashTypedDataV4(structHash), signature), InvalidSignature(payer));
    }

    function _grant(ChannelId channelId, SessionGrant calldata grant) private {
        (address key, uint128 cap, uint64 expiry) = (grant.key, grant.cap, grant.expiry);
        Session storage session = _sessions[channelId][key];
        require(key != address(0), ZeroAddress());
        require(!session.isRevoked, SessionIsRevoked(key));
        require(cap >= session.cap, CapLowered(key, session.cap, cap));
        require(expiry >= session.expiry, ExpiryLowered(key, session.expiry, expiry));
        require(expiry > block.timestamp, ExpiryPassed(key, expiry));
        session.cap = cap;
        session.expiry = expiry;
        emit SessionGranted(channelId, key, cap, expiry);
    }

    function _revoke(ChannelId channelId, address key) private {
        Session storage session = _sessions[channelId][key];
        uint64 expiry = session.expiry;
        require(key != address(0), ZeroAddress());
        require(!session.isRevoked, SessionIsRevoked(key));
        if (expiry > block.timestamp) expiry = uint64(block.timestamp);
        session.expiry = expiry;
        session.isRevoked = true;
        // A key that was never granted keeps expiry zero, so that its vouchers stay uncollectable.
        emit SessionRevoked(channelId, key, expiry == 0 ? 0 : expiry + thawSeconds);
    }
}
