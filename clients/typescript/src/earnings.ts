/** The check of what a batch credits for a receipt. */

import type { Chain, ParameterSet } from "./chain.ts";
import { split, sumOf } from "./charge.ts";
import type { Balance, Entry, Proof } from "./documents.ts";
import type { Hex } from "./encoding.ts";
import { type Check, chargesOf, type Facts, open, orInvalid, placeOf, right, wrong } from "./facts.ts";
import type { Share } from "./hashing.ts";
import { BALANCES_TAG, ENTRIES_TAG, entryKey, resolve } from "./merkle.ts";
import type { Receipt } from "./messages.ts";

/** A receipt may have a thousand shares, and public nodes limit how many calls they answer at once. */
const CALLS_AT_ONCE = 8;

/**
 * Whether the batch credits each part of the charge to whom it belongs. `charge` and `batch`: those checks.
 */
export async function checkEarnings(facts: Facts, charge: Check, batch: Check): Promise<Check> {
  const { proof, chain } = facts;
  if (proof === null) return open("earnings", "there is no proof of what the batch credits for it");
  if (batch.isRight === false) return open("earnings", "the proof is not of this receipt in its batch");
  const fault = faultOfOpenings(facts.file.receipt, proof);
  if (fault !== null) return wrong("earnings", fault);
  const accounts = proof.balances.length;
  const message = `${proof.entries.length} parts for ${accounts} accounts sum to the charge`;
  if (chain === null) return open("earnings", `${message}; only a node knows the terms of the split`);
  if (batch.isRight !== true || charge.isRight !== true) {
    return open("earnings", `${message}; whose they are is open until charge and batch are right`);
  }
  const due = await entriesDue(facts, await chain.parameterSet(proof.header.parameterSet), chain);
  if (due === null) return wrong("earnings", "a manifest names a contribution that is not registered");
  const differing = due.find((entry, at) => !isEqual(entry, proof.entries[at]));
  if (differing === undefined && due.length === proof.entries.length) {
    return right("earnings", `${message} and are as the terms split it`);
  }
  const extra = differing ?? proof.entries[due.length]!;
  return wrong("earnings", `part ${extra.part} of slice ${extra.slice} is not as the terms split the charge`);
}

/** What is wrong with the openings of the receipt's entries and of the balances of those that they credit. */
function faultOfOpenings(receipt: Receipt, proof: Proof): string | null {
  const { header, entries, balances } = proof;
  const earned = sumOf(entries.map((entry) => entry.opening.value));
  if (earned !== receipt.charge) return `the entries sum to ${earned}, not to ${receipt.charge}`;
  const credited = [...new Set(entries.map((entry) => entry.account))].sort();
  if (credited.join() !== balances.map((balance) => balance.account).join()) {
    return "the balances are not of the accounts with entries";
  }
  return orInvalid(() => {
    const isEntry = ({ account, slice, part, opening }: Entry) => {
      const key = entryKey(account, proof.receipt.index, slice, part);
      const opened = resolve(ENTRIES_TAG, key, header.entriesCount, opening);
      return opened.root === header.entriesRoot && opened.total === header.total;
    };
    if (!entries.every(isEntry)) return "an entry's path leads to another root or sum than the batch's";
    const isBalance = ({ account, opening }: Balance) => {
      const opened = resolve(BALANCES_TAG, account, header.balancesCount, opening);
      return opened.root === header.balancesRoot && opened.total === header.cumulativeTotal;
    };
    if (!balances.every(isBalance)) return "a balance's path leads to another root or sum than the batch's";
    return null;
  });
}

type Due = Pick<Entry, "account" | "slice" | "part"> & { readonly value: bigint };

/** The receipt's entries by the terms; null if a contribution is not the one that the registry has. */
async function entriesDue(facts: Facts, terms: ParameterSet, chain: Chain): Promise<Due[] | null> {
  const { file } = facts;
  const records = file.slices.map((slice) => facts.versions.get(slice.versionId)!);
  const due: Due[] = [];
  for (const [at, charge] of chargesOf(file, records).entries()) {
    const [slice, record] = [file.slices[at]!, records[at]!];
    const parts = split(charge, terms.feePpm, record.operatorPpm, record.creatorPpm, slice.shares);
    const contributors = await contributorsOf(slice.shares, record.snapshots, facts, chain);
    if (contributors.includes(null)) return null;
    const paid = contributors.length > 0 ? (contributors as Hex[]) : [terms.treasury];
    const accounts = [terms.treasury, file.operator, record.creator, ...paid];
    const values = [parts.fee, parts.operator, parts.creator, ...parts.contributors];
    const entries = accounts.map((account, part) => {
      return { account, slice: BigInt(at), part: BigInt(part), value: values[part]! };
    });
    due.push(...entries.filter((entry) => entry.value > 0n));
  }
  return due;
}

/** Contributors of a slice's shares by the registry; null for one that it does not have. */
async function contributorsOf(shares: readonly Share[], known: readonly Hex[], facts: Facts, chain: Chain) {
  const find = ({ position }: Share) => {
    const { snapshot, index } = placeOf(position, known);
    const { datanetId, contributions } = facts.snapshots.get(snapshot!)!;
    return chain.contributorOf(datanetId, contributions.get(index)!.contentHash, index);
  };
  const found: (Hex | null)[] = [];
  for (let at = 0; at < shares.length; at += CALLS_AT_ONCE) {
    found.push(...(await Promise.all(shares.slice(at, at + CALLS_AT_ONCE).map(find))));
  }
  return found;
}

function isEqual(due: Due, entry: Entry | undefined): boolean {
  if (entry === undefined) return false;
  const isSamePlace = entry.slice === due.slice && entry.part === due.part;
  return isSamePlace && entry.account === due.account && entry.opening.value === due.value;
}
