#!/usr/bin/env bash
# Lays onnxruntime out for C++ in out/onnxruntime, as its releases do (include, lib), and tests the
# examples in C++: the library is that of the Python package, the headers are from npm, as neither
# the Python package nor Debian 12 has them. Skips, and says why, where something cannot be had.
set -euo pipefail

python=$1
headers=com.github.asus4.onnxruntime@0.4.9 # those of onnxruntime 1.29
api=29
folder=out/onnxruntime

what=cpp
. tools/optional.sh

have g++ g++ || skip "there is no g++"
library=$("$python" -c '
import glob, os, onnxruntime
print(*glob.glob(os.path.join(os.path.dirname(onnxruntime.__file__), "capi", "libonnxruntime.so.1.*")))')
[[ -n $library ]] || skip "the Python package of onnxruntime has no library of its own"
"$python" -c "
import onnxruntime, sys
sys.exit(int(onnxruntime.__version__.split('.')[1]) < $api)" ||
    skip "onnxruntime is older than the headers, 1.$api"

mkdir -p "$folder/lib"
ln -sf "$library" "$folder/lib/libonnxruntime.so"
ln -sf libonnxruntime.so "$folder/lib/libonnxruntime.so.1"
if [[ ! -f $folder/include/onnxruntime_cxx_api.h ]]; then
    have npm npm || skip "there is no npm to get the headers with"
    package=$(npm pack --silent --pack-destination "$folder" "$headers") ||
        skip "npm has no $headers"
    tar -xzf "$folder/$package" -C "$folder" --strip-components=6 \
        --wildcards '*/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers/*'
    rm "$folder/$package"
    mv "$folder/Headers" "$folder/include"
fi

"$python" -m pytest -q tests/examples/test_cpp.py tests/examples/test_everywhere.py
