// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ISettlement} from "../../contracts/interfaces/ISettlement.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Batches} from "./support/Batches.sol";
import {Tree} from "./support/Trees.sol";
import {ContractWallet} from "./support/Wallets.sol";

contract PayoutWalletTest is Batches {
    address private _account;
    address private _wallet;

    function setUp() public override {
        super.setUp();
        (_account, _wallet) = (accountOf("contributor"), accountOf("cold wallet"));
    }

    function test_an_account_is_paid_at_its_payout_wallet() external {
        Tree memory balances = oneBalance(_account, 5 * MICRO);
        settle(5 * MICRO, balances);
        vm.expectEmit(address(settlement));
        emit ISettlement.PayoutWalletChanged(_account, _wallet);
        vm.prank(_account);
        settlement.setPayoutWallet(_wallet);
        settlement.claim(claimOf(_account, balances, 0));
        vm.assertEq(usd.balanceOf(_wallet), 5);
        vm.assertEq(usd.balanceOf(_account), 0);
    }

    function test_without_wallet_the_account_is_paid(address wallet) external {
        vm.assume(wallet != address(vault));
        vm.assertEq(settlement.payoutWalletOf(_account), _account);
        vm.startPrank(_account);
        settlement.setPayoutWallet(wallet);
        settlement.setPayoutWallet(address(0));
        vm.stopPrank();
        vm.assertEq(settlement.payoutWalletOf(_account), _account);
    }

    function test_the_vault_as_wallet_is_refused_as_it_would_fail_every_claim() external {
        bytes memory error = abi.encodeWithSelector(ISettlement.InvalidWallet.selector, address(vault));
        vm.expectRevert(error);
        vm.prank(_account);
        settlement.setPayoutWallet(address(vault));
        _wallet = address(vault);
        bytes memory signature = sign(keyOf("contributor"), _digest(_account, 0, block.timestamp));
        vm.expectRevert(error);
        settlement.setPayoutWalletWithSig(_account, _wallet, 0, block.timestamp, signature);
    }

    function test_a_direct_change_voids_an_older_signed_one() external {
        bytes memory signature = sign(keyOf("contributor"), _digest(_account, 0, block.timestamp));
        vm.prank(_account);
        settlement.setPayoutWallet(accountOf("other wallet"));
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, _account, 1));
        settlement.setPayoutWalletWithSig(_account, _wallet, 0, block.timestamp, signature);
    }

    function test_a_change_is_relayed_by_signature_once(uint32 left) external {
        uint256 deadline = block.timestamp + left;
        bytes memory signature = sign(keyOf("contributor"), _digest(_account, 0, deadline));
        settlement.setPayoutWalletWithSig(_account, _wallet, 0, deadline, signature);
        vm.assertEq(settlement.payoutWalletOf(_account), _wallet);
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, _account, 1));
        settlement.setPayoutWalletWithSig(_account, _wallet, 0, deadline, signature);
    }

    function test_a_change_after_its_deadline_is_refused() external {
        uint256 deadline = block.timestamp - 1;
        bytes memory signature = sign(keyOf("contributor"), _digest(_account, 0, deadline));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.SignatureExpired.selector, deadline));
        settlement.setPayoutWalletWithSig(_account, _wallet, 0, deadline, signature);
    }

    function test_a_change_by_another_or_to_another_wallet_is_refused() external {
        bytes memory signature = sign(keyOf("thief"), _digest(_account, 0, block.timestamp));
        vm.expectRevert(abi.encodeWithSelector(ISettlement.InvalidSignature.selector, _account));
        settlement.setPayoutWalletWithSig(_account, _wallet, 0, block.timestamp, signature);
        signature = sign(keyOf("contributor"), _digest(_account, 0, block.timestamp));
        address thief = accountOf("thief");
        vm.expectRevert(abi.encodeWithSelector(ISettlement.InvalidSignature.selector, _account));
        settlement.setPayoutWalletWithSig(_account, thief, 0, block.timestamp, signature);
    }

    function test_a_contract_wallet_changes_by_eip1271() external {
        address account = address(new ContractWallet(_account));
        bytes memory signature = sign(keyOf("contributor"), _digest(account, 0, block.timestamp));
        settlement.setPayoutWalletWithSig(account, _wallet, 0, block.timestamp, signature);
        vm.assertEq(settlement.payoutWalletOf(account), _wallet);
    }

    function _digest(address account, uint256 nonce, uint256 deadline) private view returns (bytes32) {
        return typedDigest(address(settlement), Hashing.payoutChange(account, _wallet, nonce, deadline));
    }
}
