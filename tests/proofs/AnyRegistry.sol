// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {OperatorRegistry} from "../../contracts/OperatorRegistry.sol";
import {Stake} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {OperatorState} from "../../contracts/interfaces/ISettlement.sol";
import {Proof} from "./Prover.sol";

/// @notice A token with arbitrary balances, which lets anyone pull any amount and may refuse to send any.
contract AnyToken {
    mapping(address account => uint256 units) public balanceOf;
    bool private _sends;

    function transferFrom(address from, address to, uint256 units) external returns (bool) {
        unchecked {
            balanceOf[from] -= units;
            balanceOf[to] += units;
        }
        return true;
    }

    function transfer(address, uint256) external view returns (bool) {
        return _sends;
    }

    function approve(address, uint256) external pure returns (bool) {
        return true;
    }
}

/// @notice A settlement with arbitrary states of the operators.
contract AnySettlement {
    mapping(address operator => OperatorState) private _states;

    function stateOf(address operator) external view returns (OperatorState memory) {
        return _states[operator];
    }
}

/// @notice The registry to which a stake moves. It makes any call of the former registry before it pulls the stake; some
/// of them change nothing.
contract AnyNext is Proof {
    AnyToken private immutable _token;

    constructor(AnyToken token) {
        _token = token;
    }

    function stakeFor(address, uint256 units) external {
        (bool success, ) = msg.sender.call(svm.createCalldata("OperatorRegistry"));
        vm.assume(success);
        _token.transferFrom(msg.sender, address(this), units);
    }
}

/// @notice An operator registry with arbitrary storage, and an arbitrary operator with a batch that is pending or to be
/// refunded.
abstract contract AnyRegistry is Proof {
    struct OpenBatch {
        uint64 number;
        uint128 slashUpTo;
    }

    AnyToken private immutable _token = new AnyToken();
    AnySettlement internal immutable _settlement = new AnySettlement();
    AnyNext internal immutable _next = new AnyNext(_token);
    OperatorRegistry internal immutable _registry = new OperatorRegistry(
        IERC20(address(_token)),
        address(_settlement)
    );

    address internal _operator;

    /// @dev Starts with a batch that the stake covers.
    function _begin(address operator, OpenBatch calldata batch) internal {
        _begin(operator);
        OperatorState memory state = _settlement.stateOf(operator);
        vm.assume(state.finalised < batch.number && batch.number <= uint256(state.last) + state.toRefund);
        vm.assume(_isCovered(batch));
    }

    function _begin(address operator) internal {
        svm.enableSymbolicStorage(address(_registry));
        svm.enableSymbolicStorage(address(_settlement));
        svm.enableSymbolicStorage(address(_token));
        _operator = operator;
    }

    function _stake() internal view returns (Stake memory) {
        return _registry.stakeOf(_operator);
    }

    /// @dev What the operator is unstaking covers only the batches that lock it.
    function _isCovered(OpenBatch memory batch) internal view returns (bool) {
        Stake memory stored = _stake();
        uint256 unstaking = batch.number > stored.lockedByBatch ? stored.unstaking : 0;
        return uint256(stored.stake) + stored.slashed >= unstaking + batch.slashUpTo;
    }

    /// @dev Any call that succeeds.
    function _call(address sender) internal {
        _send(sender, svm.createCalldata("OperatorRegistry"));
    }

    /// @dev Any call of one function that succeeds.
    function _call(address sender, bytes4 selector) internal {
        bytes memory data = svm.createCalldata("OperatorRegistry");
        vm.assume(bytes4(data) == selector);
        _send(sender, data);
    }

    function _send(address sender, bytes memory data) private {
        vm.prank(sender);
        (bool success, ) = address(_registry).call(data);
        vm.assume(success);
    }
}
