// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @notice Identifies a channel: `keccak256(abi.encode(payer, operator, collector))`.
type ChannelId is bytes32;

/// @notice A payer's isolated balance towards one operator under one collector. Amounts in micro-units.
/// @param balance Balance of the channel; includes `thawing`.
/// @param collected Cumulative amount up to which the collector has collected; every collection raises it.
/// @param thawing Amount that can be withdrawn from `thawedAt` on. Exceeds the balance if a collection or a move
/// reduced it.
/// @param thawedAt Unix seconds at which the thaw ends; zero if nothing is thawing.
struct Channel {
    uint128 balance;
    uint128 collected;
    uint128 thawing;
    uint64 thawedAt;
}

/// @notice Permission for a session key to sign a payer's vouchers.
/// @param key The externally owned key that may sign vouchers; zero for no grant, where a grant is optional.
/// @param cap Upper bound in micro-units on the channel's `collected`; further grants cannot lower it.
/// @param expiry Unix seconds after which the key must not be used; further grants cannot move it earlier.
struct SessionGrant {
    address key;
    uint128 cap;
    uint64 expiry;
}

/// @notice A payer's consent to move balance from a channel to the same operator's channel under another collector.
/// @param collector Collector of the channel that pays.
/// @param newCollector Collector of the channel that receives.
/// @param maxAmount Upper bound on the moved amount, in micro-units; the operator chooses the amount.
/// @param grant Session grant of the receiving channel; none if its key is zero.
/// @param nonce The payer's next nonce.
/// @param deadline Unix seconds until which the balance can be moved.
struct ChannelMove {
    address collector;
    address newCollector;
    uint128 maxAmount;
    SessionGrant grant;
    uint256 nonce;
    uint256 deadline;
}

/// @notice The state of a session key. Its vouchers are collectable until `expiry` plus the thaw, regardless of when
/// they were signed, because a voucher carries no timestamp.
/// @param cap Upper bound in micro-units on the channel's `collected`.
/// @param expiry Unix seconds; zero if the key was never granted. A revocation before `expiry` sets it to the current
/// time.
/// @param isRevoked Whether the payer revoked the key, granted or not. A revocation is permanent.
struct Session {
    uint128 cap;
    uint64 expiry;
    bool isRevoked;
}

/// @notice An EIP-3009 `ReceiveWithAuthorization` over the deposited units, from the payer to the vault. Its nonce is
/// `depositNonce(channel, grant, salt)`, so that the relayer can change neither the channel nor the grant.
/// @param validAfter Unix seconds after which it is valid.
/// @param validBefore Unix seconds before which it is valid.
/// @param salt Makes the nonce unique.
/// @param signature The payer's signature. One of 65 bytes (`r`, `s`, `v`) is passed to the token as `v, r, s`, which
/// every EIP-3009 token takes; one of another length as `bytes`, which tokens such as USDC (FiatTokenV2_2) take too.
/// The token verifies it; USDC asks a payer with code by EIP-1271, in both encodings.
struct Authorization {
    uint256 validAfter;
    uint256 validBefore;
    bytes32 salt;
    bytes signature;
}

/// @notice A voucher and the amount to collect against it. Amounts in micro-units.
/// @param payer The channel's payer; operator and collector follow from the call.
/// @param before Expected `collected` of the channel; the call reverts if it differs.
/// @param from The voucher's `from`: the interval below it is skipped without payment.
/// @param maxCumulative The voucher's upper bound on `collected`.
/// @param until The channel's `collected` after the collection.
/// @param r First half of the voucher's EIP-2098 signature by the payer or a session key.
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

/// @notice A collection to revert. Fields as in `Collection`, except that `from` is the start of the paid interval.
struct Refund {
    address payer;
    uint128 before;
    uint128 from;
    uint128 until;
}

/// @title Payment vault
/// @notice Holds the payment tokens of the market in channels and pots. Payers fund channels; a collector moves
/// amounts from channels into its pots and pays out of them.
///
/// Units: an *amount* is in micro-units, 10^-6 of the token's smallest unit; `units` are the token's smallest units.
/// Tokens move in whole units only; a remainder below one unit stays credited.
///
/// Trust: immutable, without owner or pause. A collector can take from a channel that names it only what the payer or a
/// session key of the payer signed. Only its collector can move a pot, so a payer chooses a collector with the same
/// care as a contract to approve. A withdrawal first thaws for longer than any collector needs to redeem a voucher, so
/// that a payer cannot withdraw before an answer is collected that was served against a balance that did not thaw. An
/// amount that thaws, or has thawed, can leave before: operators serve against the rest. Only the operator can shorten
/// the thaw, by moving a balance with the payer's consent. Tokens that charge on transfer, or have other than six
/// decimals, are refused.
interface IPaymentVault {
    /// @notice A deposit or a moved balance enters a channel with zero `balance` and zero `collected`. The event names
    /// the preimage of the channel's id. It precedes `Deposited`, and recurs if the channel was emptied while
    /// `collected` was zero.
    event ChannelOpened(
        ChannelId indexed channelId,
        address indexed payer,
        address indexed operator,
        address collector
    );
    /// @notice `amount` was deposited into the channel.
    event Deposited(ChannelId indexed channelId, uint128 amount);
    /// @notice `key` may sign vouchers of the channel up to `cap`, until `expiry`.
    event SessionGranted(ChannelId indexed channelId, address indexed key, uint128 cap, uint64 expiry);
    /// @notice `key` was revoked. Its vouchers stay collectable until `collectableUntil`, which is zero if the key was
    /// never granted.
    event SessionRevoked(ChannelId indexed channelId, address indexed key, uint64 collectableUntil);
    /// @notice `amount` can be withdrawn from `thawedAt` on. An amount of zero cancels the thaw.
    event ThawStarted(ChannelId indexed channelId, uint128 amount, uint64 thawedAt);
    /// @notice The payer withdrew `amount` from the channel.
    event Withdrawn(ChannelId indexed channelId, address indexed payer, uint128 amount);
    /// @notice `amount` moved to another channel of the same payer and operator, by the consent that used the payer's
    /// `nonce`. `Deposited` of the other channel follows.
    event BalanceMoved(ChannelId indexed channelId, ChannelId indexed newChannelId, uint128 amount, uint256 nonce);
    /// @notice `until - from` moved from the channel into the pot; `from - before` was skipped without payment.
    event Collected(ChannelId indexed channelId, uint128 before, uint128 from, uint128 until);
    /// @notice `amount` moved from the pot back into the channel, whose `collected` was reset to `collected`.
    event Refunded(ChannelId indexed channelId, uint128 amount, uint128 collected);

    error ZeroAmount();
    error ZeroAddress();
    /// @notice The payment token must have six decimals.
    error UnsupportedDecimals(address token, uint8 decimals);
    error InvalidRecipient(address to);
    error ReentrancyGuardReentrantCall();
    error InvalidSignature(address signer);
    error SignatureExpired(uint256 deadline);
    /// @notice The payer consented to move at most `maxAmount`.
    error MoveExceeded(uint128 maxAmount, uint128 amount);
    error CapLowered(address key, uint128 cap, uint128 newCap);
    error ExpiryLowered(address key, uint64 expiry, uint64 newExpiry);
    error ExpiryPassed(address key, uint64 expiry);
    error SessionIsRevoked(address key);
    error InsufficientBalance(ChannelId channelId, uint128 balance, uint128 amount);
    error NothingThawing(ChannelId channelId);
    error ThawTooLong(uint64 thawSeconds, uint64 maxThawSeconds);
    error StillThawing(ChannelId channelId, uint64 thawedAt);
    error ChannelsNotAscending(ChannelId channelId);
    error CollectedMismatch(ChannelId channelId, uint128 collected, uint128 before);
    error NothingToCollect(ChannelId channelId, uint128 from, uint128 until);
    error VoucherExceeded(ChannelId channelId, uint128 maxCumulative, uint128 until);
    error NothingToRefund(ChannelId channelId, uint128 before, uint128 from, uint128 until);
    error CapExceeded(ChannelId channelId, address key, uint128 cap, uint128 until);
    /// @notice `signer` has no grant from the payer; zero if no address can be recovered from the signature.
    error NotAuthorised(ChannelId channelId, address signer);
    /// @notice The vouchers of `key` were collectable only until `collectableUntil`.
    error VouchersExpired(ChannelId channelId, address key, uint64 collectableUntil);
    error InsufficientPot(uint128 pot, uint128 amount);
    /// @notice `paid`, the total paid out of the pot so far, and `amount` exceed `limit`.
    error PayoutLimitExceeded(uint128 paid, uint128 amount, uint128 limit);

    // --- payers ---

    /// @notice Deposits `units` of the caller's tokens into the caller's channel and grants a session key unless
    /// `grant.key` is zero. The vault needs an allowance.
    function deposit(
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant
    ) external returns (ChannelId);

    /// @notice Deposits as above, by the payer's EIP-3009 authorization. Anyone may relay it.
    function depositWithAuthorization(
        address payer,
        address operator,
        address collector,
        uint256 units,
        SessionGrant calldata grant,
        Authorization calldata authorization
    ) external returns (ChannelId);

    /// @notice Allows `grant.key` to sign vouchers of the caller's channel. A further grant to the same key can only
    /// raise its cap and extend its expiry.
    function grantSession(address operator, address collector, SessionGrant calldata grant) external;

    /// @notice Grants a session key by the payer's `SessionGrant` signature (EOA or EIP-1271). Anyone may relay it.
    function grantSessionWithSig(
        address payer,
        address operator,
        address collector,
        SessionGrant calldata grant,
        uint256 nonce,
        bytes calldata signature
    ) external;

    /// @notice Revokes a session key of the caller's channel permanently. Its vouchers stay collectable for the thaw,
    /// so that answers served against them are paid. A voucher carries no timestamp, so vouchers signed after the
    /// revocation are collectable for the same time; the grant's cap bounds the loss from a stolen key. A key that was
    /// never granted can be revoked too: a grant that was signed but not yet relayed is then refused, on its own and
    /// with a deposit.
    function revokeSession(address operator, address collector, address key) external;

    /// @notice Revokes a session key by the payer's `SessionRevocation` signature (EOA or EIP-1271). Anyone may relay
    /// it.
    function revokeSessionWithSig(
        address payer,
        address operator,
        address collector,
        address key,
        uint256 nonce,
        bytes calldata signature
    ) external;

    /// @notice Uses up the caller's next nonce, so that a grant, revocation or move that it signed with this nonce, and
    /// that was not relayed, is void. Reverts if the nonce is not the next one.
    function cancelNonce(uint256 nonce) external;

    /// @notice Starts to thaw `amount` of the caller's channel. It replaces a thaw in progress; zero cancels it and
    /// reverts if nothing is thawing.
    function thaw(address operator, address collector, uint128 amount) external;

    /// @notice Pays the caller the thawed amount in whole units, limited to the channel's balance.
    /// @return amount Amount withdrawn, in micro-units.
    function withdraw(address operator, address collector) external returns (uint128 amount);

    // --- operators ---

    /// @notice Moves `amount` from the payer's channel with the caller to the payer's channel with the caller under
    /// another collector, for instance that of a new generation, without a thaw. The payer consents by its
    /// `ChannelMove` signature (EOA or EIP-1271). The operator consents by the call: a thaw protects only the operator,
    /// which leaves in the channel what it has served and not collected.
    function moveBalance(
        address payer,
        ChannelMove calldata move,
        uint128 amount,
        bytes calldata signature
    ) external returns (ChannelId newChannelId);

    // --- collectors ---

    /// @notice Collects vouchers: moves amounts from channels of (`payer`, `operator`, caller) into the pot of (caller,
    /// `operator`).
    /// @param operator Operator of the channels and of the pot.
    /// @param collections Collections in strictly ascending order of channel id, each of a positive amount. Reverts if
    /// one of them fails; the error names its `channelId`.
    /// @return total Sum of the collected amounts, in micro-units.
    /// @return spansHash `keccak256` over channelId 32, before 16, from 16, until 16, collection by collection, where
    /// `from` is the larger of `before` and the voucher's `from`.
    /// @return pot The pot after the collection, in micro-units.
    function collect(
        address operator,
        Collection[] calldata collections
    ) external returns (uint128 total, bytes32 spansHash, uint128 pot);

    /// @notice Reverts collections: returns each interval from the pot of (caller, `operator`) to its channel and sets
    /// `collected` to `before`, so that the vouchers can be collected again.
    /// @param operator Operator of the channels and of the pot.
    /// @param refunds The latest collection of each channel; reverts if one is not the latest. The caller must verify
    /// by `spansHash` that the collections took place.
    /// @return total Sum of the refunded amounts, in micro-units.
    /// @return spansHash The hash that `collect` returned for these collections.
    function refund(
        address operator,
        Refund[] calldata refunds
    ) external returns (uint128 total, bytes32 spansHash);

    /// @notice Pays `units` out of the pot of (caller, `operator`). It emits no event: the token logs the transfer, and
    /// the collector its reason.
    /// @param operator Operator of the pot.
    /// @param to Recipient of the tokens.
    /// @param units Amount in token units.
    /// @param limit Upper bound on the total ever paid out of this pot, this payment included, in micro-units.
    function payOut(address operator, address to, uint256 units, uint128 limit) external;

    // --- views ---

    /// @notice The payment token, which has six decimals.
    function token() external view returns (IERC20);

    /// @notice Duration of a thaw in seconds; at most 28 days.
    function thawSeconds() external view returns (uint64);

    /// @notice Returns the id of a channel.
    function channelIdOf(address payer, address operator, address collector) external pure returns (ChannelId);

    /// @notice Returns the state of a channel; all zero if nothing was ever deposited.
    function channelOf(ChannelId channelId) external view returns (Channel memory);

    /// @notice Returns the state of a session key; all zero if it was neither granted nor revoked.
    function sessionOf(ChannelId channelId, address key) external view returns (Session memory);

    /// @notice Returns the pot of `collector` for `operator`, in micro-units.
    function potOf(address collector, address operator) external view returns (uint128);

    /// @notice Returns the nonce that an EIP-3009 authorization must carry:
    /// `keccak256(abi.encode(channelId, grant.key, grant.cap, grant.expiry, salt))`.
    function depositNonce(
        ChannelId channelId,
        SessionGrant calldata grant,
        bytes32 salt
    ) external pure returns (bytes32);
}
