// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice Identifies a channel: `keccak256(abi.encode(payer, operator, collector))`.
type ChannelId is bytes32;

/// @notice A payer's isolated balance towards one operator under one collector. Amounts in micro-units.
/// @param balance What the channel holds, the thawing part included.
/// @param collected The line up to which the collector has collected; rises with every collection.
/// @param thawing What may leave from `thawedAt` on; more than the balance where a collection came in between.
/// @param thawedAt Instant in seconds; zero while nothing thaws.
struct Channel {
    uint128 balance;
    uint128 collected;
    uint128 thawing;
    uint64 thawedAt;
}

/// @notice What a payer allows a session key.
/// @param key The externally owned key that may sign vouchers; zero where a grant is optional and not given.
/// @param cap Ceiling in micro-units on the channel's `collected`; it only rises.
/// @param expiry Instant in seconds after which the key is not to be used; it only moves later.
struct SessionGrant {
    address key;
    uint128 cap;
    uint64 expiry;
}

/// @notice A granted session key. Its vouchers stay collectable until `expiry` plus the thaw, whenever it signed them:
/// a voucher carries no instant.
/// @param cap Ceiling in micro-units on the channel's `collected`.
/// @param expiry Instant in seconds, zero if the key was never granted; revoking moves it to the present if it lies
/// ahead.
/// @param isRevoked Whether the payer revoked the key, granted or not. A revoked key stays revoked.
struct Session {
    uint128 cap;
    uint64 expiry;
    bool isRevoked;
}

/// @notice An EIP-2612 permit over the deposited units, by the payer, to the vault.
struct Permit {
    uint256 deadline;
    uint8 v;
    bytes32 r;
    bytes32 s;
}

/// @notice An EIP-3009 `ReceiveWithAuthorization` over the deposited units, from the payer to the vault. Its nonce is
/// `depositNonce(channel, grant, salt)`, so that whoever relays it can change neither the channel nor the grant.
struct Authorization {
    uint256 validAfter;
    uint256 validBefore;
    bytes32 salt;
    uint8 v;
    bytes32 r;
    bytes32 s;
}

/// @notice A voucher, and how far a collector collects against it. Amounts in micro-units.
/// @param payer The channel's payer; operator and collector follow from the call.
/// @param before The channel's `collected` as the collector knows it; anything else reverts.
/// @param from The voucher's `from`: the payer waives everything below it, unpaid.
/// @param maxCumulative The voucher's ceiling on `collected`.
/// @param until The channel's `collected` afterwards.
/// @param r Signature of the voucher by the payer or a session key, compact as in EIP-2098.
/// @param vs Second half of the signature.
struct Collection {
    address payer;
    uint128 before;
    uint128 from;
    uint128 maxCumulative;
    uint128 until;
    bytes32 r;
    bytes32 vs;
}

/// @notice A collection to be undone. Fields as in `Collection`, `from` being where the paid interval began.
struct Refund {
    address payer;
    uint128 before;
    uint128 from;
    uint128 until;
}

/// @title Payment vault
/// @notice Holds every payment token of the market: channels, filled by payers, and pots, filled from channels by
/// collectors and emptied by them.
///
/// Units: an *amount* is in micro-units, 10^-6 of the token's smallest unit; `units` are the token's smallest units.
/// Tokens move in whole units only; what is left below one unit stays credited.
///
/// Trust: immutable, without owner, nothing to pause. A collector can take from a channel that names it what the payer
/// (or a session key of the payer) signed, and nothing else; a pot is moved by its collector alone, so a payer chooses
/// a collector as they would choose a contract to approve. Withdrawals thaw first, longer than any collector needs to
/// redeem a voucher, so that a served answer cannot be undone. The token must not charge on transfer; that is checked.
interface IPaymentVault {
    /// @notice Money comes into a channel that holds nothing and of which nothing was collected: what its id stands
    /// for, ahead of its first deposit, and of further ones if all was withdrawn before anything was collected.
    event ChannelOpened(
        ChannelId indexed channelId,
        address indexed payer,
        address indexed operator,
        address collector
    );
    /// @notice The channel's payer put `amount` into it.
    event Deposited(ChannelId indexed channelId, uint128 amount);
    /// @notice `key` may sign vouchers of the channel up to `cap`, until `expiry`.
    event SessionGranted(ChannelId indexed channelId, address indexed key, uint128 cap, uint64 expiry);
    /// @notice `key` is not to be used any more; its vouchers stay collectable until `collectableUntil`, which is zero
    /// if it was never granted.
    event SessionRevoked(ChannelId indexed channelId, address indexed key, uint64 collectableUntil);
    /// @notice `amount` of the channel may leave from `thawedAt` on. An amount of zero ends a thaw.
    event ThawStarted(ChannelId indexed channelId, uint128 amount, uint64 thawedAt);
    /// @notice `amount` left the channel to its payer.
    event Withdrawn(ChannelId indexed channelId, address indexed payer, uint128 amount);
    /// @notice `until - from` went from the channel into the pot; `from - before` was waived.
    event Collected(ChannelId indexed channelId, uint128 before, uint128 from, uint128 until);
    /// @notice `amount` went from the pot back into the channel, whose `collected` is `collected` again.
    event Refunded(ChannelId indexed channelId, uint128 amount, uint128 collected);

    error ZeroAmount();
    error ZeroAddress();
    error InvalidRecipient(address to);
    /// @notice The token delivered something else than it was asked for, as fee-on-transfer tokens do.
    error UnexpectedTransfer(uint256 expected, uint256 received);
    error ReentrancyGuardReentrantCall();
    error InvalidSignature(address signer);
    error CapLowered(address key, uint128 cap, uint128 newCap);
    error ExpiryLowered(address key, uint64 expiry, uint64 newExpiry);
    error ExpiryPassed(address key, uint64 expiry);
    error SessionIsRevoked(address key);
    error InsufficientBalance(ChannelId channelId, uint128 balance, uint128 amount);
    error NothingThaws(ChannelId channelId);
    error ThawTooLong(uint64 thawSeconds, uint64 maxThawSeconds);
    error StillThawing(ChannelId channelId, uint64 thawedAt);
    error NotRising(ChannelId channelId);
    error CollectedMismatch(ChannelId channelId, uint128 collected, uint128 before);
    error NothingToCollect(ChannelId channelId, uint128 from, uint128 until);
    error VoucherExceeded(ChannelId channelId, uint128 maxCumulative, uint128 until);
    error NothingToRefund(ChannelId channelId, uint128 before, uint128 from, uint128 until);
    error CapExceeded(ChannelId channelId, address key, uint128 cap, uint128 until);
    /// @notice The payer allowed `signer` nothing; zero where the signature is nobody's.
    error NotAuthorised(ChannelId channelId, address signer);
    /// @notice The vouchers of `key` were collectable until `collectableUntil`.
    error SessionOver(ChannelId channelId, address key, uint64 collectableUntil);
    error InsufficientPot(uint128 pot, uint128 amount);
    /// @notice With `amount` more than `limit` would ever have been paid out of the pot, of which `paid` was so far.
    error PaidOutLimit(uint128 paid, uint128 amount, uint128 limit);

    // --- payers ---

    /// @notice Puts `units` of the caller's tokens into the caller's channel. The vault needs an allowance.
    function deposit(address operator, address collector, uint256 units) external returns (ChannelId);

    /// @notice As `deposit`, and grants a session key if `grant` names one.
    function deposit(
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant
    ) external returns (ChannelId);

    /// @notice As `deposit`, after trying `permit`. A permit that fails (because somebody sent it already) is ignored:
    /// the allowance decides. Only by the payer's own transaction, as a permit binds neither channel nor grant.
    function depositWithPermit(
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant,
        Permit calldata permit
    ) external returns (ChannelId);

    /// @notice As `deposit`, by the payer's EIP-3009 authorization; anyone may relay it.
    function depositWithAuthorization(
        address payer,
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant,
        Authorization calldata authorization
    ) external returns (ChannelId);

    /// @notice Lets `grant.key` sign vouchers of the caller's channel. A further grant to the same key may only raise
    /// its cap and move its expiry later.
    function grantSession(address operator, address collector, SessionGrant calldata grant) external;

    /// @notice As `grantSession`, by the payer's `SessionGrant` signature (EOA or EIP-1271); anyone may relay it.
    function grantSessionWithSig(
        address payer,
        address operator,
        address collector,
        SessionGrant calldata grant,
        uint256 nonce,
        bytes calldata signature
    ) external;

    /// @notice Ends the use of a session key of the caller's channel, for ever. Its vouchers stay collectable for the
    /// thaw, so that an answer served against them is paid. A voucher carries no instant: one that the key signs after
    /// its revocation is collectable as long, so the grant's cap is what bounds the loss of a stolen key. A key that
    /// was never granted can be revoked too: a grant of it that was signed and not yet relayed is then refused, alone
    /// or with a deposit.
    function revokeSession(address operator, address collector, address key) external;

    /// @notice As `revokeSession`, by the payer's `SessionRevocation` signature (EOA or EIP-1271); anyone may relay it.
    function revokeSessionWithSig(
        address payer,
        address operator,
        address collector,
        address key,
        uint256 nonce,
        bytes calldata signature
    ) external;

    /// @notice Starts (or starts anew) the thaw of `amount` of the caller's channel. Zero ends a thaw;
    /// it reverts if nothing thaws.
    function thaw(address operator, address collector, uint128 amount) external;

    /// @notice Pays the caller what has thawed, in whole units, as far as the channel still holds it.
    /// @return amount What left, in micro-units.
    function withdraw(address operator, address collector) external returns (uint128 amount);

    // --- collectors ---

    /// @notice Moves from channels of (`payer`, `operator`, caller) into the pot of (caller, `operator`) what vouchers
    /// allow.
    /// @param operator Whose channels and whose pot.
    /// @param collections Strictly rising by channel id. Each must take something; one that fails reverts all, with an
    /// error that names its `channelId`.
    /// @return total The sum moved, in micro-units.
    /// @return spansHash `keccak256` over channelId 32, before 16, from 16, until 16, collection by collection, where
    /// `from` is the larger of `before` and the voucher's `from`.
    /// @return pot The pot afterwards.
    function collect(
        address operator,
        Collection[] calldata collections
    ) external returns (uint128 total, bytes32 spansHash, uint128 pot);

    /// @notice Undoes collections: pays each interval back from the pot of (caller, `operator`) into its channel, and
    /// sets `collected` to `before`, so that the vouchers can be collected against again.
    /// @param operator Whose channels and whose pot.
    /// @param refunds Each must be the latest collection of its channel, else all revert. That it is one that took
    /// place is the caller's to check, by the hash.
    /// @return total The sum moved, in micro-units.
    /// @return spansHash As `collect` returned it for these.
    function refund(
        address operator,
        Refund[] calldata refunds
    ) external returns (uint128 total, bytes32 spansHash);

    /// @notice Pays `units` out of the pot of (caller, `operator`). It emits nothing: the token's own event says what
    /// moved, and the collector's what for.
    /// @param operator Whose pot.
    /// @param to Who receives the tokens.
    /// @param units Token units.
    /// @param limit What may ever have been paid out of this pot, this payment included, in micro-units.
    function payOut(address operator, address to, uint256 units, uint128 limit) external;

    // --- views ---

    /// @notice The payment token.
    function token() external view returns (IERC20);

    /// @notice How long a withdrawal thaws, in seconds; at most 365 days.
    function thawSeconds() external view returns (uint64);

    /// @notice The id of a channel.
    function channelIdOf(address payer, address operator, address collector) external pure returns (ChannelId);

    /// @notice The state of a channel; all zero if nothing was ever deposited.
    function channelOf(ChannelId channelId) external view returns (Channel memory);

    /// @notice The state of a session key; all zero if it was neither granted nor revoked.
    function sessionOf(ChannelId channelId, address key) external view returns (Session memory);

    /// @notice What `collector` holds for `operator`, in micro-units.
    function potOf(address collector, address operator) external view returns (uint128);

    /// @notice The nonce that an EIP-3009 authorization must carry:
    /// `keccak256(abi.encode(channelId, grant.key, grant.cap, grant.expiry, salt))`.
    function depositNonce(
        ChannelId channelId,
        SessionGrant calldata grant,
        bytes32 salt
    ) external pure returns (bytes32);
}
