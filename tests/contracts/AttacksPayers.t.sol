// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {
    Authorization,
    Collection,
    IPaymentVault,
    SessionGrant
} from "../../contracts/interfaces/IPaymentVault.sol";
import {Commitment, ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Batches} from "./support/Batches.sol";

/// @notice Attacks by payers, on payers and with payers' signatures.
contract AttacksPayersTest is Batches {
    uint128 private constant _DEPOSIT = uint128(DEPOSIT_UNITS) * MICRO;

    function test_a_replayed_voucher_collects_nothing_twice(uint128 amount) external {
        amount = uint128(bound(amount, 1, _DEPOSIT / 2));
        Collection[] memory vouchers = collections(amount);
        commit(commitmentOf(amount, oneBalance(operator, amount)), vouchers);
        Commitment memory again = commitmentOf(amount, oneBalance(operator, 2 * amount));
        bytes4 selector = IPaymentVault.CollectedMismatch.selector;
        expectCommitError(again, vouchers, abi.encodeWithSelector(selector, channel(), amount, 0));
        vouchers[0].before = amount;
        selector = IPaymentVault.NothingToCollect.selector;
        expectCommitError(again, vouchers, abi.encodeWithSelector(selector, channel(), amount, amount));
    }

    function test_a_stale_voucher_adds_nothing_to_a_newer_one(uint128 newer, uint128 stale) external {
        newer = uint128(bound(newer, 2, _DEPOSIT / 2));
        stale = uint128(bound(stale, 1, newer - 1));
        Collection[] memory old = collections(stale);
        commit(newer, oneBalance(operator, newer));
        (old[0].before, old[0].until) = (newer, newer + stale);
        bytes4 selector = IPaymentVault.VoucherExceeded.selector;
        expectCommitError(
            commitmentOf(stale, oneBalance(operator, newer + stale)),
            old,
            abi.encodeWithSelector(selector, channel(), stale, newer + stale)
        );
    }

    function test_withdraw_before_collection_leaves_the_served_amount(uint128 charge) external {
        charge = uint128(bound(charge, 1, _DEPOSIT));
        Collection[] memory vouchers = collections(charge);
        _thaw(_DEPOSIT);
        vm.warp(block.timestamp + THAW - 1);
        commit(commitmentOf(charge, oneBalance(operator, charge)), vouchers);
        vm.warp(block.timestamp + 1);
        uint128 rest = ((_DEPOSIT - charge) / MICRO) * MICRO;
        if (rest == 0) return;
        vm.prank(payer);
        vm.assertEq(vault.withdraw(operator, collector), rest);
        vm.assertEq(vault.potOf(collector, operator), charge);
    }

    /// @dev A payer does not withdraw when a thaw ends: later it can withdraw only the thawed amount, which operators
    /// do not count as balance, and nothing of a later deposit.
    function test_withdraw_before_collection_by_an_old_thaw(uint128 thawing, uint128 charge) external {
        thawing = uint128(bound(thawing, MICRO, _DEPOSIT));
        _thaw(thawing);
        vm.warp(block.timestamp + 10 * THAW);
        deposit(DEPOSIT_UNITS);
        charge = uint128(bound(charge, 1, 2 * _DEPOSIT - thawing));
        Collection[] memory vouchers = collections(charge);
        vm.prank(payer);
        vm.assertLe(vault.withdraw(operator, collector), thawing);
        commit(commitmentOf(charge, oneBalance(operator, charge)), vouchers);
    }

    function test_revoke_after_use_does_not_take_back_what_was_served(uint128 charge, uint64 late) external {
        charge = uint128(bound(charge, 1, _DEPOSIT));
        Collection[] memory vouchers = _grantAndSign(charge);
        _revokeSession();
        vm.warp(block.timestamp + bound(late, 0, THAW));
        commit(commitmentOf(charge, oneBalance(operator, charge)), vouchers);
        vm.assertEq(vault.potOf(collector, operator), charge);
    }

    function test_revoke_after_use_ends_collection_after_the_thaw(uint128 charge) external {
        charge = uint128(bound(charge, 1, _DEPOSIT));
        Collection[] memory vouchers = _grantAndSign(charge);
        _revokeSession();
        uint64 until = uint64(block.timestamp) + THAW;
        vm.warp(until + 1);
        bytes4 selector = IPaymentVault.VouchersExpired.selector;
        expectCommitError(
            commitmentOf(charge, oneBalance(operator, charge)),
            vouchers,
            abi.encodeWithSelector(selector, channel(), sessionKey, until)
        );
    }

    /// @dev One balance cannot back two operators: vouchers on other channels do not affect an operator's channel.
    function test_over_signing_to_several_operators_takes_nothing_from_the_first(uint128 promised) external {
        promised = uint128(bound(promised, 1, _DEPOSIT));
        Collection[] memory first = collections(promised);
        address validBatch = operator;
        operator = accountOf("second operator");
        Collection[] memory second = collections(promised);
        addStake(operator, STAKE_UNITS);
        bytes4 selector = IPaymentVault.InsufficientBalance.selector;
        expectCommitError(
            commitmentOf(promised, oneBalance(operator, promised)),
            second,
            abi.encodeWithSelector(selector, channel(), 0, promised)
        );
        operator = validBatch;
        commit(commitmentOf(promised, oneBalance(operator, promised)), first);
        vm.assertEq(vault.potOf(collector, operator), promised);
    }

    function test_over_signing_beyond_the_balance_is_refused_with_the_channel_id(uint128 excess) external {
        excess = uint128(bound(excess, 1, _DEPOSIT));
        uint128 total = _DEPOSIT + excess;
        bytes4 selector = IPaymentVault.InsufficientBalance.selector;
        expectCommitError(
            commitmentOf(total, oneBalance(operator, total)),
            collections(total),
            abi.encodeWithSelector(selector, channel(), _DEPOSIT, total)
        );
    }

    /// @dev A reorganisation drops the deposit that backed an answer: the collection is refused with the channel's id,
    /// and once the deposit is included again, in any block, the same voucher collects.
    function test_reorg_after_serving_is_recovered_by_the_same_voucher(uint128 charge, uint32 later) external {
        charge = uint128(bound(charge, 1, _DEPOSIT));
        payerName = "late payer";
        payer = accountOf(payerName);
        uint256 before = vm.snapshotState();
        deposit(DEPOSIT_UNITS);
        Collection[] memory vouchers = collections(charge);
        vm.revertToState(before);
        Commitment memory c = commitmentOf(charge, oneBalance(operator, charge));
        bytes4 selector = IPaymentVault.InsufficientBalance.selector;
        expectCommitError(c, vouchers, abi.encodeWithSelector(selector, channel(), 0, charge));
        vm.warp(block.timestamp + later);
        deposit(DEPOSIT_UNITS);
        commit(c, vouchers);
        vm.assertEq(vault.potOf(collector, operator), charge);
    }

    function test_swapped_grant_in_a_relayed_deposit_is_refused(uint256 which, uint64 change) external {
        vm.assume(change != 0);
        SessionGrant memory grant = grantOf(7, uint64(block.timestamp) + 1 days);
        usd.mint(payer, 5);
        Authorization memory signed = authorize(5, grant, 0);
        (address to, address by) = (operator, collector);
        which %= 5;
        if (which == 0) grant.key = address(uint160(grant.key) ^ change);
        if (which == 1) grant.cap ^= change;
        if (which == 2) grant.expiry ^= change;
        if (which == 3) to = address(uint160(to) ^ change);
        if (which == 4) by = address(uint160(by) ^ change);
        (bool isDone, bytes memory error) = address(vault).call(
            abi.encodeCall(IPaymentVault.depositWithAuthorization, (payer, to, by, 5, grant, signed))
        );
        vm.assertFalse(isDone);
        bool isRefused = bytes4(error) == ERC3009.ERC3009InvalidSignature.selector;
        // An expiry in the past is refused before the signature is checked.
        vm.assertTrue(isRefused || bytes4(error) == IPaymentVault.ExpiryPassed.selector);
        vm.assertEq(usd.balanceOf(payer), 5);
    }

    /// @dev An attacker withholds a grant to relay it after the key has leaked. A revocation by the payer's
    /// transaction, which uses no nonce, voids the grant permanently.
    function test_a_withheld_grant_is_refused_after_its_keys_revocation(uint128 cap, uint32 later) external {
        SessionGrant memory grant = grantOf(cap, uint64(block.timestamp) + 365 days);
        bytes memory signature = sign(keyOf("payer"), typedDigest(address(vault), _grantHash(grant)));
        _revokeSession();
        vm.warp(block.timestamp + later);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.SessionIsRevoked.selector, sessionKey));
        vault.grantSessionWithSig(payer, operator, collector, grant, 0, signature);
        Commitment memory c = commitmentOf(5, oneBalance(operator, 5));
        Collection[] memory vouchers = new Collection[](1);
        vouchers[0] = collection(keyOf("session key"), 0, 5);
        bytes4 selector = IPaymentVault.NotAuthorised.selector;
        expectCommitError(c, vouchers, abi.encodeWithSelector(selector, channel(), sessionKey));
    }

    function test_a_withheld_grant_with_its_deposit_is_refused_after_its_keys_revocation() external {
        SessionGrant memory grant = grantOf(7, uint64(block.timestamp) + 1 days);
        usd.mint(payer, 5);
        Authorization memory signed = authorize(5, grant, 0);
        _revokeSession();
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.SessionIsRevoked.selector, sessionKey));
        vault.depositWithAuthorization(payer, operator, collector, 5, grant, signed);
        vm.assertEq(usd.balanceOf(payer), 5);
    }

    function test_signature_malleability_is_refused(uint128 amount) external {
        amount = uint128(bound(amount, 1, _DEPOSIT));
        Collection[] memory vouchers = collections(amount);
        uint256 s = uint256(vouchers[0].vs) & (type(uint256).max >> 1);
        vouchers[0].vs = bytes32((CURVE_ORDER - s) | ((1 - (uint256(vouchers[0].vs) >> 255)) << 255));
        Commitment memory c = commitmentOf(amount, oneBalance(operator, amount));
        vm.expectPartialRevert(IPaymentVault.NotAuthorised.selector);
        vm.prank(operator);
        settlement.commit(c, vouchers);

        SessionGrant memory grant = grantOf(amount, uint64(block.timestamp) + 1);
        bytes32 digest = typedDigest(address(vault), _grantHash(grant));
        bytes memory signature = malleate(sign(keyOf("payer"), digest));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        vault.grantSessionWithSig(payer, operator, collector, grant, 0, signature);

        digest = typedDigest(address(settlement), Hashing.payoutChange(payer, operator, 0, block.timestamp));
        signature = malleate(sign(keyOf("payer"), digest));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.InvalidSignature.selector, payer));
        settlement.setPayoutWalletWithSig(payer, operator, 0, block.timestamp, signature);
    }

    function test_cross_chain_replay_of_a_voucher_is_refused(uint64 chain) external {
        vm.assume(chain != block.chainid);
        Collection[] memory vouchers = collections(5);
        vm.chainId(chain);
        Commitment memory c = commitmentOf(5, oneBalance(operator, 5));
        vm.expectPartialRevert(IPaymentVault.NotAuthorised.selector);
        vm.prank(operator);
        settlement.commit(c, vouchers);
    }

    /// @dev The next generation's settlement is another collector of the vault, to which the payer has no channel.
    function test_cross_contract_replay_of_a_voucher_is_refused() external {
        Collection[] memory vouchers = collections(5);
        ISettlement next = _deployGeneration().settlement();
        Commitment memory c = commitmentOf(5, oneBalance(operator, 5));
        vm.expectPartialRevert(IPaymentVault.InsufficientBalance.selector);
        vm.prank(operator);
        next.commit(c, vouchers);
        // It is refused too if the payer has a channel there.
        collector = address(next);
        deposit(5);
        vm.expectPartialRevert(IPaymentVault.NotAuthorised.selector);
        vm.prank(operator);
        next.commit(c, vouchers);
    }

    function test_cross_contract_replay_of_a_grant_in_another_channel_is_refused() external {
        SessionGrant memory grant = grantOf(5, uint64(block.timestamp) + 1);
        bytes memory signature = sign(keyOf("payer"), typedDigest(address(vault), _grantHash(grant)));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        vault.grantSessionWithSig(payer, accountOf("second operator"), collector, grant, 0, signature);
        vault.grantSessionWithSig(payer, operator, collector, grant, 0, signature);
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, payer, 1));
        vault.grantSessionWithSig(payer, operator, collector, grant, 0, signature);
    }

    // --- internal ---

    function _thaw(uint128 amount) private {
        vm.prank(payer);
        vault.thaw(operator, collector, amount);
    }

    function _revokeSession() private {
        vm.prank(payer);
        vault.revokeSession(operator, collector, sessionKey);
    }

    function _grantAndSign(uint128 charge) private returns (Collection[] memory vouchers) {
        SessionGrant memory grant = grantOf(charge, uint64(block.timestamp) + 1 days);
        vm.prank(payer);
        vault.grantSession(operator, collector, grant);
        vouchers = new Collection[](1);
        vouchers[0] = collection(keyOf("session key"), 0, charge);
    }

    function _grantHash(SessionGrant memory grant) private view returns (bytes32) {
        bytes32 typehash = keccak256(
            "SessionGrant(bytes32 channelId,address key,uint128 cap,uint64 expiry,uint256 nonce)"
        );
        return keccak256(abi.encode(typehash, channel(), grant, 0));
    }
}
