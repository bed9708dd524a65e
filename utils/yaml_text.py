"""Write YAML in which every string stays a string, whichever parser reads the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Quotes strings that PyYAML reads as strings, but other parsers read as something else.

    PyYAML reads YAML 1.1, in which a float has a point. OmegaConf and YAML 1.2 read `12e4567` as infinity and `1e5` as
    100000.0, YAML 1.2 reads `0o17` and `089` as integers, and some parsers of YAML 1.1 read `y` and `n` as booleans.
    """

    def represent_str(self, text: str) -> yaml.ScalarNode:
        # Unicode's line breaks keep their kind only as escapes, which need double quotes.
        style = '"' if re.search("[\x85\u2028\u2029]", text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)

_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\.[0-9]|[0-9])[0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9_]+)?|0o[0-7]+)$"),
    list("-+.0123456789"),
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))


def to_yaml(values: Mapping[str, Any]) -> str:
    """Convert a mapping of plain values to YAML text, its keys in order."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
