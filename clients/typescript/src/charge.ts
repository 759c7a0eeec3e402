/** Charge of an answer and its split, in micro-units. Source: docs/protocol.md, "Charge and split". */

import type { Share, Slice } from "./hashing.ts";

/** The whole, in ppm. */
export const PPM = 1_000_000n;
export const MAX_SLICES = 4;
export const MAX_SHARES = 256;
const MICRO_UNITS_PER_DOLLAR = 10n ** 12n;

/** Prices in token units per million tokens, which are micro-units per token. */
export interface Prices {
  readonly promptPrice: bigint;
  readonly completionPrice: bigint;
}

/** Parts of a slice's charge. Numbers: 0 fee, 1 operator, 2 creator, 3 + j contributor j. */
export interface Parts {
  readonly fee: bigint;
  readonly operator: bigint;
  readonly creator: bigint;
  readonly contributors: readonly bigint[];
}

/** `ppm` of an amount, rounded down. */
export function mulPpmDown(amount: bigint, ppm: bigint): bigint {
  return (amount * ppm) / PPM;
}

/** An amount in dollars, exact, without trailing zeros. */
export function dollars(microUnits: bigint): string {
  const rest = (microUnits % MICRO_UNITS_PER_DOLLAR).toString().padStart(12, "0").replace(/0+$/, "");
  return `${microUnits / MICRO_UNITS_PER_DOLLAR}${rest && `.${rest}`}`;
}

/** Charge of a slice at its version's prices, rounded down. */
export function sliceCharge(
  weightPpm: bigint,
  prices: Prices,
  promptTokens: bigint,
  completionTokens: bigint,
): bigint {
  const whole = promptTokens * prices.promptPrice + completionTokens * prices.completionPrice;
  return mulPpmDown(whole, weightPpm);
}

/** Splits a slice's charge; the parts sum to it. Without shares the pool is one part, for the treasury. */
export function split(
  charge: bigint,
  feePpm: bigint,
  operatorPpm: bigint,
  creatorPpm: bigint,
  shares: readonly Share[],
): Parts {
  const fee = mulPpmDown(charge, feePpm);
  const rest = charge - fee;
  const [operator, creator] = [mulPpmDown(rest, operatorPpm), mulPpmDown(rest, creatorPpm)];
  const pool = rest - operator - creator;
  const ppms = shares.map((share) => share.ppm);
  return { fee, operator, creator, contributors: ppms.length ? splitPool(pool, ppms) : [pool] };
}

/** What is wrong with the weights of an answer's slices; null if nothing. */
export function faultOfWeights(slices: readonly Slice[]): string | null {
  if (slices.length < 1 || slices.length > MAX_SLICES)
    return `${slices.length} slices, not 1 to ${MAX_SLICES}`;
  if (slices.some((slice) => slice.weightPpm <= 0n)) return "a slice has no weight";
  return faultOfSum(
    "the weights",
    slices.map((slice) => slice.weightPpm),
  );
}

/** What is wrong with an attribution list of a version with that many snapshots; null if nothing. */
export function faultOfShares(shares: readonly Share[], numSnapshots: number): string | null {
  if (numSnapshots === 0 && shares.length === 0) return null;
  if (numSnapshots === 0 || shares.length < 1 || shares.length > MAX_SHARES) {
    return `${shares.length} shares for ${numSnapshots} snapshots`;
  }
  const isRising = shares.every((share, at) => at === 0 || shares[at - 1]!.position < share.position);
  if (!isRising) return "positions of shares are out of order";
  if (shares.some((share) => share.ppm <= 0n)) return "a position has no share";
  return faultOfSum(
    "the shares",
    shares.map((share) => share.ppm),
  );
}

/** The remainder goes to the largest share, the first of them on a tie. */
function splitPool(pool: bigint, ppms: readonly bigint[]): bigint[] {
  const amounts = ppms.map((ppm) => mulPpmDown(pool, ppm));
  const largest = ppms.reduce((best, ppm, at) => (ppm > ppms[best]! ? at : best), 0);
  amounts[largest]! += pool - sumOf(amounts);
  return amounts;
}

function faultOfSum(what: string, ppms: readonly bigint[]): string | null {
  const sum = sumOf(ppms);
  return sum === PPM ? null : `${what} sum to ${sum} ppm, not to ${PPM}`;
}

export function sumOf(amounts: readonly bigint[]): bigint {
  return amounts.reduce((sum, amount) => sum + amount, 0n);
}
