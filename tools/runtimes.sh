#!/usr/bin/env bash
# Lets runtimes run the same files of gradients, each runtime in an environment of its own, and
# holds what they make of them against what is promised: `make runtimes`. Skips those that cannot be
# had, and says why. With no list of runtimes all run, and docs/runtimes.md is written anew.
set -euo pipefail

python=$1
old_python=$2
shift 2
folder=out/runtimes

what=runtimes
. tools/optional.sh

# Makes an environment with packages; false, with a word, where these cannot be had.
environment() {
    local name=$1 base=$2 log
    shift 2
    [[ -f .venv-$name/installed && "$(<".venv-$name/installed")" == "$*" ]] && return
    if ! "$base" -m venv --clear ".venv-$name" ||
        ! log=$(".venv-$name/bin/python" -m pip install -q "$@" 2>&1); then
        echo "runtimes: $name skipped: $(tail -1 <<<"${log:-$base makes no environment}")"
        return 1
    fi
    echo "$*" >".venv-$name/installed"
}

# The files that a runtime gets: for both targets, those of two kinds.
open=open-portable,fixed-portable,open-cpu,fixed-cpu
fixed=fixed-portable,other-portable,fixed-cpu,other-cpu

# Judges by a script, with a Python: `judge NAME PYTHON SCRIPT FILES`.
judge() {
    OMP_NUM_THREADS=1 "$2" "tools/runtimes/on_$3.py" "$folder" "$4" "$folder/results/$1.json"
}

onnxruntime_of() {
    environment "$1" "$old_python" "onnxruntime==$2" "numpy<2" || return 0
    judge "$1" ".venv-$1/bin/python" onnxruntime "$open"
}

web() {
    have npm npm && have chromium chromium ||
        { echo "runtimes: web-$1 skipped: there is no npm or no Chromium"; return 0; }
    if [[ ! -f $folder/ort/$web ]]; then
        mkdir -p "$folder/ort"
        local package
        package=$(npm pack --silent --pack-destination "$folder" "$web") &&
            npm install --silent --no-audit --no-fund --no-save --prefix out "$driver" ||
            { echo "runtimes: web-$1 skipped: npm has no $web or $driver"; return 0; }
        tar -xzf "$folder/$package" -C "$folder/ort" --strip-components=2 \
            package/dist/ort.{wasm,webgpu}.min.mjs \
            package/dist/ort-wasm-simd-threaded.{mjs,wasm} \
            package/dist/ort-wasm-simd-threaded.asyncify.{mjs,wasm}
        rm "$folder/$package"
        touch "$folder/ort/$web"
    fi
    # Shaders take long on a processor: of files for the target cpu WebGPU gets those of one kind.
    local files=$open
    [[ $1 == wasm ]] || files=${open%,*}
    (cd out && "../$python" ../tools/runtimes/on_web.py runtimes "$files" \
        "runtimes/results/web-$1.json" "$1" "$(command -v chromium)" runtimes/ort "${web#*@}")
}

run() {
    case $1 in
        onnxruntime | reference) judge "$1" "$python" "$1" "$open" ;;
        onnxruntime-1.15) onnxruntime_of "$1" 1.15.1 ;;
        onnxruntime-1.16) onnxruntime_of "$1" 1.16.3 ;;
        onnxruntime-1.17) onnxruntime_of "$1" 1.17.3 ;;
        openvino)
            environment openvino "$python" openvino==2026.4.1 || return 0
            judge openvino .venv-openvino/bin/python openvino "$open" ;;
        tract)
            environment tract "$python" tract==0.23.9 numpy || return 0
            judge tract .venv-tract/bin/python tract "$fixed" ;;
        web-*) web "${1#web-}" ;;
        *) echo "runtimes: there is no runtime $1"; return 2 ;;
    esac
}

all=(onnxruntime onnxruntime-1.15 onnxruntime-1.16 onnxruntime-1.17 reference openvino tract
    web-wasm web-webgpu)
rm -rf "$folder"/{open,fixed,other,results}
"$python" -m tools.runtimes.files "$folder"
for runtime in "${@:-${all[@]}}"; do
    run "$runtime" 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
done
[[ $# != 0 ]] || "$python" -m tools.runtimes.page
"$python" -m pytest -q tests/runtimes/test_matrix.py
