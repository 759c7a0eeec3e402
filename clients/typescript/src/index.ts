export { type ApiOptions, fetchEvidence } from "./api.ts";
export { Chain, type ParameterSet } from "./chain.ts";
export { dollars, type Parts, type Prices, sliceCharge, split } from "./charge.ts";
export type { Content } from "./checks.ts";
export { type Market, readMarket, readReceipt, type ReceiptFile } from "./documents.ts";
export type { Hex } from "./encoding.ts";
export {
  ApiFailed,
  InvalidOpening,
  InvalidSignature,
  MalformedDocument,
  NodeFailed,
  VerifierError,
  WrongChain,
} from "./errors.ts";
export type { Check } from "./facts.ts";
export {
  acceptedHash,
  attributionHash,
  batchHash,
  channelId,
  type Header,
  responseBytes,
  saltedHash,
  type Share,
  type Slice,
  slicesHash,
  snapshotId,
  type Span,
  spansHash,
  versionId,
  type VersionRecord,
} from "./hashing.ts";
export {
  BALANCES_TAG,
  ENTRIES_TAG,
  entryKey,
  type Opening,
  RECEIPTS_TAG,
  resolve,
  type ResolvedLeaf,
} from "./merkle.ts";
export { digestOf, type Domain, domainSeparator, type Messages, structHash } from "./messages.ts";
export type { Provider } from "./node.ts";
export type { components, paths } from "./openapi.ts";
export { recover } from "./signatures.ts";
export { type Evidence, type Options, type Verdict, verifyReceipt } from "./verify.ts";
