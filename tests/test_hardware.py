"""What the machine has, without torch."""

from __future__ import annotations

from utils.hardware import num_cores, num_gpus


def test_gpus_are_counted_by_their_files_and_what_is_visible(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert num_gpus(tmp_path) == 0
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert num_gpus(tmp_path) == 3
    for visible, number in (("0,1", 2), ("", 0), ("-1", 0), ("GPU-abc", 1), ("0,1,2,3", 3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert num_gpus(tmp_path) == number
    assert num_cores() >= 1
