"""Command-line overrides as users write them, turned into what Hydra accepts."""

from __future__ import annotations

import re

from omegaconf import OmegaConf

from utils.device import faster_dtype

# `key=value` or `a.b=value`; not `+key=`, `~key`, `--flag`, `hydra.x=`.
_PLAIN = re.compile(r"^\+?(?!hydra[./])([A-Za-z_][\w.]*)=")


# Recipes for CPUs write `forward_dtype: ${faster_dtype:${device}}`; a run's all_config.yaml holds what it came to.
OmegaConf.register_new_resolver("faster_dtype", faster_dtype, replace=True)

GROUPS = frozenset({"arch", "experiment", "optimizer"})


def force_overrides(argv: list[str], groups: frozenset[str] = GROUPS) -> list[str]:
    """Give plain `key=value` and `+key=value` the prefix `++`, except for config groups (`arch=`, `+experiment=`).

    `run_name=x`, `+run_name=x` and `++run_name=x` then all work whatever the default is, and a misspelt key reaches
    our own schema, which names the nearest valid ones.
    """
    forced = []
    for argument in argv:
        match = _PLAIN.match(argument)
        if match and match[1] not in groups:
            argument = "++" + argument.lstrip("+")
        elif argument in ("arch=null", "arch="):  # at which Hydra would show its own traceback
            argument = "++arch.name=null"
        forced.append(argument)
    return forced
