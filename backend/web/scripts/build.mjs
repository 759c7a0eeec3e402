// Builds the scripts of the pages into backend/web/static/built: htmx, as its package has it, and one module for
// each entry. The modules bundle the verifier (clients/typescript) and import nothing at run time.
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { build } from "esbuild";

const here = import.meta.dirname;
const root = join(here, "..", "..", "..");
const { values } = parseArgs({ options: { out: { type: "string" } } });
const out = values.out ?? join(here, "..", "static", "built");
const htmx = join(root, "node_modules", "htmx.org");

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
copyFileSync(join(htmx, "dist", "htmx.min.js"), join(out, "htmx.js"));
copyFileSync(join(htmx, "LICENSE"), join(out, "htmx.LICENSE.txt"));
await build({
  entryPoints: [
    "page.ts",
    "receipt.ts",
    "transactions.ts",
    "upload.ts",
    "import.ts",
    "job.ts",
    "play.ts",
  ].map((name) => join(here, name)),
  outdir: out,
  bundle: true,
  format: "esm",
  minify: true,
  platform: "browser",
  target: "es2022",
  legalComments: "eof",
});
