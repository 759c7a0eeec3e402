// npm run by Node < 22 skips Hardhat's native library, an optional dependency that asks for Node >= 22.
// Run npm once more under the Node that package.json brings, so that a plain `npm ci` works everywhere.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";

const agent = process.env.npm_config_user_agent ?? "";
const major = Number(/node\/v(\d+)/.exec(agent)?.[1] ?? process.versions.node.split(".")[0]);
const ownNode = "node_modules/node/bin/node";

if (major < 22 && !process.env.LORALEDGER_POSTINSTALL && existsSync(ownNode)) {
  execFileSync(
    ownNode,
    [process.env.npm_execpath, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"],
    { stdio: "inherit", env: { ...process.env, LORALEDGER_POSTINSTALL: "1" } },
  );
}
