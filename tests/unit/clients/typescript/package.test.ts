/** The package as it is built. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gzipSync } from "node:zlib";

import { ROOT } from "./support.ts";

const SOURCE = join(ROOT, "clients/typescript");
/** Bytes, gzipped. The README states the size. */
const LIMIT = 25_000;
let folder: string;

function node(...args: string[]): string {
  return execFileSync(process.execPath, args, { cwd: folder, encoding: "utf8" });
}

before(() => {
  folder = mkdtempSync(join(tmpdir(), "verify-"));
  const installed = join(folder, "node_modules/@loraledger/verify");
  cpSync(join(SOURCE, "package.json"), join(installed, "package.json"));
  node(join(SOURCE, "build.mjs"), "--out", join(installed, "dist"));
});
after(() => rmSync(folder, { recursive: true }));

test("the bundle is small and needs nothing but what browsers have", () => {
  const bundle = readFileSync(join(folder, "node_modules/@loraledger/verify/dist/index.js"));
  const size = gzipSync(bundle, { level: 9 }).length;
  assert.ok(size < LIMIT, `${size} bytes`);
  const foreign = /(?<![.\w$])(Buffer|process\.|require\(|__dirname)|\bfrom"|\bimport\(/.exec(
    bundle.toString(),
  );
  assert.equal(foreign, null);
});

test("every example of the README does what it says", () => {
  const readme = readFileSync(join(SOURCE, "README.md"), "utf8");
  const examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map((match) => match[1]!);
  assert.equal(examples.length, 1);
  writeFileSync(join(folder, "example.mjs"), examples[0]!);
  const said = node("example.mjs");
  assert.match(said, /^sign 0x[0-9a-f]{64} to allow 5 dollars\nsigned by 0x[0-9a-f]{40}\n$/);
});
