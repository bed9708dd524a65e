#!/usr/bin/env bash
# safetensors 0.8.0: save_file makes a file that only its owner can read, whatever the umask, also in place of a public one.
#
# Python's open, numpy.save and torch.save create files with mode 0666 less the umask, usually 0644, and keep the mode of a file
# that they overwrite. safetensors.numpy.save_file and safetensors.torch.save_file write 0600 in both cases; 0.7.0 wrote 0644.
#
# Affected: weights on a shared disk or behind a web server that runs as another user, and images built by root: readers get
# "permission denied" although the folder and the other files of the same export are readable.
# Workaround: write the bytes of safetensors.torch.save (or numpy.save) with open, or chmod afterwards.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/program.py" <<'PROGRAM'
import os
import stat
import sys

import numpy as np
import safetensors
from safetensors.numpy import save, save_file

os.chdir(sys.argv[1])
arrays = {"a": np.zeros(3, np.float32)}
np.save("numpy.npy", arrays["a"])
save_file(arrays, "new.safetensors")
open("public.safetensors", "w").close()
save_file(arrays, "public.safetensors")
with open("bytes.safetensors", "wb") as file:
    file.write(save(arrays))
for name in ("numpy.npy", "new.safetensors", "public.safetensors", "bytes.safetensors"):
    print(safetensors.__version__, name, oct(stat.S_IMODE(os.stat(name).st_mode)))
PROGRAM
found=""
for version in 0.7.0 0.8.0; do
    mkdir "$work/$version"
    python3 -m venv "$work/venv-$version"
    "$work/venv-$version/bin/pip" install -q "safetensors==$version" numpy==2.2.6
    found+=$("$work/venv-$version/bin/python" "$work/program.py" "$work/$version")$'\n'
done
expected=$(cat <<'TEXT'
0.7.0 numpy.npy 0o644
0.7.0 new.safetensors 0o644
0.7.0 public.safetensors 0o644
0.7.0 bytes.safetensors 0o644
0.8.0 numpy.npy 0o644
0.8.0 new.safetensors 0o600
0.8.0 public.safetensors 0o600
0.8.0 bytes.safetensors 0o644
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo -n "$found")
