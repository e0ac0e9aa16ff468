#!/usr/bin/env bash
# Runs the runtime tests on onnxruntime-training, in an environment of its own as it takes
# onnxruntime's import name. Its package needs PyTorch. Skips, and says why, where that wheel cannot be had.
set -euo pipefail

python=$1
venv=.venv-training
wheel=onnxruntime-training

what=training-runtime
. tools/optional.sh

if [[ ! $venv/installed -nt pyproject.toml ]]; then
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null ||
        skip "$python is no Python 3.11"
    "$python" -m venv --clear "$venv"
    if ! log=$("$venv/bin/python" -m pip install -q -e ".[training,test,torch]" 2>&1); then
        echo "$log" >&2
        [[ $log == *"No matching distribution found for $wheel"* ]] || exit 1
        skip "no wheel of $wheel for this machine"
    fi
    touch "$venv/installed"
fi

"$venv/bin/python" -m pytest -q tests/runtimes/test_runtimes.py tests/train/test_training_runtime.py
