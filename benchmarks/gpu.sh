#!/usr/bin/env bash
# Every measurement and test that wants a GPU, in under ten minutes: bash benchmarks/gpu.sh [PYTHON]
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' || exit 1
failed=0
timeout 240 "$python" -m pytest -m gpu || failed=1
timeout 180 "$python" benchmarks/step.py exp_city -d 0 -o pretrained_model=none --repeats 3 || failed=1
timeout 90 "$python" benchmarks/step.py exp_voc -d 0 -o pretrained_model=none --repeats 5 || failed=1
timeout 90 "$python" benchmarks/evaluate.py exp_city -d 0 -o pretrained_model=none || failed=1
exit $failed
