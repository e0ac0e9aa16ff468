#!/usr/bin/env bash
# Makes the page of examples/browser in out/browser, with onnxruntime-web and the nets beside it,
# and uses it in headless Chromium. Skips, and says why, where something cannot be had.
set -euo pipefail

python=$1
runtime=onnxruntime-web@1.30.0
driver=playwright-core@1.65.1
folder=out/browser

what=browser
. tools/optional.sh

have npm npm || skip "there is no npm"
have chromium chromium || skip "there is no chromium"

mkdir -p "$folder/ort"
npm install --silent --no-audit --no-fund --no-save --prefix out "$runtime" "$driver" ||
    skip "npm has no $runtime or $driver"
cp examples/browser/* "$folder"
cp out/node_modules/onnxruntime-web/dist/{ort.wasm.min.mjs,ort-wasm-simd-threaded.{mjs,wasm}} "$folder/ort"
"$python" examples/write_files.py digits "$folder/files"
echo "The page: $python -m http.server -d $folder"

"$python" -m pytest -q tests/examples/test_browser.py tests/examples/test_everywhere.py
