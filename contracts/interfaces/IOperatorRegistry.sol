// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice An operator's stake. Amounts in micro-units.
/// @param stake All that can be slashed, the leaving part included.
/// @param unstaking The part asked back; it covers no new batch.
/// @param unstakeAt Instant in seconds from which the leaving part may go; zero while none leaves.
/// @param lockedByBatch The batch that must be final before the leaving part may go.
struct Stake {
    uint128 stake;
    uint128 unstaking;
    uint64 unstakeAt;
    uint64 lockedByBatch;
}

/// @title Operator registry
/// @notice Operators' stakes, receipt keys and endpoints.
///
/// Units: an *amount* is in micro-units; `units` are the payment token's smallest units. Stakes are held here, apart
/// from the payers' money in the vault.
///
/// Trust: no owner. Only `disputes`, fixed at construction as one set with this registry and its settlement, can slash,
/// and never more than the stake. While no contract lives at that address nobody can slash.
interface IOperatorRegistry {
    /// @notice `operator` serves at `endpoint`.
    event EndpointChanged(address indexed operator, string endpoint);
    /// @notice `key` signs receipts of `operator`, for ever.
    event ReceiptKeyAdded(address indexed operator, address indexed key);
    /// @notice `amount` came into the stake of `operator`.
    event Staked(address indexed operator, uint128 amount);
    /// @notice `amount` of the stake may leave from `unstakeAt` on, once batch `lockedByBatch` is final.
    event UnstakeStarted(address indexed operator, uint128 amount, uint64 unstakeAt, uint64 lockedByBatch);
    /// @notice `amount` left the stake to its operator.
    event Unstaked(address indexed operator, uint128 amount);
    /// @notice `operator` lost `reward` to `challenger` and `rest` to `treasury`.
    event Slashed(
        address indexed operator,
        address indexed challenger,
        uint128 reward,
        address indexed treasury,
        uint128 rest
    );

    /// @notice `amount` of a slash could not be transferred to `payee`, who can withdraw it.
    event Owed(address indexed payee, uint128 amount);
    /// @notice `payee` withdrew the `amount` that was owed.
    event OwedWithdrawn(address indexed payee, uint128 amount);

    error ZeroAmount();
    error ZeroAddress();
    error UnexpectedTransfer(uint256 expected, uint256 received);
    error EndpointTooLong(uint256 length, uint256 maxLength);
    error KeyTaken(address key, address operator);
    error KeyIsOperator(address key);
    error KeyNotExternallyOwned(address key);
    error InvalidKeySignature(address key);
    error InsufficientStake(address operator, uint128 stake, uint128 amount);
    error NothingUnstakes(address operator);
    error StillLocked(address operator, uint64 unstakeAt);
    error BatchNotFinal(address operator, uint64 number);
    error NotDisputes(address caller);
    error NothingOwed(address payee);

    /// @notice States where the caller serves (an HTTPS base URL, at most 256 bytes). Empty means that it does not.
    function setEndpoint(string calldata endpoint) external;

    /// @notice Binds `key` to the caller for ever. The key consents by its `ReceiptKey(address operator)` signature, so
    /// that nobody can take another's key. It must be an externally owned account other than the caller.
    function addReceiptKey(address key, bytes calldata signature) external;

    /// @notice Adds `units` of the caller's tokens to the caller's stake. The registry needs an allowance.
    function stake(uint256 units) external;

    /// @notice Asks `amount` of the caller's stake back (anew, if some is leaving already). Zero cancels.
    function startUnstake(uint128 amount) external;

    /// @notice Pays the caller the part that has left its lock, in whole units, as far as it was not slashed.
    /// @return amount What left, in micro-units.
    function unstake() external returns (uint128 amount);

    /// @notice Takes `amount` of a stake, in whole units rounded down; `challenger` gets `challengerPpm` of it,
    /// `treasury` the rest. What cannot be transferred to one of them is owed to it. Only `disputes`.
    function slash(
        address operator,
        uint128 amount,
        address challenger,
        uint32 challengerPpm,
        address treasury
    ) external;

    /// @notice Pays the caller what slashes owe it.
    /// @return amount What left, in micro-units.
    function withdrawOwed() external returns (uint128 amount);

    /// @notice The token of the stakes: the payment token.
    function token() external view returns (IERC20);

    /// @notice How long a stake stays locked after it was asked back, in seconds.
    function unstakeSeconds() external view returns (uint64);

    /// @notice Whose batches lock the stakes.
    function settlement() external view returns (address);

    /// @notice Who alone can slash.
    function disputes() external view returns (address);

    /// @notice The operator to whom `key` is bound; zero if none.
    function operatorOfKey(address key) external view returns (address);

    /// @notice The state of an operator's stake.
    function stakeOf(address operator) external view returns (Stake memory);

    /// @notice What `payee` can withdraw of slashes whose transfer failed, in micro-units.
    function owed(address payee) external view returns (uint128);

    /// @notice The part of the stake that covers new batches, in micro-units.
    function coverOf(address operator) external view returns (uint128);
}
