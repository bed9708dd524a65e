#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: a transposed array, saved by safetensors.numpy, is read as other numbers.
#
# safetensors.numpy.save_file takes arrays, and numpy's own save keeps any of them, whatever their order in memory. In
# 0.8.0 the bytes are taken from memory as they lie, under the shape of the array: weights.T comes back as
# the right shape with the numbers in another order, array[::-1] and array[:, ::2] with numbers of the neighbours. The
# function for torch refuses a tensor that is not contiguous, so that one would expect an error here too. Upstream knows it
# as safetensors issue 825, for arrays in Fortran's order, which scikit-learn gives, and which 0.7.0 kept.
#
# Hurt: who exports linear layers for a framework that stores them transposed: all shapes fit, the model answers nonsense.
# Guard: np.ascontiguousarray on each array before saving; load the file again and compare.
#
# Fails if the output is not the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
cat > "$work/program.py" <<'PROGRAM'
import numpy as np
from safetensors.numpy import load, save

weights = np.arange(6).reshape(2, 3)
for name, array in {"weights": weights, "weights.T": weights.T}.items():
    print(f"{name}: {array.tolist()} is read as {load(save({'a': array}))['a'].tolist()}")
contiguous = np.ascontiguousarray(weights.T)
print("contiguous weights.T is read as", load(save({"a": contiguous}))["a"].tolist())
PROGRAM
found=$("$work/venv/bin/python" "$work/program.py")
expected=$(cat <<'TEXT'
weights: [[0, 1, 2], [3, 4, 5]] is read as [[0, 1, 2], [3, 4, 5]]
weights.T: [[0, 3], [1, 4], [2, 5]] is read as [[0, 1], [2, 3], [4, 5]]
contiguous weights.T is read as [[0, 3], [1, 4], [2, 5]]
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
