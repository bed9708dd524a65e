#!/usr/bin/env bash
# tiny-recursive-model 0.0.15: its Trainer divides learning_rate by batch_size * max_recurrent_steps, and stops the first batch
# after one supervision step.
#
# The optimizers (AdamW by default, Adam-atan2) do not depend on the scale of the loss, so one would expect learning_rate=1e-4,
# the published value, to move a weight by about 1e-4 in the first update. In 0.0.15 it moves by 1e-4 / (16 * 12) = 5.2e-7 with
# the default sizes, and twice the batch halves it again. Moreover the halting head starts at zero without a bias, which is a
# probability of 0.5 and therefore reaches the default threshold halt_prob_thres=0.5: every row of the first batch halts after
# the first of its 12 supervision steps. In the published code the head's bias starts at -5, so that no row halts. The README's
# example (one epoch of one batch) makes a single update.
#
# Affected: comparisons with published settings, and comparisons of batch sizes at one learning rate.
# Workaround: pass an optimizer as optim=, and set halt_prob_thres above 0.5 for the first updates.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q tiny-recursive-model==0.0.15 torch==2.13.0 accelerate==1.15.0 adam-atan2-pytorch==0.4.1 \
  einops==0.8.2 ema-pytorch==0.8.3 x-transformers==2.31.10
cat > "$work/program.py" <<'PROGRAM'
import contextlib
import io

import torch
from tiny_recursive_model import MLPMixer1D, TinyRecursiveModel, Trainer
from torch.utils.data import TensorDataset

for batch_size, threshold in (16, 0.5), (16, 0.6), (32, 0.5):
    torch.manual_seed(0)
    model = TinyRecursiveModel(dim=16, num_tokens=10, network=MLPMixer1D(dim=16, depth=2, seq_len=9))
    before = model.to_pred.weight.detach().clone()
    settings = {"learning_rate": 1e-4, "weight_decay": 0.0, "warmup_steps": 1, "halt_prob_thres": threshold, "epochs": 1}
    puzzles = TensorDataset(*torch.randint(0, 10, (2, batch_size, 9)))
    trainer = Trainer(model, puzzles, batch_size=batch_size, max_recurrent_steps=12, cpu=True, **settings)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        trainer()
    steps = printed.getvalue().count("loss: ") // 2
    text = f"one batch of {batch_size}, threshold {threshold}: {steps} of 12 steps"
    if steps == 1:
        text += f", a weight changes by at most {(model.to_pred.weight - before).abs().max().item():.1e}"
    print(text)
PROGRAM
found=$("$work/venv/bin/python" "$work/program.py")
expected=$(cat <<'TEXT'
one batch of 16, threshold 0.5: 1 of 12 steps, a weight changes by at most 5.2e-07
one batch of 16, threshold 0.6: 12 of 12 steps
one batch of 32, threshold 0.5: 1 of 12 steps, a weight changes by at most 2.6e-07
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
