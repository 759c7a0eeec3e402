/** Readers of untrusted JSON values. A reader returns a typed value or throws, with the path of the value. */

import type { Hex } from "./encoding.ts";
import { MalformedDocument } from "./errors.ts";

export type Reader<T> = (value: unknown, path: string) => T;
type Read<S> = { readonly [K in keyof S]: S[K] extends Reader<infer T> ? T : never };

/** Longest part of a value that an error repeats. */
const QUOTED = 60;

/** Lower-case hex of exactly `size` bytes. */
export function hex(size: number): Reader<Hex> {
  const pattern = new RegExp(`^0x[0-9a-f]{${2 * size}}$`);
  return matching(pattern, `${size} bytes in lower-case 0x-hex`) as Reader<Hex>;
}

/** Lower-case hex of any number of items of `size` bytes, at most `most`. */
export function hexItems(size: number, most: number): Reader<Hex> {
  // A pattern would recurse on each item in some engines.
  return (value, path) => {
    const isHex = typeof value === "string" && /^0x[0-9a-f]*$/.test(value);
    const count = isHex ? (value.length - 2) / (2 * size) : -1;
    if (!Number.isInteger(count) || count < 0 || count > most) {
      throw mismatch(value, path, `at most ${most} items of ${size} bytes in lower-case 0x-hex`);
    }
    return value as Hex;
  };
}

/** A string that matches. */
export function matching(pattern: RegExp, what: string): Reader<string> {
  return (value, path) => {
    if (typeof value !== "string" || !pattern.test(value)) throw mismatch(value, path, what);
    return value;
  };
}

/** A decimal string. */
export function decimal(bits: number): Reader<bigint> {
  const what = `a decimal string of a uint${bits}`;
  const digits = matching(/^[0-9]{1,78}$/, what);
  return (value, path) => {
    const number = BigInt(digits(value, path));
    if (number >> BigInt(bits)) throw mismatch(value, path, what);
    return number;
  };
}

/** A JSON number without fraction, at most 2^53 - 1: above, JSON numbers are not exact in JavaScript. */
export function integer(bits: number): Reader<bigint> {
  return (value, path) => {
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value >= 2 ** bits) {
      throw mismatch(value, path, `an integer of at most ${bits} bits`);
    }
    return BigInt(value);
  };
}

export function listOf<T>(reader: Reader<T>, least = 0, most = Infinity): Reader<readonly T[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw mismatch(value, path, "a list");
    if (value.length < least || value.length > most) {
      throw new MalformedDocument(`${path} has ${value.length} items, not ${least} to ${most}`, path);
    }
    return value.map((item, at) => reader(item, `${path}[${at}]`));
  };
}

/** An object with at least these keys; others are ignored. */
export function object<S extends Record<string, Reader<unknown>>>(shape: S): Reader<Read<S>> {
  return (value, path) => {
    const found = keysOf(value, path);
    const read = Object.entries(shape).map(([key, reader]) => {
      if (!Object.hasOwn(found, key))
        throw new MalformedDocument(`${path}.${key} is missing`, `${path}.${key}`);
      return [key, reader(found[key], `${path}.${key}`)];
    });
    return Object.fromEntries(read) as Read<S>;
  };
}

/** Null stands for a missing value. */
export function nullable<T>(reader: Reader<T>): Reader<T | null> {
  return (value, path) => (value === null ? null : reader(value, path));
}

function keysOf(value: unknown, path: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw mismatch(value, path, "an object");
  return value as Record<string, unknown>;
}

function mismatch(value: unknown, path: string, what: string): MalformedDocument {
  const text = JSON.stringify(value) ?? String(value);
  const shown = text.length > QUOTED ? `${text.slice(0, QUOTED)}...` : text;
  return new MalformedDocument(`${path} is ${shown}, not ${what}`, path);
}
