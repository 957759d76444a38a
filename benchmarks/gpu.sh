#!/usr/bin/env bash
# Run every test and benchmark that needs a GPU, in ten minutes at most: bash benchmarks/gpu.sh [PYTHON]
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())' || exit 1
failed=0
compiled="compiled or replayed"
timeout 60 "$python" -m pytest -m gpu -k "not ($compiled)" tests/seg_opr/test_fused.py tests/engine/test_gpu.py || failed=1
# The published arrangement computes much on the host: few repeats and images.
timeout 180 "$python" benchmarks/step.py exp_city -d 0 -o pretrained_model=none --repeats 1 || failed=1
timeout 50 "$python" benchmarks/evaluate.py exp_city -d 0 -o pretrained_model=none --images 4 --rounds 2 || failed=1
timeout 100 "$python" benchmarks/step.py exp_voc -d 0 -o pretrained_model=none --repeats 2 || failed=1
small=(-o backbone=resnet18 -o image_height=256 -o image_width=256)
for compile in on reduce-overhead; do
    timeout 50 "$python" benchmarks/kernels.py exp_camvid -d 0 "${small[@]}" -o compile=$compile || failed=1
done
timeout 100 "$python" -m pytest -m gpu -k "$compiled" tests/engine/test_gpu.py || failed=1
exit $failed
