#!/usr/bin/env bash
# Lays out beside the page of docs/demo what it runs: onnxruntime-web in ort, and its nets in files.
# Skips, and says why, where something cannot be had.
set -euo pipefail

python=$1
folder=docs/demo

what=page
. tools/optional.sh

"$python" examples/write_files.py digits "$folder/files"
if [[ ! -f $folder/ort/$web ]]; then
    have npm npm || skip "there is no npm to get $web with"
    rm -rf "$folder/ort"
    mkdir -p "$folder/ort"
    package=$(npm pack --silent --pack-destination "$folder/ort" "$web") ||
        skip "npm has no $web"
    tar -xzf "$folder/ort/$package" -C "$folder/ort" --strip-components=2 \
        package/dist/{ort.wasm.min.mjs,ort-wasm-simd-threaded.{mjs,wasm}}
    rm "$folder/ort/$package"
    touch "$folder/ort/$web"
fi
echo "The page: $python -m http.server -d docs, then http://localhost:8000/demo/"
