// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Hashing} from "../../contracts/libraries/Hashing.sol";
import {Batches} from "./support/Batches.sol";

contract ReceiptKeyTest is Batches {
    function test_a_key_is_bound_to_its_operator(uint256 privateKey) external {
        privateKey = bound(privateKey, 1, CURVE_ORDER - 1);
        address key = vm.addr(privateKey);
        vm.assume(key != operator && key != receiptKey);
        vm.expectEmit(address(operators));
        emit IOperatorRegistry.ReceiptKeyAdded(operator, key);
        _add(operator, key, sign(privateKey, _digest(operator)));
        vm.assertEq(operators.operatorOfKey(key), operator);
    }

    function test_a_key_is_bound_permanently() external {
        bytes memory signature = sign(keyOf("receipt key"), _digest(operator));
        bytes memory error = abi.encodeWithSelector(IOperatorRegistry.KeyAlreadyBound.selector, receiptKey, operator);
        _expectError(operator, receiptKey, signature, error);
        address other = accountOf("other operator");
        signature = sign(keyOf("receipt key"), _digest(other));
        _expectError(other, receiptKey, signature, error);
    }

    function test_a_key_cannot_be_bound_without_its_signature() external {
        address victim = accountOf("victim");
        bytes memory error = abi.encodeWithSelector(IOperatorRegistry.InvalidKeySignature.selector, victim);
        _expectError(operator, victim, sign(keyOf("thief"), _digest(operator)), error);
        // A signature for one operator is not valid for another.
        _expectError(operator, victim, sign(keyOf("victim"), _digest(accountOf("other operator"))), error);
        _expectError(operator, victim, malleate(sign(keyOf("victim"), _digest(operator))), error);
        _expectError(operator, victim, "", error);
    }

    function test_a_receipt_key_is_not_the_operators_account() external {
        bytes memory signature = sign(keyOf("operator"), _digest(operator));
        _expectError(
            operator,
            operator,
            signature,
            abi.encodeWithSelector(IOperatorRegistry.KeyIsOperator.selector, operator)
        );
    }

    function test_a_receipt_key_is_neither_a_contract_nor_zero() external {
        bytes4 selector = IOperatorRegistry.InvalidKeySignature.selector;
        bytes memory signature = sign(keyOf("thief"), _digest(operator));
        _expectError(operator, address(vault), signature, abi.encodeWithSelector(selector, address(vault)));
        _expectError(operator, address(0), "", abi.encodeWithSelector(selector, address(0)));
    }

    /// @dev An account with delegated code (EIP-7702) still has its key.
    function test_the_account_of_a_receipt_key_may_have_code() external {
        address key = accountOf("delegating key");
        vm.etch(key, abi.encodePacked(hex"ef0100", address(vault)));
        _add(operator, key, sign(keyOf("delegating key"), _digest(operator)));
        vm.assertEq(operators.operatorOfKey(key), operator);
    }

    function test_an_endpoint_is_announced_up_to_256_bytes(uint16 length) external {
        _announce(256);
        _announce(257);
        _announce(uint16(bound(length, 0, 512)));
    }

    function _announce(uint16 length) private {
        string memory endpoint = string(new bytes(length));
        if (length > 256) {
            vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.EndpointTooLong.selector, length, 256));
        } else {
            vm.expectEmit(address(operators));
            emit IOperatorRegistry.EndpointChanged(operator, endpoint);
        }
        vm.prank(operator);
        operators.setEndpoint(endpoint);
    }

    function _add(address by, address key, bytes memory signature) private {
        vm.prank(by);
        operators.addReceiptKey(key, signature);
    }

    function _expectError(address by, address key, bytes memory signature, bytes memory error) private {
        vm.expectRevert(error);
        vm.prank(by);
        operators.addReceiptKey(key, signature);
    }

    function _digest(address account) private view returns (bytes32) {
        return typedDigest(address(operators), Hashing.receiptKey(account));
    }
}
