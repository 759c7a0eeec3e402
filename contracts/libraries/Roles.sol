// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

/// @title Roles
/// @notice The roles of the access manager. All other restricted functions require the administrator, the timelock.
library Roles {
    /// @notice May pause commits for a bounded time.
    uint64 internal constant GUARDIAN = 1;

    /// @notice May accept and reject contributions.
    uint64 internal constant CURATOR = 2;
}
