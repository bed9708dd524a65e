"""Names in published code (HRM, URM) that differ here: accepted in files, rejected with a hint on command lines."""

from __future__ import annotations

# Accepted in a published run's all_config.yaml, which names its architecture.
ACCEPTED_IN_FILES = {"data_path": "data_paths"}
# Key -> replacement. Rejected on command lines, because HRM's commands would train TRM, the default here.
KEYS = {
    "data_path": "write data_paths=[DIR], and arch=hrm if the command is HRM's: the default here is trm",
    "arch.loops": "URM's name for arch.halt_max_steps",
    "arch.num_layers": "URM's name for arch.L_layers",
    "use_muon": "write optimizer=muon",
}
# Choice of `arch=` -> ours.
ARCH_CHOICES = {"hrm_v1": "hrm"}
# `arch.name` of classes whose weights cannot be loaded here -> how to train the same architecture.
CLASSES = {
    "urm.urm@URM": "arch=urm is that architecture (arch.ffn=conv_swiglu; arch.halt_max_steps for URM's arch.loops, "
    "arch.L_layers for its arch.num_layers); published URM weights cannot be loaded"
}
