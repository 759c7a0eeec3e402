// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice An operator's stake. Amounts in micro-units.
/// @param stake Total stake, which can be slashed.
/// @param unstaking Part of the stake being unstaked; it covers no new batch. Exceeds the stake if that was slashed or
/// moved meanwhile.
/// @param slashed Sum of all slashes so far.
/// @param lockedByBatch Number of the batch that must be final before `unstaking` can be withdrawn, unless nothing is
/// pending or to be refunded.
struct Stake {
    uint128 stake;
    uint128 unstaking;
    uint128 slashed;
    uint64 lockedByBatch;
}

/// @title Operator registry
/// @notice Holds operators' stakes and registers their receipt keys and endpoints.
///
/// Units: an *amount* is in micro-units; `units` are the payment token's smallest units. Stakes are held by this
/// contract, separately from payers' deposits in the vault.
///
/// Trust: no owner. Only `settlement`, which is fixed at construction, can slash, and never more than the stake. While
/// that address has no code, no slash is possible.
///
/// Slashes are cumulative, like vouchers: a batch's header states up to which sum the operator's slashes rise if the
/// batch is voided. `stake + slashed` is at least that sum for every batch that is pending or to be refunded: a commit
/// requires it even without `unstaking`, a slash keeps it, and only stake that was no cover of such a batch can leave.
interface IOperatorRegistry {
    /// @notice `operator` set its endpoint.
    event EndpointChanged(address indexed operator, string endpoint);
    /// @notice `key` was bound to `operator` permanently as a receipt key.
    event ReceiptKeyAdded(address indexed operator, address indexed key);
    /// @notice `operator` retired `key`: its signatures count for no batch committed after `retiredAt`.
    event ReceiptKeyRetired(address indexed operator, address indexed key, uint64 retiredAt);
    /// @notice `operator` staked `amount`.
    event Staked(address indexed operator, uint128 amount);
    /// @notice `amount` of the stake can be withdrawn once batch `lockedByBatch` is final, or nothing is pending or to
    /// be refunded.
    event UnstakeStarted(address indexed operator, uint128 amount, uint64 lockedByBatch);
    /// @notice `operator` withdrew `amount` of its stake, or moved it to another registry.
    event Unstaked(address indexed operator, uint128 amount);
    /// @notice The stake of `operator` was slashed: `reward` for `challenger`, `rest` for `treasury`.
    event Slashed(
        address indexed operator,
        address indexed challenger,
        uint128 reward,
        address indexed treasury,
        uint128 rest
    );

    /// @notice `amount` of a slash could not be transferred to `payee`, which can withdraw it.
    event Owed(address indexed payee, uint128 amount);
    /// @notice `payee` withdrew the amount that it was owed, to `to`.
    event OwedWithdrawn(address indexed payee, address indexed to, uint128 amount);

    error ZeroAmount();
    error ZeroAddress();
    error EndpointTooLong(uint256 length, uint256 maxLength);
    error KeyAlreadyBound(address key, address operator);
    error KeyIsOperator(address key);
    /// @notice `key` is not bound to `operator`.
    error KeyNotBound(address key, address operator);
    error KeyAlreadyRetired(address key, uint64 retiredAt);
    /// @notice The operator retired keys recently; it can retire others from `until` on.
    error KeyRetirementCoolingDown(uint64 until);
    error InvalidKeySignature(address key);
    error InsufficientStake(address operator, uint128 stake, uint128 amount);
    error NothingUnstaking(address operator);
    error StakeLocked(address operator, uint64 lockedByBatch);
    error NotSettlement(address caller);
    error NothingOwed(address payee);

    /// @notice Sets the caller's endpoint: an HTTPS base URL of at most 256 bytes, or empty while it does not serve.
    function setEndpoint(string calldata endpoint) external;

    /// @notice Binds `key` to the caller permanently. The key must sign `ReceiptKey(address operator)`, so that no
    /// operator can bind a key that it does not hold. It must not be the caller. Only the signature is checked, whether
    /// the account of the key has code or not.
    function addReceiptKey(address key, bytes calldata signature) external;

    /// @notice Retires a key of the caller for ever, for instance because it leaked: its signatures count for no batch
    /// committed in a later second. They keep counting for earlier batches, so that a retirement takes no evidence
    /// against a committed batch away.
    ///
    /// The operator signs its unsettled receipts again with another key: the same receipt signed twice is no
    /// equivocation. An operator could also retire a key to settle other receipts than those that it signed, so the
    /// frequency is limited: keys can be retired for one day after the first, and then none until 30 days after it.
    function retireReceiptKey(address key) external;

    /// @notice Transfers `units` from the caller into the caller's stake. This contract needs an allowance.
    function stake(uint256 units) external;

    /// @notice Transfers `units` from the caller into the stake of `operator`, to which they then belong. This contract
    /// needs an allowance.
    function stakeFor(address operator, uint256 units) external;

    /// @notice Starts unstaking `amount` of the caller's stake. It replaces an unstake in progress; zero cancels it.
    function startUnstake(uint128 amount) external;

    /// @notice Pays the caller the unlocked part of its stake in whole units, reduced to the stake that slashes left.
    /// @return amount Amount paid, in micro-units.
    function unstake() external returns (uint128 amount);

    /// @notice Moves `units` of the caller's stake into its stake in another registry, for instance that of a new
    /// generation, in one transaction. No batch of the caller may be pending or to be refunded.
    /// @param next The other registry; it must pull exactly `units` in `stakeFor`.
    function restake(IOperatorRegistry next, uint256 units) external;

    /// @notice Slashes a stake until the operator's slashes sum to `upTo`, in whole units: `challengerPpm` of it for
    /// `challenger`, the remainder for `treasury`. It has no effect if they already do. A payee whose transfer fails
    /// can withdraw its part later. Only `settlement`.
    function slash(
        address operator,
        uint128 upTo,
        address challenger,
        uint32 challengerPpm,
        address treasury
    ) external;

    /// @notice Pays out the slash proceeds of the caller whose transfer failed.
    /// @param to Account that receives them: the token may refuse the caller for ever.
    /// @return amount Amount paid, in micro-units.
    function withdrawOwed(address to) external returns (uint128 amount);

    /// @notice The staked token, which is the payment token.
    function token() external view returns (IERC20);

    /// @notice The settlement contract whose batches lock stakes: the only account that can slash.
    function settlement() external view returns (address);

    /// @notice Returns the operator to which `key` is bound, retired or not; zero if it is not bound.
    function operatorOfKey(address key) external view returns (address);

    /// @notice Returns when `key` was retired, in Unix seconds; zero if it is not retired.
    function retiredAt(address key) external view returns (uint64);

    /// @notice Returns whether signatures of `key` count as those of `operator` for a batch committed at `committedAt`:
    /// the key is bound to the operator and was not retired in an earlier second.
    function isReceiptKey(address key, address operator, uint64 committedAt) external view returns (bool);

    /// @notice Returns when `operator` retired the first key of its latest retirements, from which their frequency is
    /// limited, in Unix seconds; zero if it never retired one.
    function retirementsSince(address operator) external view returns (uint64);

    /// @notice Returns an operator's stake.
    function stakeOf(address operator) external view returns (Stake memory);

    /// @notice Returns the amount that `payee` can withdraw with `withdrawOwed`, in micro-units.
    function owed(address payee) external view returns (uint128);

    /// @notice Returns the part of the stake that covers new batches, and the sum of all slashes so far, in
    /// micro-units.
    /// @return cover The stake without `unstaking`.
    /// @return slashed The sum of all slashes.
    function coverOf(address operator) external view returns (uint128 cover, uint128 slashed);
}
