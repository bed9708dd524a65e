#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6: a transposed array saved by safetensors.numpy is read back with different values.
#
# safetensors.numpy.save_file accepts arrays; numpy's own save handles any memory layout. In 0.8.0 the bytes are copied from
# memory in their physical order and stored with the logical shape: weights.T is read back with the right shape and permuted
# values, array[::-1] and array[:, ::2] with values of neighbouring elements. The function for torch raises an error for
# tensors that are not contiguous, so one would expect an error here, too. Upstream it is safetensors issue 825, about arrays
# in Fortran order, as returned by scikit-learn, which 0.7.0 handled correctly.
#
# Affected: exports of linear layers for a framework that stores them transposed: shapes match, but outputs are wrong.
# Workaround: np.ascontiguousarray on each array before saving; load the file again and compare.
#
# Exits with an error if the output differs from the expected one.
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
