// Builds the package: dist/index.js, one file without imports, for browsers and Node. With --types also the
// declarations, and src/openapi.ts, the types of the API, from the OpenAPI document. `--out FOLDER` replaces dist.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { build } from "esbuild";

const here = import.meta.dirname;
const root = join(here, "..", "..");
const { values } = parseArgs({ options: { types: { type: "boolean" }, out: { type: "string" } } });
const out = values.out ?? join(here, "dist");

await build({
  entryPoints: [join(here, "src", "index.ts")],
  outfile: join(out, "index.js"),
  bundle: true,
  format: "esm",
  minify: true,
  platform: "neutral",
  target: "es2022",
});

if (values.types) {
  const document = join(root, "tests", "snapshots", "openapi.json");
  run("openapi-typescript/bin/cli.js", "ignore", document, "--output", join(here, "src", "openapi.ts"));
  run("typescript/bin/tsc", "inherit", "--project", join(here, "tsconfig.build.json"), "--outDir", out);
}

/** Runs a program of the repository's node_modules. A failure ends the build with its status. */
function run(program, output, ...args) {
  const options = { cwd: root, stdio: ["ignore", output, "inherit"] };
  const { status } = spawnSync(process.execPath, [join(root, "node_modules", program), ...args], options);
  if (status !== 0) process.exit(status ?? 1);
}
