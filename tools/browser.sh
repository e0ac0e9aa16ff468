#!/usr/bin/env bash
# Uses the page of docs/demo in headless Chromium. Skips, and says why, where something cannot be had.
set -euo pipefail

python=$1
accessibility=axe-core@4.14.1

what=browser
. tools/optional.sh

bash tools/page.sh "$python"
have npm npm || skip "there is no npm"
have chromium chromium || skip "there is no chromium"

npm install --silent --no-audit --no-fund --no-save --prefix out "$driver" "$accessibility" ||
    skip "npm has no $driver or $accessibility"
"$python" -m pytest -q tests/examples/test_browser.py tests/examples/test_everywhere.py
