// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {IParameters, ParameterSet} from "../../contracts/interfaces/IParameters.sol";
import {Market} from "./support/Market.sol";

contract GovernTest is Market {
    string private constant _DESCRIPTION = "Raise the protocol fee to 7 %";

    address[] private _targets;
    uint256[] private _values;
    bytes[] private _calls;

    function setUp() public override {
        super.setUp();
        vm.prank(holder);
        token.delegate(holder);
        vm.warp(block.timestamp + 1);
        _targets.push(address(parameters));
        _values.push(0);
        _calls.push(_appendFee(70_000));
    }

    /// @dev The call of a proposal that changes the fee only.
    function _appendFee(uint32 feePpm) private view returns (bytes memory) {
        ParameterSet memory set = firstSet();
        set.feePpm = feePpm;
        return abi.encodeCall(IParameters.append, (0, set));
    }

    function test_a_vote_changes_the_fee() external {
        uint256 id = _propose();
        vm.warp(governor.proposalSnapshot(id) + 1);
        vm.prank(holder);
        governor.castVote(id, 1);
        _execute(id);
        vm.assertEq(parameters.current().feePpm, 70_000);
        vm.assertEq(parameters.currentId(), 1);
    }

    function test_a_vote_by_signature_counts() external {
        uint256 id = _propose();
        vm.warp(governor.proposalSnapshot(id) + 1);
        bytes32 hash = keccak256(abi.encode(governor.BALLOT_TYPEHASH(), id, uint8(1), holder, uint256(0)));
        bytes memory signature = sign(keyOf("holder"), _ballotDigest(hash));
        governor.castVoteBySig(id, 1, holder, signature);
        _execute(id);
        vm.assertEq(parameters.current().feePpm, 70_000);
    }

    function test_a_vote_within_bounds_only() external {
        _calls[0] = _appendFee(200_001);
        uint256 id = _propose();
        vm.warp(governor.proposalSnapshot(id) + 1);
        vm.prank(holder);
        governor.castVote(id, 1);
        _queue(id);
        vm.warp(governor.proposalEta(id));
        vm.expectRevert(
            abi.encodeWithSelector(IParameters.OutOfBounds.selector, bytes32("feePpm"), 200_001, 0, 200_000)
        );
        governor.execute(_targets, _values, _calls, keccak256(bytes(_DESCRIPTION)));
    }

    function test_flash_loaned_votes_do_not_count() external {
        uint256 id = _propose();
        uint256 voteStart = governor.proposalSnapshot(id) + 1;
        vm.warp(voteStart);
        address borrower = accountOf("borrower");
        vm.prank(holder);
        token.transfer(borrower, SUPPLY);
        vm.prank(borrower);
        token.delegate(borrower);
        vm.prank(borrower);
        vm.assertEq(governor.castVote(id, 0), 0);
        (uint256 against, , ) = governor.proposalVotes(id);
        vm.assertEq(against, 0);
    }

    function test_a_late_quorum_leaves_time_for_an_answer() external {
        uint256 id = _propose();
        uint256 deadline = governor.proposalDeadline(id);
        vm.warp(deadline - 1);
        vm.prank(holder);
        governor.castVote(id, 1);
        vm.assertEq(governor.proposalDeadline(id), block.timestamp + 5 seconds);
        vm.warp(deadline + 1);
        vm.assertTrue(governor.state(id) == IGovernor.ProposalState.Active);
    }

    function test_a_proposer_withdraws_before_the_vote() external {
        uint256 id = _propose();
        vm.prank(holder);
        governor.cancel(_targets, _values, _calls, keccak256(bytes(_DESCRIPTION)));
        vm.assertTrue(governor.state(id) == IGovernor.ProposalState.Canceled);
    }

    function test_votes_run_by_the_clock_and_delegate_by_signature() external {
        vm.assertEq(token.CLOCK_MODE(), "mode=timestamp");
        vm.assertEq(governor.CLOCK_MODE(), "mode=timestamp");
        bytes32 typehash = keccak256("Delegation(address delegatee,uint256 nonce,uint256 expiry)");
        address delegate = accountOf("delegate");
        bytes32 hash = keccak256(abi.encode(typehash, delegate, token.nonces(holder), block.timestamp));
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), hash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keyOf("holder"), digest);
        token.delegateBySig(delegate, 0, block.timestamp, v, r, s);
        vm.assertEq(token.getVotes(delegate), SUPPLY);
        vm.assertEq(token.nonces(holder), 1);
    }

    function test_only_the_governor_uses_the_timelock(address caller) external view {
        vm.assume(caller != address(governor));
        vm.assertFalse(timelock.hasRole(timelock.PROPOSER_ROLE(), caller));
        vm.assertTrue(timelock.hasRole(timelock.PROPOSER_ROLE(), address(governor)));
        vm.assertTrue(caller == address(timelock) || !timelock.hasRole(timelock.DEFAULT_ADMIN_ROLE(), caller));
        (bool isAdmin, ) = access.hasRole(access.ADMIN_ROLE(), caller);
        vm.assertEq(isAdmin, caller == address(timelock));
    }

    function _propose() private returns (uint256 id) {
        vm.prank(holder);
        return governor.propose(_targets, _values, _calls, _DESCRIPTION);
    }

    function _queue(uint256 id) private {
        vm.warp(governor.proposalDeadline(id) + 1);
        governor.queue(_targets, _values, _calls, keccak256(bytes(_DESCRIPTION)));
    }

    function _execute(uint256 id) private {
        _queue(id);
        vm.warp(governor.proposalEta(id));
        governor.execute(_targets, _values, _calls, keccak256(bytes(_DESCRIPTION)));
    }

    function _ballotDigest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("loraledger governor"),
                keccak256("1"),
                block.chainid,
                address(governor)
            )
        );
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }
}
