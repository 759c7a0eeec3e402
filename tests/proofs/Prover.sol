// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @notice The cheatcodes of Halmos for symbolic calldata and storage.
interface Prover {
    function createCalldata(string calldata contractName) external returns (bytes memory);
    function enableSymbolicStorage(address target) external;
}

/// @notice The cheatcodes that Halmos shares with test runners.
interface Cheats {
    function assume(bool condition) external pure;
    function prank(address sender) external;
}

/// @notice Base of all proofs. A function `check_...` holds if no arguments violate its assertions. Arguments that make
/// it revert are no counterexample, so a proof that a call cannot revert must make the call and assert its success. A
/// function `refute_...` makes a false claim about the same code. Halmos must find a counterexample, which shows that
/// the other proofs are not vacuously true.
abstract contract Proof {
    Prover internal constant svm = Prover(address(uint160(uint256(keccak256("svm cheat code")))));
    Cheats internal constant vm = Cheats(address(uint160(uint256(keccak256("hevm cheat code")))));
}
