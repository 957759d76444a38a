#!/usr/bin/env bash
# Every test and measurement that wants a GPU, nine minutes at the most: bash benchmarks/gpu.sh [PYTHON]
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' || exit 1
failed=0
timeout 150 "$python" -m pytest -m gpu tests/engine/test_gpu.py || failed=1
timeout 160 "$python" benchmarks/step.py exp_city -d 0 -o pretrained_model=none --repeats 3 || failed=1
timeout 160 "$python" benchmarks/step.py exp_voc -d 0 -o pretrained_model=none --repeats 5 || failed=1
timeout 70 "$python" benchmarks/evaluate.py exp_city -d 0 -o pretrained_model=none || failed=1
exit $failed
