// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {PaymentVault} from "../../contracts/PaymentVault.sol";
import {IPaymentVault, Session, SessionGrant} from "../../contracts/interfaces/IPaymentVault.sol";
import {Payments} from "./support/Payments.sol";
import {ContractWallet} from "./support/Wallets.sol";

contract SessionTest is Payments {
    uint64 private _expiry;

    function setUp() public override {
        super.setUp();
        _expiry = uint64(block.timestamp) + 1 days;
        deposit(100);
    }

    function test_a_grant_is_stored(uint128 cap, uint64 expiry) external {
        expiry = uint64(bound(expiry, block.timestamp + 1, type(uint64).max));
        vm.expectEmit(address(vault));
        emit IPaymentVault.SessionGranted(channel(), sessionKey, cap, expiry);
        _grant(grantOf(cap, expiry));
        Session memory session = vault.sessionOf(channel(), sessionKey);
        vm.assertEq(session.cap, cap);
        vm.assertEq(session.expiry, expiry);
        vm.assertFalse(session.isRevoked);
    }

    function test_a_cap_cannot_be_lowered(uint128 cap, uint128 next) external {
        cap = uint128(bound(cap, 1, type(uint128).max));
        _grant(grantOf(cap, _expiry));
        if (next < cap) {
            vm.expectRevert(abi.encodeWithSelector(IPaymentVault.CapLowered.selector, sessionKey, cap, next));
        }
        _grant(grantOf(next, _expiry));
    }

    function test_an_expiry_cannot_move_earlier() external {
        _grant(grantOf(5, _expiry));
        vm.expectRevert(
            abi.encodeWithSelector(IPaymentVault.ExpiryLowered.selector, sessionKey, _expiry, _expiry - 1)
        );
        _grant(grantOf(5, _expiry - 1));
        _grant(grantOf(5, _expiry + 1));
    }

    function test_an_expiry_must_be_in_the_future() external {
        uint64 present = uint64(block.timestamp);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ExpiryPassed.selector, sessionKey, present));
        _grant(grantOf(5, present));
    }

    function test_a_grant_needs_a_key() external {
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAddress.selector));
        _grant(SessionGrant(address(0), 5, _expiry));
    }

    function test_an_account_with_delegated_code_grants_by_its_keys_signature() external {
        delegateCode(payer);
        _relayGrant(payer, sign(keyOf("payer"), _digest(0)), 0);
        vm.assertEq(vault.sessionOf(channel(), sessionKey).cap, 5);
    }

    function test_a_grant_is_relayed_by_signature() external {
        _relayGrant(payer, sign(keyOf("payer"), _digest(0)), 0);
        vm.assertEq(vault.sessionOf(channel(), sessionKey).cap, 5);
        vm.assertEq(vault.nonces(payer), 1);
    }

    function test_a_relayed_grant_cannot_be_replayed() external {
        bytes memory signature = sign(keyOf("payer"), _digest(0));
        _relayGrant(payer, signature, 0);
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, payer, 1));
        _relayGrant(payer, signature, 0);
    }

    function test_a_grant_by_another_key_or_malleated_is_refused() external {
        bytes memory signature = sign(keyOf("thief"), _digest(0));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        _relayGrant(payer, signature, 0);
        signature = malleate(sign(keyOf("payer"), _digest(0)));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        _relayGrant(payer, signature, 0);
    }

    function test_a_grant_for_another_vault_or_chain_is_refused() external {
        bytes32 hash = _structHash(0);
        bytes memory signature = sign(keyOf("payer"), typedDigest(address(this), hash));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        _relayGrant(payer, signature, 0);
        signature = sign(keyOf("payer"), typedDigest(1, address(vault), hash));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        _relayGrant(payer, signature, 0);
    }

    function test_a_contract_wallet_grants_by_eip1271() external {
        ContractWallet wallet = new ContractWallet(payer);
        payer = address(wallet);
        bytes memory signature = sign(keyOf("payer"), _digest(0));
        _relayGrant(payer, signature, 0);
        vm.assertEq(vault.sessionOf(channel(), sessionKey).cap, 5);
    }

    function test_an_account_with_delegated_code_keeps_its_keys_signatures() external {
        vm.etch(payer, hex"00");
        _relayGrant(payer, sign(keyOf("payer"), _digest(0)), 0);
        vm.assertEq(vault.sessionOf(channel(), sessionKey).cap, 5);
    }

    function test_revoking_sets_the_expiry_to_the_current_time(uint32 elapsed) external {
        _grant(grantOf(5, _expiry));
        vm.warp(block.timestamp + elapsed);
        uint64 ends = uint64(block.timestamp) < _expiry ? uint64(block.timestamp) : _expiry;
        vm.expectEmit(address(vault));
        emit IPaymentVault.SessionRevoked(channel(), sessionKey, ends + THAW);
        _revoke();
        Session memory session = vault.sessionOf(channel(), sessionKey);
        vm.assertEq(session.expiry, ends);
        vm.assertTrue(session.isRevoked);
    }

    function test_a_revoked_key_stays_revoked() external {
        _grant(grantOf(5, _expiry));
        _revoke();
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.SessionIsRevoked.selector, sessionKey));
        _grant(grantOf(9, _expiry));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.SessionIsRevoked.selector, sessionKey));
        _revoke();
    }

    function test_a_key_that_was_never_granted_is_revoked_permanently(uint128 cap) external {
        vm.expectEmit(address(vault));
        emit IPaymentVault.SessionRevoked(channel(), sessionKey, 0);
        _revoke();
        Session memory session = vault.sessionOf(channel(), sessionKey);
        vm.assertEq(session.expiry, 0);
        vm.assertTrue(session.isRevoked);
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.SessionIsRevoked.selector, sessionKey));
        _grant(grantOf(cap, _expiry));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.SessionIsRevoked.selector, sessionKey));
        _revoke();
    }

    function test_a_revocation_needs_a_key() external {
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.ZeroAddress.selector));
        vm.prank(payer);
        vault.revokeSession(operator, collector, address(0));
    }

    function test_a_revocation_is_relayed_by_signature(bool isGranted) external {
        if (isGranted) _grant(grantOf(5, _expiry));
        _relayRevocation(sign(keyOf("payer"), _revocationDigest(0)), 0);
        vm.assertTrue(vault.sessionOf(channel(), sessionKey).isRevoked);
        vm.assertEq(vault.nonces(payer), 1);
    }

    function test_a_revocation_by_another_key_is_refused() external {
        _grant(grantOf(5, _expiry));
        bytes memory signature = sign(keyOf("session key"), _revocationDigest(0));
        vm.expectRevert(abi.encodeWithSelector(IPaymentVault.InvalidSignature.selector, payer));
        _relayRevocation(signature, 0);
        vm.assertFalse(vault.sessionOf(channel(), sessionKey).isRevoked);
    }

    function test_a_relayed_revocation_needs_the_next_nonce() external {
        bytes memory signature = sign(keyOf("payer"), _revocationDigest(1));
        vm.expectRevert(abi.encodeWithSelector(Nonces.InvalidAccountNonce.selector, payer, 0));
        _relayRevocation(signature, 1);
    }

    function _grant(SessionGrant memory grant) private {
        vm.prank(payer);
        vault.grantSession(operator, collector, grant);
    }

    function _revoke() private {
        vm.prank(payer);
        vault.revokeSession(operator, collector, sessionKey);
    }

    function _relayGrant(address account, bytes memory signature, uint256 nonce) private {
        vault.grantSessionWithSig(account, operator, collector, grantOf(5, _expiry), nonce, signature);
    }

    function _relayRevocation(bytes memory signature, uint256 nonce) private {
        vault.revokeSessionWithSig(payer, operator, collector, sessionKey, nonce, signature);
    }

    function _revocationDigest(uint256 nonce) private view returns (bytes32) {
        bytes32 typehash = keccak256("SessionRevocation(bytes32 channelId,address key,uint256 nonce)");
        return typedDigest(address(vault), keccak256(abi.encode(typehash, channel(), sessionKey, nonce)));
    }

    function _digest(uint256 nonce) private view returns (bytes32) {
        return typedDigest(address(vault), _structHash(nonce));
    }

    function _structHash(uint256 nonce) private view returns (bytes32) {
        bytes32 typehash = keccak256(
            "SessionGrant(bytes32 channelId,address key,uint128 cap,uint64 expiry,uint256 nonce)"
        );
        return keccak256(abi.encode(typehash, channel(), sessionKey, uint128(5), _expiry, nonce));
    }
}
