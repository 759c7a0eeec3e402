// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

/// @title Exact transfers
/// @notice Pulls tokens into this contract and reverts unless exactly the requested units arrive, so that tokens which
/// charge on transfer are refused. Checks in the same way what another contract pulls.
library ExactTransfer {
    using SafeERC20 for IERC20;

    /// @notice The balance of this contract rose by `received` units instead of `expected`. Where it fell, `received`
    /// is the difference modulo 2^256.
    error UnexpectedTransfer(uint256 expected, uint256 received);
    /// @notice The balance of this contract fell by `sent` units instead of `expected`. Where it rose, `sent` is the
    /// difference modulo 2^256.
    error UnexpectedSpending(uint256 expected, uint256 sent);

    /// @notice Transfers `units` from the caller to this contract, which needs an allowance.
    function pull(IERC20 token, uint256 units) internal {
        uint256 before = balance(token);
        token.safeTransferFrom(msg.sender, address(this), units);
        checkReceived(token, before, units);
    }

    /// @notice `token.balanceOf(address(this))`.
    function balance(IERC20 token) internal view returns (uint256 units) {
        bytes4 selector = IERC20.balanceOf.selector;
        // Every pull reads the balance twice, so the call and its result use the scratch space and allocate no memory.
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            mstore(0, selector)
            mstore(4, address())
            let isDone := staticcall(gas(), token, 0, 36, 0, 32)
            if iszero(and(isDone, gt(returndatasize(), 31))) { revert(0, 0) }
            units := mload(0)
        }
    }

    /// @notice Reverts unless the balance of this contract rose by exactly `units` since it was `before`.
    function checkReceived(IERC20 token, uint256 before, uint256 units) internal view {
        // A balance that fell wraps around to a difference that no transfer of `units` equals.
        unchecked {
            uint256 received = balance(token) - before;
            require(received == units, UnexpectedTransfer(units, received));
        }
    }

    /// @notice Reverts unless the balance of this contract fell by exactly `units` since it was `before`.
    function checkSent(IERC20 token, uint256 before, uint256 units) internal view {
        unchecked {
            uint256 sent = before - balance(token);
            require(sent == units, UnexpectedSpending(units, sent));
        }
    }
}
