// Chromium, as the scripts here use it.

import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`); // playwright-core lies where they are started
const playwright = require("playwright-core");

export const launch = (executablePath) => playwright.chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic",
    "--disable-component-update", "--disable-sync", "--no-first-run"],
});
