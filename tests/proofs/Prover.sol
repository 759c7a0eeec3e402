// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @notice What the prover offers to a proof: calldata and storage that stand for all values at once.
interface Prover {
    function createCalldata(string calldata contractName) external returns (bytes memory);
    function enableSymbolicStorage(address target) external;
}

/// @notice The cheatcodes that the prover shares with test runners.
interface Cheats {
    function assume(bool condition) external pure;
    function prank(address sender) external;
}

/// @notice Base of all proofs. A function `check_...` holds if no arguments make one of its assertions fail; an
/// argument that makes it revert is no counterexample, so a proof that something cannot revert has to call it and to
/// assert success. A function `refute_...` claims something false about the same code: the prover must find its
/// counterexample, which shows that the proofs beside it do not hold for want of any path to look at.
abstract contract Proof {
    Prover internal constant svm = Prover(address(uint160(uint256(keccak256("svm cheat code")))));
    Cheats internal constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));
}
