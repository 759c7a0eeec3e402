// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {
    Channel,
    ChannelId,
    ChannelMove,
    Refund,
    Session,
    SessionGrant
} from "../../../contracts/interfaces/IPaymentVault.sol";
import {Hashing} from "../../../contracts/libraries/Hashing.sol";
import {SmallBatches} from "./SmallBatches.sol";

/// @notice The expected state of a channel, in micro-units.
/// @param moved Amount moved to the channel under another collector.
/// @param paid Amount collected by its batches, less the refunds of voided ones.
/// @param line Expected `collected`.
/// @param signed The highest voucher that payer or session key signed.
struct Account {
    uint256 deposited;
    uint256 withdrawn;
    uint256 moved;
    uint256 paid;
    uint256 line;
    uint256 signed;
}

/// @notice Moves of payers, with two payers and two operators. A move that is not possible does nothing; any other must
/// not revert.
abstract contract PayerMoves is SmallBatches {
    string private constant _SECOND_RECEIPT_KEY = "receipt key of the second operator";

    string[2] private _payers = ["payer", "second payer"];
    string[2] private _operators = ["operator", "second operator"];

    /// @notice Number of successful moves by selector, without those that did nothing.
    mapping(bytes4 move => uint256 times) public made;
    uint256 public numTried;

    mapping(bytes32 channel => Account) internal batches;
    /// @dev Index of the session key: revocations are permanent, so each one is followed by a new key.
    mapping(bytes32 channel => uint256) private _numRevoked;

    /// @dev Processes the events of every move.
    modifier move() {
        vm.recordLogs();
        ++numTried;
        _;
        readEvents();
    }

    function setUp() public virtual override {
        vm.recordLogs();
        super.setUp();
        batches[_id()].deposited = DEPOSIT_UNITS * MICRO;
        chooseOperator(1);
        addStake(operator, STAKE_UNITS);
        addReceiptKey(operator, _SECOND_RECEIPT_KEY);
        readEvents();
    }

    function pay(uint256 payerIndex, uint256 operatorIndex, uint256 units, uint256 cap) external move {
        choose(payerIndex, operatorIndex);
        units = bound(units, 1, DEPOSIT_UNITS);
        deposit(units, cap % 2 == 1 ? _nextGrant(cap, 0) : noGrant());
        batches[_id()].deposited += units * MICRO;
        _done();
    }

    function grant(uint256 payerIndex, uint256 operatorIndex, uint256 cap, uint256 life) external move {
        choose(payerIndex, operatorIndex);
        SessionGrant memory next = _nextGrant(cap, life);
        vm.prank(payer);
        vault.grantSession(operator, collector, next);
        _done();
    }

    function revoke(uint256 payerIndex, uint256 operatorIndex) external move {
        choose(payerIndex, operatorIndex);
        address key = vm.addr(sessionKeyOf(_id()));
        vm.prank(payer);
        vault.revokeSession(operator, collector, key);
        ++_numRevoked[_id()];
        _done();
    }

    function startThaw(uint256 payerIndex, uint256 operatorIndex, uint256 amount) external move {
        choose(payerIndex, operatorIndex);
        Channel memory state = vault.channelOf(channel());
        uint128 leaving = uint128(bound(amount, 0, state.balance));
        if (leaving == 0 && state.thawedAt == 0) return;
        vm.prank(payer);
        vault.thaw(operator, collector, leaving);
        _done();
    }

    function withdraw(uint256 payerIndex, uint256 operatorIndex) external move {
        choose(payerIndex, operatorIndex);
        Channel memory state = vault.channelOf(channel());
        uint128 amount = state.thawing < state.balance ? state.thawing : state.balance;
        if (state.thawedAt == 0 || amount < MICRO) return;
        if (block.timestamp < state.thawedAt) vm.warp(state.thawedAt);
        vm.prank(payer);
        uint128 left = vault.withdraw(operator, collector);
        vm.assertEq(left, (amount / MICRO) * MICRO);
        batches[_id()].withdrawn += left;
        _done();
    }

    function moveBalance(uint256 payerIndex, uint256 operatorIndex, uint256 amount) external move {
        choose(payerIndex, operatorIndex);
        uint128 balance = vault.channelOf(channel()).balance;
        if (balance == 0) return;
        uint128 moving = uint128(bound(amount, 1, amount % 4 == 0 ? balance : balance / 8 + 1));
        ChannelMove memory consent;
        (consent.collector, consent.newCollector) = (collector, otherCollector());
        (consent.maxAmount, consent.nonce, consent.deadline) = (moving, vault.nonces(payer), block.timestamp);
        bytes32 structHash = this.hashMove(payer, operator, consent);
        bytes memory signature = sign(keyOf(payerName), typedDigest(address(vault), structHash));
        vm.prank(operator);
        vault.moveBalance(payer, consent, moving, signature);
        batches[_id()].moved += moving;
        _done();
    }

    // --- helpers of other moves ---

    /// @dev External, because `Hashing` takes the consent from calldata.
    function hashMove(address from, address to, ChannelMove calldata consent) external pure returns (bytes32) {
        return Hashing.channelMove(from, to, consent);
    }

    /// @notice The collector to whose channels balances are moved.
    function otherCollector() internal pure returns (address) {
        return vm.addr(keyOf("other collector"));
    }

    /// @notice The channel to which balance of `channelAt(i)` is moved.
    function movedChannelAt(uint256 i) internal view returns (bytes32) {
        return ChannelId.unwrap(vault.channelIdOf(payerAt(i / 2), operatorAt(i), otherCollector()));
    }

    function choose(uint256 payerIndex, uint256 operatorIndex) internal {
        payerName = _payers[payerIndex % 2];
        payer = accountOf(payerName);
        chooseOperator(operatorIndex);
    }

    function chooseOperator(uint256 operatorIndex) internal {
        operator = accountOf(_operators[operatorIndex % 2]);
    }

    function payerAt(uint256 i) internal view returns (address) {
        return vm.addr(keyOf(_payers[i % 2]));
    }

    function operatorAt(uint256 i) internal view returns (address) {
        return vm.addr(keyOf(_operators[i % 2]));
    }

    /// @notice The operator's receipt key.
    function receiptKeyAt(uint256 i) internal pure returns (uint256) {
        return keyOf(i % 2 == 0 ? "receipt key" : _SECOND_RECEIPT_KEY);
    }

    /// @notice Channel `i` of four.
    function channelAt(uint256 i) internal view returns (bytes32) {
        return ChannelId.unwrap(vault.channelIdOf(payerAt(i / 2), operatorAt(i), collector));
    }

    /// @notice The private key of the channel's session.
    function sessionKeyOf(bytes32 id) internal view returns (uint256) {
        return bound(uint256(keccak256(abi.encode(id, _numRevoked[id]))), 1, CURVE_ORDER - 1);
    }

    /// @notice Returns the signer of a voucher up to `until`: the session key if requested and allowed, else the payer.
    function signerOf(uint128 until, bool isSession) internal view returns (uint256 privateKey) {
        privateKey = sessionKeyOf(_id());
        Session memory session = vault.sessionOf(channel(), vm.addr(privateKey));
        bool isOver = block.timestamp > uint256(session.expiry) + THAW;
        if (!isSession || session.expiry == 0 || isOver || until > session.cap) return keyOf(payerName);
    }

    /// @notice Maps `seed` to an amount up to `max`, with small amounts as likely as large ones.
    function amountOf(uint256 seed, uint256 max) internal pure returns (uint128) {
        uint256 ceiling = seed % 4 == 0 ? 9 : seed % 4 == 1 ? 3 * MICRO : max;
        return uint128(bound(seed >> 2, 1, ceiling < max ? ceiling : max));
    }

    function recordSpan(Refund memory span, bool isUndone) internal {
        Account storage kept = batches[ChannelId.unwrap(vault.channelIdOf(span.payer, operator, collector))];
        uint256 amount = span.until - span.from;
        kept.paid = isUndone ? kept.paid - amount : kept.paid + amount;
        kept.line = isUndone ? span.before : span.until;
        if (kept.signed < span.until) kept.signed = span.until;
    }

    function _done() internal {
        ++made[msg.sig];
    }

    function _id() private view returns (bytes32) {
        return ChannelId.unwrap(channel());
    }

    /// @dev The next grant to a key does not lower its cap or expiry.
    function _nextGrant(uint256 cap, uint256 life) private view returns (SessionGrant memory next) {
        next.key = vm.addr(sessionKeyOf(_id()));
        Session memory session = vault.sessionOf(channel(), next.key);
        next.cap = uint128(cap) < session.cap ? session.cap : uint128(cap);
        next.expiry = uint64(block.timestamp + bound(life, 1, 2 * THAW));
        if (next.expiry < session.expiry) next.expiry = session.expiry;
    }
}
