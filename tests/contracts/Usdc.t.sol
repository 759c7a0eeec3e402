// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {Authorization} from "../../contracts/interfaces/IPaymentVault.sol";
import {Claim} from "../../contracts/interfaces/ISettlement.sol";
import {ExactTransfer} from "../../contracts/libraries/ExactTransfer.sol";
import {TestUSD} from "../../contracts/local/TestUSD.sol";
import {Batches} from "./support/Batches.sol";
import {Tree} from "./support/Trees.sol";
import {UsdcLike, UsdcWithFee} from "./support/UsdcLike.sol";

/// @notice The published behaviour of USDC: a pause, a block list and an upgrade delay payments, and change no balance
/// of the market.
contract UsdcTest is Batches {
    uint256 private constant _UNITS = 1_000;

    bytes private _paused = abi.encodeWithSignature("Error(string)", "Pausable: paused");
    bytes private _blocked = abi.encodeWithSignature("Error(string)", "Blacklistable: account is blacklisted");
    address private _account;

    function setUp() public override {
        super.setUp();
        _account = accountOf("contributor");
    }

    function newToken() internal override returns (TestUSD) {
        return TestUSD(address(new ERC1967Proxy(address(new UsdcLike()), abi.encodeCall(UsdcLike.unpause, ()))));
    }

    // --- pause ---

    function test_a_deposit_waits_for_the_end_of_a_pause() external {
        fund(payer, _UNITS);
        _usdc().pause();
        _deposit(_paused);
        _usdc().unpause();
        _deposit("");
    }

    function test_a_relayed_deposit_waits_for_the_end_of_a_pause() external {
        usd.mint(payer, _UNITS);
        Authorization memory signed = authorize(_UNITS, noGrant(), 0);
        _usdc().pause();
        _relay(signed, _paused);
        _usdc().unpause();
        _relay(signed, "");
    }

    function test_a_withdrawal_waits_for_the_end_of_a_pause() external {
        _thaw();
        _usdc().pause();
        _withdraw(_paused);
        vm.assertEq(vault.channelOf(channel()).balance, DEPOSIT_UNITS * MICRO);
        _usdc().unpause();
        _withdraw("");
        vm.assertEq(usd.balanceOf(payer), _UNITS);
    }

    /// @dev Collections, commits and finality move no tokens.
    function test_batches_are_settled_during_a_pause_and_claimed_after_it() external {
        _usdc().pause();
        Claim memory claim = _settled(_UNITS);
        vm.expectRevert(_paused);
        settlement.claim(claim);
        vm.assertEq(settlement.claimedOf(operator, _account), 0);
        _usdc().unpause();
        settlement.claim(claim);
        vm.assertEq(usd.balanceOf(_account), _UNITS);
    }

    function test_a_slash_during_a_pause_is_owed_and_paid_after_it() external {
        (address challenger, address treasury) = (accountOf("challenger"), accountOf("treasury"));
        _usdc().pause();
        vm.prank(address(settlement));
        operators.slash(operator, uint128(_UNITS) * MICRO, challenger, 250_000, treasury);
        vm.assertEq(operators.stakeOf(operator).stake, (STAKE_UNITS - _UNITS) * MICRO);
        vm.prank(challenger);
        vm.expectRevert(_paused);
        operators.withdrawOwed(challenger);
        _usdc().unpause();
        vm.prank(challenger);
        operators.withdrawOwed(challenger);
        vm.prank(treasury);
        operators.withdrawOwed(treasury);
        vm.assertEq(usd.balanceOf(challenger), _UNITS / 4);
        vm.assertEq(usd.balanceOf(treasury), _UNITS - _UNITS / 4);
    }

    // --- block list ---

    function test_a_blocked_payer_cannot_deposit() external {
        fund(payer, _UNITS);
        Authorization memory signed = authorize(_UNITS, noGrant(), 0);
        _usdc().blacklist(payer);
        _deposit(_blocked);
        _relay(signed, _blocked);
    }

    /// @dev A block list protects a payer neither from vouchers that it signed, nor its channel from thawing.
    function test_a_blocked_payers_vouchers_are_collected_and_its_rest_waits() external {
        _usdc().blacklist(payer);
        settlement.claim(_settled(_UNITS));
        vm.assertEq(usd.balanceOf(_account), _UNITS);
        _thaw();
        _withdraw(_blocked);
        _usdc().unBlacklist(payer);
        _withdraw("");
        vm.assertEq(usd.balanceOf(payer), _UNITS);
    }

    function test_a_blocked_account_is_paid_to_another_wallet() external {
        Claim memory claim = _settled(_UNITS);
        _usdc().blacklist(_account);
        vm.expectRevert(_blocked);
        settlement.claim(claim);
        address wallet = accountOf("another wallet");
        vm.prank(_account);
        settlement.setPayoutWallet(wallet);
        settlement.claim(claim);
        vm.assertEq(usd.balanceOf(wallet), _UNITS);
    }

    function test_a_blocked_challenger_is_owed_its_share_of_a_slash() external {
        (address challenger, address treasury) = (accountOf("challenger"), accountOf("treasury"));
        _usdc().blacklist(challenger);
        vm.prank(address(settlement));
        operators.slash(operator, uint128(_UNITS) * MICRO, challenger, 250_000, treasury);
        vm.assertEq(operators.owed(challenger), (_UNITS / 4) * MICRO);
        vm.assertEq(usd.balanceOf(treasury), _UNITS - _UNITS / 4);
    }

    /// @dev The issuer can lock the whole market. No balance is lost by it.
    function test_a_blocked_vault_pays_when_it_is_unblocked() external {
        fund(payer, _UNITS);
        Claim memory claim = _settled(_UNITS);
        _thaw();
        _usdc().blacklist(address(vault));
        _deposit(_blocked);
        _withdraw(_blocked);
        vm.expectRevert(_blocked);
        settlement.claim(claim);
        _usdc().unBlacklist(address(vault));
        settlement.claim(claim);
        _withdraw("");
        vm.assertEq(usd.balanceOf(_account), _UNITS);
        vm.assertEq(usd.balanceOf(payer), 2 * _UNITS);
    }

    // --- upgrade ---

    function test_an_upgrade_behind_the_proxy_changes_nothing_for_the_market() external {
        Claim memory claim = _settled(_UNITS);
        _usdc().upgradeTo(address(new UsdcLike()));
        settlement.claim(claim);
        vm.assertEq(usd.balanceOf(_account), _UNITS);
        fund(payer, _UNITS);
        _relay(authorize(_UNITS, noGrant(), 0), "");
    }

    /// @dev The fee is at the recipients' expense; what the vault owes to others stays covered.
    function test_an_upgrade_to_transfers_with_a_fee_ends_deposits_and_keeps_the_vault_solvent() external {
        fund(payer, _UNITS);
        Claim memory claim = _settled(_UNITS);
        _usdc().upgradeTo(address(new UsdcWithFee()));
        bytes4 selector = ExactTransfer.UnexpectedTransfer.selector;
        _deposit(abi.encodeWithSelector(selector, _UNITS, _UNITS - 1));
        _relay(authorize(_UNITS, noGrant(), 0), abi.encodeWithSelector(selector, _UNITS, _UNITS - 1));
        settlement.claim(claim);
        vm.assertEq(usd.balanceOf(_account), _UNITS - 1);
        vm.assertEq(usd.balanceOf(address(vault)), vault.channelOf(channel()).balance / MICRO);
    }

    // --- internal ---

    function _usdc() private view returns (UsdcLike) {
        return UsdcLike(address(usd));
    }

    /// @dev Deposits, or expects `error` and an unchanged channel.
    function _deposit(bytes memory error) private {
        uint256 balance = vault.channelOf(channel()).balance;
        if (error.length != 0) vm.expectRevert(error);
        vm.prank(payer);
        vault.deposit(operator, collector, _UNITS, noGrant());
        vm.assertEq(vault.channelOf(channel()).balance, balance + (error.length == 0 ? _UNITS * MICRO : 0));
    }

    function _relay(Authorization memory signed, bytes memory error) private {
        uint256 balance = vault.channelOf(channel()).balance;
        if (error.length != 0) vm.expectRevert(error);
        vault.depositWithAuthorization(payer, operator, collector, _UNITS, noGrant(), signed);
        vm.assertEq(vault.channelOf(channel()).balance, balance + (error.length == 0 ? _UNITS * MICRO : 0));
    }

    function _thaw() private {
        vm.prank(payer);
        vault.thaw(operator, collector, uint128(_UNITS) * MICRO);
        vm.warp(block.timestamp + THAW);
    }

    function _withdraw(bytes memory error) private {
        if (error.length != 0) vm.expectRevert(error);
        vm.prank(payer);
        vault.withdraw(operator, collector);
    }

    /// @dev Settles a batch in which the contributor earns `units`, and returns its claim.
    function _settled(uint256 units) private returns (Claim memory) {
        uint128 amount = uint128(units) * MICRO;
        Tree memory balances = oneBalance(_account, amount);
        settle(amount, balances);
        return claimOf(_account, balances, 0);
    }
}
