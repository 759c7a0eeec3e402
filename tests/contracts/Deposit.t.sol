// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {
    Authorization,
    Channel,
    ChannelId,
    IPaymentVault,
    Session,
    SessionGrant
} from "../../contracts/interfaces/IPaymentVault.sol";
import {ExactTransfer} from "../../contracts/libraries/ExactTransfer.sol";
import {Units} from "../../contracts/libraries/Units.sol";
import {IReceiveWithAuthorization} from "../../contracts/interfaces/IReceiveWithAuthorization.sol";
import {Payments} from "./support/Payments.sol";
import {Log} from "./support/Vm.sol";
import {CallingToken, ChargingToken, DecimalsToken} from "./support/Tokens.sol";
import {ContractWallet, SharedWallet} from "./support/Wallets.sol";

contract DepositTest is Payments {
    uint256 private constant _UNITS = 25_000_000;

    function test_a_deposit_credits_exactly_its_units(uint256 units) external {
        units = bound(units, 1, type(uint128).max / MICRO);
        fund(payer, units);
        vm.expectEmit(address(vault));
        emit IPaymentVault.ChannelOpened(channel(), payer, operator, collector);
        vm.expectEmit(address(vault));
        emit IPaymentVault.Deposited(channel(), uint128(units) * MICRO);
        vm.prank(payer);
        ChannelId id = vault.deposit(operator, collector, units, noGrant());
        vm.assertEq(ChannelId.unwrap(id), ChannelId.unwrap(channel()));
        vm.assertEq(vault.channelOf(id).balance, units * MICRO);
        vm.assertEq(usd.balanceOf(address(vault)), units);
    }

    function test_deposits_add_up(uint96 first, uint96 second) external {
        vm.assume(first != 0 && second != 0);
        deposit(first);
        vm.recordLogs();
        deposit(second);
        vm.assertEq(vault.channelOf(channel()).balance, (uint256(first) + second) * MICRO);
        vm.assertEq(_numOpened(), 0);
    }

    /// @dev Indexers learn the preimage of a channel's id from its first deposit.
    function test_a_channel_that_was_emptied_before_any_collection_opens_again() external {
        deposit(_UNITS);
        vm.startPrank(payer);
        vault.thaw(operator, collector, uint128(_UNITS) * MICRO);
        vm.warp(block.timestamp + THAW);
        vault.withdraw(operator, collector);
        vm.stopPrank();
        vm.recordLogs();
        deposit(_UNITS);
        vm.assertEq(_numOpened(), 1);
    }

    function test_a_channel_that_was_spent_does_not_open_again() external {
        deposit(_UNITS);
        collect(collection(keyOf("payer"), 0, uint128(_UNITS) * MICRO));
        vm.recordLogs();
        deposit(_UNITS);
        vm.assertEq(_numOpened(), 0);
        vm.assertEq(vault.channelOf(channel()).collected, _UNITS * MICRO);
    }

    function test_a_deposit_may_grant_a_session_key(uint128 cap) external {
        uint64 expiry = uint64(block.timestamp) + 1 days;
        ChannelId id = deposit(_UNITS, grantOf(cap, expiry));
        Session memory session = vault.sessionOf(id, sessionKey);
        vm.assertEq(session.cap, cap);
        vm.assertEq(session.expiry, expiry);
    }

    function test_a_deposit_of_nothing_or_too_much_is_refused() external {
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAmount.selector));
        vm.prank(payer);
        vault.deposit(operator, collector, 0, noGrant());
        uint256 units = uint256(type(uint128).max) / MICRO + 1;
        vm.expectRevert(abi.encodeWithSelector(Units.UnitsOverflow.selector, units));
        vm.prank(payer);
        vault.deposit(operator, collector, units, noGrant());
    }

    function test_a_deposit_needs_operator_and_collector() external {
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAddress.selector));
        vault.deposit(address(0), collector, 1, noGrant());
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAddress.selector));
        vault.deposit(operator, address(0), 1, noGrant());
    }

    function test_fee_on_transfer_tokens_are_refused() external {
        ChargingToken charging = new ChargingToken();
        PaymentVault other = new PaymentVault(charging, THAW);
        charging.mint(payer, _UNITS);
        vm.startPrank(payer);
        charging.approve(address(other), _UNITS);
        vm.expectRevert(abi.encodeWithSelector(ExactTransfer.UnexpectedTransfer.selector, _UNITS, _UNITS - 1));
        other.deposit(operator, collector, _UNITS, noGrant());
        vm.stopPrank();
    }

    function test_reentrancy_through_the_token_is_refused() external {
        CallingToken calling = new CallingToken();
        PaymentVault other = new PaymentVault(calling, THAW);
        calling.mint(payer, 2 * _UNITS);
        vm.startPrank(payer);
        calling.approve(address(other), 2 * _UNITS);
        calling.callOnTransfer(address(other), abi.encodeCall(other.withdraw, (operator, collector)));
        other.deposit(operator, collector, _UNITS, noGrant());
        vm.stopPrank();
        vm.assertTrue(calling.hasCalled());
        vm.assertFalse(calling.hasSucceeded());
        vm.assertEq(other.channelOf(channel()).balance, _UNITS * MICRO);
    }

    // --- authorization ---

    function test_an_authorization_is_relayed_with_its_grant(uint96 units, bytes32 salt) external {
        vm.assume(units != 0);
        SessionGrant memory grant = grantOf(7, uint64(block.timestamp) + 1 days);
        usd.mint(payer, units);
        Authorization memory signed = authorize(units, grant, salt);
        vm.prank(accountOf("relayer"));
        ChannelId id = vault.depositWithAuthorization(payer, operator, collector, units, grant, signed);
        Channel memory state = vault.channelOf(id);
        vm.assertEq(state.balance, uint256(units) * MICRO);
        vm.assertEq(vault.sessionOf(id, sessionKey).cap, 7);
    }

    function test_a_relayed_deposit_cannot_change_the_grant() external {
        SessionGrant memory grant = grantOf(7, uint64(block.timestamp) + 1 days);
        usd.mint(payer, _UNITS);
        Authorization memory signed = authorize(_UNITS, grant, 0);
        SessionGrant memory swapped = SessionGrant(accountOf("thief"), grant.cap, grant.expiry);
        _expectRefused(operator, swapped, signed);
        swapped = SessionGrant(grant.key, grant.cap + 1, grant.expiry);
        _expectRefused(operator, swapped, signed);
        _expectRefused(operator, noGrant(), signed);
    }

    function test_a_relayed_deposit_cannot_change_the_operator() external {
        usd.mint(payer, _UNITS);
        Authorization memory signed = authorize(_UNITS, noGrant(), 0);
        _expectRefused(accountOf("other operator"), noGrant(), signed);
    }

    function test_an_authorization_cannot_be_replayed() external {
        usd.mint(payer, 2 * _UNITS);
        Authorization memory signed = authorize(_UNITS, noGrant(), 0);
        vault.depositWithAuthorization(payer, operator, collector, _UNITS, noGrant(), signed);
        bytes32 nonce = vault.depositNonce(channel(), noGrant(), 0);
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009UsedAuthorization.selector, payer, nonce));
        vault.depositWithAuthorization(payer, operator, collector, _UNITS, noGrant(), signed);
    }

    /// @dev As a 65-byte signature of USDC's, which asks the wallet for `v, r, s` too.
    function test_a_contract_wallet_authorizes_by_its_owners_signature() external {
        payer = address(new ContractWallet(payer));
        usd.mint(payer, _UNITS);
        vault.depositWithAuthorization(payer, operator, collector, _UNITS, noGrant(), authorize(_UNITS, noGrant(), 0));
        vm.assertEq(vault.channelOf(channel()).balance, _UNITS * MICRO);
    }

    function test_a_contract_wallet_authorizes_by_a_signature_of_another_length() external {
        payer = address(new SharedWallet(accountOf("payer"), accountOf("other owner")));
        usd.mint(payer, _UNITS);
        Authorization memory signed = authorize(_UNITS, noGrant(), 0);
        bytes memory second = sign(keyOf("other owner"), authorizationDigest(_UNITS, noGrant(), signed));
        _expectRefused(operator, noGrant(), signed);
        signed.signature = abi.encodePacked(signed.signature, second);
        vm.expectCall(
            address(usd),
            abi.encodeCall(
                IReceiveWithAuthorization.receiveWithAuthorization,
                (
                    payer,
                    address(vault),
                    _UNITS,
                    0,
                    signed.validBefore,
                    vault.depositNonce(channel(), noGrant(), 0),
                    signed.signature
                )
            )
        );
        vault.depositWithAuthorization(payer, operator, collector, _UNITS, noGrant(), signed);
        vm.assertEq(vault.channelOf(channel()).balance, _UNITS * MICRO);
    }

    function test_an_authorization_without_a_valid_signature_is_refused(bytes calldata signature) external {
        usd.mint(payer, _UNITS);
        Authorization memory signed = authorize(_UNITS, noGrant(), 0);
        signed.signature = signature;
        _expectRefused(operator, noGrant(), signed);
    }

    function test_the_nonce_of_an_authorization_is_as_documented(bytes32 salt) external view {
        SessionGrant memory grant = grantOf(7, 9);
        bytes32 expected = keccak256(abi.encode(channel(), grant.key, grant.cap, grant.expiry, salt));
        vm.assertEq(vault.depositNonce(channel(), grant, salt), expected);
    }

    function test_a_vault_needs_a_token() external {
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAddress.selector));
        new PaymentVault(CallingToken(address(0)), THAW);
    }

    function test_finding10_a_token_with_other_than_six_decimals_is_refused(uint8 decimals) external {
        vm.assume(decimals != 6);
        DecimalsToken other = new DecimalsToken(decimals);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.UnsupportedDecimals.selector, other, decimals));
        new PaymentVault(other, THAW);
    }

    function _expectRefused(address to, SessionGrant memory grant, Authorization memory signed) private {
        vm.expectRevert(abi.encodeWithSelector(ERC3009.ERC3009InvalidSignature.selector));
        vault.depositWithAuthorization(payer, to, collector, _UNITS, grant, signed);
    }

    function _numOpened() private returns (uint256 count) {
        Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] == IPaymentVault.ChannelOpened.selector) ++count;
        }
    }
}
