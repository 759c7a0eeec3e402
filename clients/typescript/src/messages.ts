/** Signed messages (EIP-712). Source: docs/protocol.md, "Signed messages". */

import { concat, type Hex, keccak, textBytes, toBytes, words } from "./encoding.ts";

/** Amounts in micro-units, `servedAt` in unix seconds. Verifying contract: `Settlement`. */
export interface Receipt {
  readonly channelId: Hex;
  readonly cumulative: bigint;
  readonly charge: bigint;
  readonly requestHash: Hex;
  readonly responseHash: Hex;
  readonly slicesHash: Hex;
  readonly promptTokens: bigint;
  readonly completionTokens: bigint;
  readonly attributionHash: Hex;
  readonly servedAt: bigint;
}

/**
 * A receipt whose attribution follows, at the latest at `receiptBy` (unix seconds). Its struct hash is the charge's
 * id. Verifying contract: `Settlement`.
 */
export interface Charge extends Omit<Receipt, "attributionHash"> {
  readonly receiptBy: bigint;
}

/** Amounts in micro-units. Verifying contract: `PaymentVault`. */
export interface Voucher {
  readonly channelId: Hex;
  readonly from: bigint;
  readonly maxCumulative: bigint;
}

/**
 * Permits `key` to sign vouchers up to the cumulative `cap` until `expiry`. Verifying contract:
 * `PaymentVault`.
 */
export interface SessionGrant {
  readonly channelId: Hex;
  readonly key: Hex;
  readonly cap: bigint;
  readonly expiry: bigint;
  readonly nonce: bigint;
}

/** Verifying contract: `PaymentVault`. */
export interface SessionRevocation {
  readonly channelId: Hex;
  readonly key: Hex;
  readonly nonce: bigint;
}

/** Verifying contract: `PaymentVault`. */
export interface ChannelMove {
  readonly payer: Hex;
  readonly operator: Hex;
  readonly collector: Hex;
  readonly newCollector: Hex;
  readonly maxAmount: bigint;
  readonly key: Hex;
  readonly cap: bigint;
  readonly expiry: bigint;
  readonly nonce: bigint;
  readonly deadline: bigint;
}

/** Verifying contract: `DatasetRegistry`. */
export interface Contribution {
  readonly account: Hex;
  readonly datanetId: bigint;
  readonly contentHash: Hex;
  readonly cidDigest: Hex;
  readonly licence: Hex;
  readonly rows: bigint;
  readonly nonce: bigint;
  readonly deadline: bigint;
}

/** Verifying contract: `Settlement`. */
export interface PayoutChange {
  readonly account: Hex;
  readonly newWallet: Hex;
  readonly nonce: bigint;
  readonly deadline: bigint;
}

/** A receipt key's consent to sign for an operator. Verifying contract: `OperatorRegistry`. */
export interface ReceiptKey {
  readonly operator: Hex;
}

/** All messages by the name of their type. */
export interface Messages {
  Receipt: Receipt;
  Charge: Charge;
  Voucher: Voucher;
  SessionGrant: SessionGrant;
  SessionRevocation: SessionRevocation;
  ChannelMove: ChannelMove;
  Contribution: Contribution;
  PayoutChange: PayoutChange;
  ReceiptKey: ReceiptKey;
}

/** The fields of each message in the order and with the types that are hashed. */
export const FIELDS: { readonly [T in keyof Messages]: string } = {
  Receipt:
    "bytes32 channelId,uint128 cumulative,uint128 charge,bytes32 requestHash,bytes32 responseHash," +
    "bytes32 slicesHash,uint32 promptTokens,uint32 completionTokens,bytes32 attributionHash,uint64 servedAt",
  Charge:
    "bytes32 channelId,uint128 cumulative,uint128 charge,bytes32 requestHash,bytes32 responseHash," +
    "bytes32 slicesHash,uint32 promptTokens,uint32 completionTokens,uint64 servedAt,uint64 receiptBy",
  Voucher: "bytes32 channelId,uint128 from,uint128 maxCumulative",
  SessionGrant: "bytes32 channelId,address key,uint128 cap,uint64 expiry,uint256 nonce",
  SessionRevocation: "bytes32 channelId,address key,uint256 nonce",
  ChannelMove:
    "address payer,address operator,address collector,address newCollector,uint128 maxAmount," +
    "address key,uint128 cap,uint64 expiry,uint256 nonce,uint256 deadline",
  Contribution:
    "address account,uint64 datanetId,bytes32 contentHash,bytes32 cidDigest,bytes32 licence," +
    "uint32 rows,uint256 nonce,uint256 deadline",
  PayoutChange: "address account,address newWallet,uint256 nonce,uint256 deadline",
  ReceiptKey: "address operator",
};

/** The EIP-712 domain of one contract. */
export interface Domain {
  readonly chainId: bigint;
  readonly contract: Hex;
}

const DOMAIN_TYPE = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)";

export function domainSeparator(domain: Domain): Hex {
  const names = [DOMAIN_TYPE, "loraledger", "1"].map(textHash);
  return keccak(words(...names, domain.chainId, domain.contract));
}

/** The struct hash of a message. That of a receipt is the receipt's id. */
export function structHash<T extends keyof Messages>(type: T, message: Messages[T]): Hex {
  const names = FIELDS[type].split(",").map((field) => field.split(" ")[1] as keyof Messages[T]);
  const values = names.map((name) => message[name] as bigint | Hex);
  return keccak(words(textHash(`${type}(${FIELDS[type]})`), ...values));
}

/** The hash that is signed. */
export function digestOf<T extends keyof Messages>(domain: Domain, type: T, message: Messages[T]): Hex {
  const parts = [domainSeparator(domain), structHash(type, message)].map(toBytes);
  return keccak(concat(new Uint8Array([0x19, 0x01]), ...parts));
}

function textHash(text: string): Hex {
  return keccak(textBytes(text));
}
