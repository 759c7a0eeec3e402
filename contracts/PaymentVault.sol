// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {
    Authorization,
    Channel,
    ChannelId,
    ChannelMove,
    Collection,
    IPaymentVault,
    Refund,
    Session,
    SessionGrant
} from "./interfaces/IPaymentVault.sol";
import {IReceiveWithAuthorization} from "./interfaces/IReceiveWithAuthorization.sol";
import {ExactTransfer} from "./libraries/ExactTransfer.sol";
import {Hashing} from "./libraries/Hashing.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Units} from "./libraries/Units.sol";

/// @title Payment vault
/// @notice See `IPaymentVault`.
contract PaymentVault is IPaymentVault, EIP712, Nonces {
    using SafeERC20 for IERC20;
    using ExactTransfer for IERC20;

    /// @dev The balance of a pot and the total ever paid out of it.
    struct Pot {
        uint128 amount;
        uint128 paid;
    }

    /// @dev The `uint64` prices of versions and the bounds of governed amounts are meant for this many decimals.
    uint8 private constant _DECIMALS = 6;
    /// @dev Shorter than the 29 days for which an operator that wants to disown its receipts must hold them back, so
    /// that payers can withdraw first; see `OperatorRegistry`.
    uint64 private constant _MAX_THAW = 28 days;

    /// @inheritdoc IPaymentVault
    IERC20 public immutable override token;
    /// @inheritdoc IPaymentVault
    uint64 public immutable override thawSeconds;

    mapping(ChannelId channelId => Channel) private _channels;
    mapping(ChannelId channelId => mapping(address key => Session)) private _sessions;
    mapping(address collector => mapping(address operator => Pot)) private _pots;

    /// @dev One while a `nonReentrant` function runs.
    uint256 private transient _isEntered;

    /// @dev Equivalent to OpenZeppelin's guard with less gas, because top-ups are the most frequent transaction of
    /// payers.
    modifier nonReentrant() {
        require(_isEntered == 0, ReentrancyGuardReentrantCall());
        _isEntered = 1;
        _;
        _isEntered = 0;
    }

    constructor(IERC20 token_, uint64 thawSeconds_) EIP712("loraledger", "1") {
        require(thawSeconds_ <= _MAX_THAW, ThawTooLong(thawSeconds_, _MAX_THAW));
        require(address(token_) != address(0), ZeroAddress());
        uint8 decimals = IERC20Metadata(address(token_)).decimals();
        require(decimals == _DECIMALS, UnsupportedDecimals(address(token_), decimals));
        (token, thawSeconds) = (token_, thawSeconds_);
    }

    // --- payers: deposits ---

    /// @inheritdoc IPaymentVault
    function deposit(
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant
    ) external nonReentrant returns (ChannelId channelId) {
        channelId = _credit(msg.sender, operator, collector, Units.toAmount(units));
        _grantIfPresent(channelId, grant);
        token.pull(units);
    }

    /// @inheritdoc IPaymentVault
    function depositWithAuthorization(
        address payer,
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant,
        Authorization calldata authorization
    ) external nonReentrant returns (ChannelId channelId) {
        channelId = _credit(payer, operator, collector, Units.toAmount(units));
        _grantIfPresent(channelId, grant);
        uint256 before = token.balance();
        _receive(payer, units, Hashing.depositNonce(channelId, grant, authorization.salt), authorization);
        token.checkReceived(before, units);
    }

    // --- payers: session keys ---

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
    function cancelNonce(uint256 nonce) external {
        _useCheckedNonce(msg.sender, nonce);
    }

    // --- payers: withdrawals ---

    /// @inheritdoc IPaymentVault
    function thaw(address operator, address collector, uint128 amount) external {
        ChannelId channelId = Hashing.channelId(msg.sender, operator, collector);
        Channel storage channel = _channels[channelId];
        require(amount <= channel.balance, InsufficientBalance(channelId, channel.balance, amount));
        require(amount != 0 || channel.thawedAt != 0, NothingThawing(channelId));
        uint64 thawedAt = amount == 0 ? 0 : uint64(block.timestamp) + thawSeconds;
        channel.thawing = amount;
        channel.thawedAt = thawedAt;
        emit ThawStarted(channelId, amount, thawedAt);
    }

    /// @inheritdoc IPaymentVault
    function withdraw(address operator, address collector) external nonReentrant returns (uint128 amount) {
        ChannelId channelId = Hashing.channelId(msg.sender, operator, collector);
        Channel storage channel = _channels[channelId];
        (uint128 balance, uint128 thawing, uint64 thawedAt) = (channel.balance, channel.thawing, channel.thawedAt);
        require(thawedAt != 0, NothingThawing(channelId));
        require(block.timestamp >= thawedAt, StillThawing(channelId, thawedAt));
        // A collection during the thaw may have reduced the balance below the thawing amount.
        uint256 units = Units.toUnitsDown(thawing < balance ? thawing : balance);
        require(units != 0, ZeroAmount());
        amount = Units.toAmount(units);
        channel.balance = balance - amount;
        channel.thawing = 0;
        channel.thawedAt = 0;
        emit Withdrawn(channelId, msg.sender, amount);
        token.safeTransfer(msg.sender, units);
    }

    // --- operators ---

    /// @inheritdoc IPaymentVault
    function moveBalance(
        address payer,
        ChannelMove calldata move,
        uint128 amount,
        bytes calldata signature
    ) external returns (ChannelId newChannelId) {
        require(amount <= move.maxAmount, MoveExceeded(move.maxAmount, amount));
        require(block.timestamp <= move.deadline, SignatureExpired(move.deadline));
        _useSignature(payer, Hashing.channelMove(payer, msg.sender, move), move.nonce, signature);
        ChannelId channelId = Hashing.channelId(payer, msg.sender, move.collector);
        Channel storage channel = _channels[channelId];
        uint128 balance = channel.balance;
        require(amount <= balance, InsufficientBalance(channelId, balance, amount));
        channel.balance = balance - amount;
        newChannelId = Hashing.channelId(payer, msg.sender, move.newCollector);
        emit BalanceMoved(channelId, newChannelId, amount, move.nonce);
        _credit(payer, msg.sender, move.newCollector, amount);
        _grantIfPresent(newChannelId, move.grant);
    }

    // --- collectors ---

    /// @inheritdoc IPaymentVault
    function collect(
        address operator,
        Collection[] calldata collections
    ) external returns (uint128 total, bytes32 spansHash, uint128 pot) {
        bytes32 domain = _domainSeparatorV4();
        bytes memory spans = Hashing.newSpans(collections.length);
        ChannelId previous = ChannelId.wrap(0);
        for (uint256 i = 0; i < collections.length; ++i) {
            Collection memory collection = collections[i];
            ChannelId channelId = Hashing.channelId(collection.payer, operator, msg.sender);
            require(ChannelId.unwrap(channelId) > ChannelId.unwrap(previous), ChannelsNotAscending(channelId));
            uint128 from = _collect(domain, channelId, collection);
            Hashing.writeSpan(spans, i, channelId, collection.before, from, collection.until);
            total += collection.until - from;
            previous = channelId;
        }
        spansHash = keccak256(spans);
        Pot storage stored = _pots[msg.sender][operator];
        pot = stored.amount + total;
        stored.amount = pot;
    }

    /// @inheritdoc IPaymentVault
    function refund(
        address operator,
        Refund[] calldata refunds
    ) external returns (uint128 total, bytes32 spansHash) {
        bytes memory spans = Hashing.newSpans(refunds.length);
        for (uint256 i = 0; i < refunds.length; ++i) {
            Refund calldata item = refunds[i];
            ChannelId channelId = Hashing.channelId(item.payer, operator, msg.sender);
            total += _refund(channelId, item.before, item.from, item.until);
            Hashing.writeSpan(spans, i, channelId, item.before, item.from, item.until);
        }
        spansHash = keccak256(spans);
        Pot storage stored = _pots[msg.sender][operator];
        uint128 pot = stored.amount;
        require(total <= pot, InsufficientPot(pot, total));
        stored.amount = pot - total;
    }

    /// @inheritdoc IPaymentVault
    function payOut(address operator, address to, uint256 units, uint128 limit) external nonReentrant {
        require(to != address(0) && to != address(this), InvalidRecipient(to));
        uint128 amount = Units.toAmount(units);
        require(amount != 0, ZeroAmount());
        Pot storage stored = _pots[msg.sender][operator];
        (uint128 pot, uint128 paid) = (stored.amount, stored.paid);
        require(paid <= limit && amount <= limit - paid, PayoutLimitExceeded(paid, amount, limit));
        require(amount <= pot, InsufficientPot(pot, amount));
        (stored.amount, stored.paid) = (pot - amount, paid + amount);
        // The token logs the transfer and the collector logs its reason.
        token.safeTransfer(to, units);
    }

    // --- views ---

    /// @inheritdoc IPaymentVault
    function channelIdOf(address payer, address operator, address collector) external pure returns (ChannelId) {
        return Hashing.channelId(payer, operator, collector);
    }

    /// @inheritdoc IPaymentVault
    function channelOf(ChannelId channelId) external view returns (Channel memory) {
        return _channels[channelId];
    }

    /// @inheritdoc IPaymentVault
    function sessionOf(ChannelId channelId, address key) external view returns (Session memory) {
        return _sessions[channelId][key];
    }

    /// @inheritdoc IPaymentVault
    function potOf(address collector, address operator) external view returns (uint128) {
        return _pots[collector][operator].amount;
    }

    /// @inheritdoc IPaymentVault
    function depositNonce(
        ChannelId channelId,
        SessionGrant calldata grant,
        bytes32 salt
    ) external pure returns (bytes32) {
        return Hashing.depositNonce(channelId, grant, salt);
    }

    // --- deposits, internal ---

    /// @dev Credits before the tokens arrive: nothing that pays out can run before the balance is checked.
    function _credit(
        address payer,
        address operator,
        address collector,
        uint128 amount
    ) private returns (ChannelId channelId) {
        require(operator != address(0) && collector != address(0), ZeroAddress());
        require(amount != 0, ZeroAmount());
        channelId = Hashing.channelId(payer, operator, collector);
        Channel storage channel = _channels[channelId];
        (uint128 balance, uint128 collected) = (channel.balance, channel.collected);
        (channel.balance, channel.collected) = (balance + amount, collected);
        if (balance | collected == 0) emit ChannelOpened(channelId, payer, operator, collector);
        emit Deposited(channelId, amount);
    }

    function _receive(address payer, uint256 units, bytes32 nonce, Authorization calldata authorization) private {
        (uint256 validAfter, uint256 validBefore) = (authorization.validAfter, authorization.validBefore);
        bytes calldata signature = authorization.signature;
        if (signature.length == 65) {
            IERC3009(address(token)).receiveWithAuthorization(
                payer,
                address(this),
                units,
                validAfter,
                validBefore,
                nonce,
                uint8(signature[64]),
                bytes32(signature[:32]),
                bytes32(signature[32:64])
            );
        } else {
            IReceiveWithAuthorization(address(token)).receiveWithAuthorization(
                payer,
                address(this),
                units,
                validAfter,
                validBefore,
                nonce,
                signature
            );
        }
    }

    // --- collection, internal ---

    /// @notice Collects one voucher.
    /// @return from Start of the paid interval.
    function _collect(
        bytes32 domain,
        ChannelId channelId,
        Collection memory collection
    ) private returns (uint128 from) {
        (uint128 before, uint128 until) = (collection.before, collection.until);
        Channel storage channel = _channels[channelId];
        (uint128 balance, uint128 collected) = (channel.balance, channel.collected);
        from = collection.from > before ? collection.from : before;
        require(before == collected, CollectedMismatch(channelId, collected, before));
        require(until > from, NothingToCollect(channelId, from, until));
        require(until <= collection.maxCumulative, VoucherExceeded(channelId, collection.maxCumulative, until));
        require(until - from <= balance, InsufficientBalance(channelId, balance, until - from));
        _checkVoucher(domain, channelId, collection);
        channel.balance = balance - (until - from);
        channel.collected = until;
        emit Collected(channelId, before, from, until);
    }

    /// @notice Reverts the latest collection of a channel. The calling function reduces the pot.
    /// @return amount Amount returned to the channel, in micro-units.
    function _refund(
        ChannelId channelId,
        uint128 before,
        uint128 from,
        uint128 until
    ) private returns (uint128 amount) {
        Channel storage channel = _channels[channelId];
        (uint128 balance, uint128 collected) = (channel.balance, channel.collected);
        require(before <= from && from < until, NothingToRefund(channelId, before, from, until));
        require(until == collected, CollectedMismatch(channelId, collected, until));
        amount = until - from;
        channel.balance = balance + amount;
        channel.collected = before;
        emit Refunded(channelId, amount, before);
    }

    function _checkVoucher(bytes32 domain, ChannelId channelId, Collection memory collection) private view {
        bytes32 structHash = Hashing.voucher(channelId, collection.from, collection.maxCumulative);
        bytes32 digest = MessageHashUtils.toTypedDataHash(domain, structHash);
        (address signer, , ) = ECDSA.tryRecover(digest, collection.r, collection.vs);
        require(signer != address(0), NotAuthorised(channelId, signer));
        if (signer != collection.payer) _checkSession(channelId, signer, collection.until);
    }

    // --- session keys, internal ---

    function _grantIfPresent(ChannelId channelId, SessionGrant calldata grant) private {
        if (grant.key != address(0)) _grant(channelId, grant);
    }

    /// @dev Reverts unless `key` may sign for the channel up to `until`, and its vouchers are collectable now.
    function _checkSession(ChannelId channelId, address key, uint128 until) private view {
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
