// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IDisputes} from "../../contracts/interfaces/IDisputes.sol";
import {BatchData} from "./support/BatchModel.sol";
import {Disputed} from "./support/Disputed.sol";

contract ReserveTest is Disputed {
    function test_a_hash_is_reserved_once_with_its_block(bytes32 hash, uint32 later) external {
        vm.assertEq(disputes.reservedAt(hash), 0);
        vm.roll(block.number + later);
        vm.expectEmit(address(disputes));
        emit IDisputes.Reserved(hash);
        disputes.reserve(hash);
        vm.assertEq(disputes.reservedAt(hash), block.number);
        vm.roll(block.number + 1);
        disputes.reserve(hash);
        vm.assertEq(disputes.reservedAt(hash), block.number - 1);
    }

    function test_an_earlier_reservation_earns_the_challengers_share(uint32 blocks) external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        vm.roll(block.number + 1 + blocks);
        expectConviction(batch, IDisputes.proveZeroLeaf.selector, challenger);
        _prove(batch, challenger);
        vm.assertTrue(usd.balanceOf(challenger) != 0);
        assertVoid(batch);
    }

    /// @dev A reservation binds the sender of the later call, not the account that reserves.
    function test_anyone_may_reserve_for_the_sender() external {
        BatchData memory batch = invalidBatch();
        bytes32 hash = keccak256(abi.encode(challenger, keccak256(proofOf(batch))));
        vm.prank(accountOf("front-runner"));
        disputes.reserve(hash);
        vm.roll(block.number + 1);
        _prove(batch, challenger);
        vm.assertTrue(usd.balanceOf(challenger) != 0);
    }

    function test_a_reservation_in_the_same_block_is_too_late() external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        _expectNotReserved(challenger, proofOf(batch));
    }

    function test_without_reservation_nothing_is_convicted() external {
        _expectNotReserved(challenger, proofOf(invalidBatch()));
    }

    /// @dev The copy does not even make the challenger's proof revert.
    function test_a_copied_proof_convicts_nothing() external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        vm.roll(block.number + 1);
        _reserve(batch, accountOf("front-runner"));
        _expectNotReserved(accountOf("front-runner"), proofOf(batch));
        vm.assertTrue(settlement.isPending(batch.header));
        _prove(batch, challenger);
        assertVoid(batch);
    }

    function test_another_calldata_was_not_reserved(uint8 tail) external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        vm.roll(block.number + 1);
        _expectNotReserved(challenger, bytes.concat(proofOf(batch), bytes1(tail)));
    }

    function _reserve(BatchData memory batch, address sender) private {
        bytes32 hash = keccak256(abi.encode(sender, keccak256(proofOf(batch))));
        vm.prank(sender);
        disputes.reserve(hash);
    }

    function _prove(BatchData memory batch, address sender) private {
        vm.prank(sender);
        (bool isHeld, ) = address(disputes).call(proofOf(batch));
        vm.assertTrue(isHeld);
    }

    function _expectNotReserved(address sender, bytes memory proof) private {
        vm.prank(sender);
        (bool isHeld, bytes memory error) = address(disputes).call(proof);
        vm.assertFalse(isHeld);
        bytes32 hash = keccak256(abi.encode(sender, keccak256(proof)));
        vm.assertEq(error, abi.encodeWithSelector(IDisputes.NotReserved.selector, hash));
    }
}
