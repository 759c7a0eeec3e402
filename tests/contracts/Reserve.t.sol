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
        vm.expectRevert(abi.encodeWithSelector(IDisputes.AlreadyReserved.selector, hash));
        disputes.reserve(hash);
        vm.assertEq(disputes.reservedAt(hash), block.number - 1);
    }

    function test_an_earlier_reservation_earns_the_challengers_share(uint32 blocks) external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        vm.roll(block.number + 1 + blocks);
        expectConviction(batch, IDisputes.proveZeroLeaf.selector, challenger);
        convict(batch, challenger);
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
        convict(batch, challenger);
        vm.assertTrue(usd.balanceOf(challenger) != 0);
    }

    function test_a_reservation_in_the_same_block_is_too_late() external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        _convictFor(batch, challenger);
    }

    function test_without_reservation_a_conviction_pays_no_reward() external {
        BatchData memory batch = invalidBatch();
        _convictFor(batch, challenger);
    }

    function test_a_challenger_front_run_leaves_the_front_runner_nothing() external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        vm.roll(block.number + 1);
        _convictFor(batch, accountOf("front-runner"));
    }

    function test_another_calldata_was_not_reserved(uint8 tail) external {
        BatchData memory batch = invalidBatch();
        _reserve(batch, challenger);
        vm.roll(block.number + 1);
        bytes memory proof = bytes.concat(proofOf(batch), bytes1(tail));
        expectConviction(batch, IDisputes.proveZeroLeaf.selector);
        vm.prank(challenger);
        (bool isHeld, ) = address(disputes).call(proof);
        vm.assertTrue(isHeld);
        vm.assertEq(usd.balanceOf(challenger), 0);
    }

    function _reserve(BatchData memory batch, address sender) private {
        bytes32 hash = keccak256(abi.encode(sender, keccak256(proofOf(batch))));
        vm.prank(sender);
        disputes.reserve(hash);
    }

    /// @dev The treasury receives the whole slash.
    function _convictFor(BatchData memory batch, address sender) private {
        uint256 before = usd.balanceOf(address(timelock));
        expectConviction(batch, IDisputes.proveZeroLeaf.selector);
        convict(batch, sender);
        assertVoid(batch);
        vm.assertEq(usd.balanceOf(sender), 0);
        vm.assertEq(usd.balanceOf(address(timelock)) - before, batch.header.slashUpTo / MICRO);
    }
}
