"""benchmarks/trace.py on a CPU: its figures are consistent, and it lists the slowest operations."""

from __future__ import annotations

import re

from benchmarks.trace import main


def test_a_trace_reports_rate_ceiling_and_slowest_operations(capsys):
    own = ["arch.hidden_size=32", "arch.num_heads=2", "arch.L_cycles=2", "seq_len=36", "global_batch_size=4"]
    options = ["--device", "cpu", "--dtype", "float32", "--steps", "2", "--modes", "eager", "--kernels", "3"]
    main(["--set", *own, *options])
    output = capsys.readouterr().out
    ceiling = float(re.search(r"ceiling ([\d.]+) TFLOP/s", output)[1])
    steps, puzzles, mfu = map(
        float, re.search(r"([\d.]+) steps/s, (\d+) puzzles/s, .*MFU ([\d.]+)%", output).groups()
    )
    assert ceiling > 0
    assert 0 < mfu <= 100
    assert abs(puzzles - 4 * steps) <= 0.6
    assert "waits in 2 steps: none" in output
    shares = [float(share) for share in re.findall(r"^ +([\d.]+)%.* a step  \S", output, re.MULTILINE)]
    assert len(shares) == 3
    assert shares == sorted(shares, reverse=True)
