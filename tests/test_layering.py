"""Allowed imports between packages, checked in the source without running it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("config", "dataset", "evaluators", "models", "utils")
ENTRY_POINTS = ("pretrain", "evaluate", "solve", "export", "app")
# Parts of the entry points, also above the packages.
ABOVE = ("training_run", "trained_run")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")) + sorted(
    ROOT.glob("*.py")
)

# Packages of this repository that each folder may import, and heavy libraries that it must not import.
ALLOWED = {
    "dataset": {
        "dataset",
        *(f"utils.{name}" for name in ("errors", "files", "hub", "interrupts", "lock", "modules", "reading")),
    },
    "models": {"models", "dataset.format", "dataset.units", "utils.strict_model"},
    "utils": {"utils"},
    "evaluators": {"evaluators", "models", "dataset", "utils", "puzzle_dataset"},
    "config": {"config", "models", "utils", "evaluators.strategies"},
}
# `load_pretrained` is in models/ for convenience, and imports higher layers when it is called.
# Reports on a run are commands, and open runs and data like the entry points, as does a part of solve.py.
EXCEPTIONS = {
    "models/__init__.py": {"trained_run"},
    "evaluators/plots.py": {"config"},
    "evaluators/memorisation.py": {"config"},
    "evaluators/reports/memorisation_report.py": {"config", "trained_run"},
    "evaluators/reports/run_comparison.py": {"config"},
    "evaluators/reports/run_figures.py": {"config", "trained_run"},
    "evaluators/reports/run_groups.py": {"config"},
    "evaluators/reports/training_cost.py": {"trained_run"},
    "evaluators/reports/training_result.py": {"training_run"},
    "evaluators/exports/model_card.py": {"trained_run"},
    "evaluators/exports/step_export.py": {"trained_run"},
    "evaluators/calibrated.py": {"trained_run"},
    "evaluators/solving_files.py": {"config", "trained_run"},
}
FORBIDDEN_LIBRARIES = {"dataset": {"torch"}, "models": {"wandb", "hydra", "omegaconf"}}


def imported_names(path: Path, root: Path = ROOT) -> set[str]:
    """Return all dotted names that a file imports anywhere; `from a.b import c` counts as `a.b` and `a.b.c`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                [*path.relative_to(root).parts[: -node.level], *filter(None, [node.module])]
                if node.level
                else []
            )
            module = ".".join(base) or node.module
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def is_below(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def strongly_connected(imports: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of the modules; a module outside any cycle is its own component."""
    reached = {name: set(others) for name, others in imports.items()}
    for middle in imports:
        for name in imports:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    groups = []
    for name in imports:
        if not any(name in group for group in groups):
            groups.append({name} | {other for other in reached[name] if name in reached[other]})
    return groups


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_module_map(path):
    folder = path.relative_to(ROOT).parts[0] if path.parent != ROOT else None
    ours = {*FOLDERS, "puzzle_dataset", *ABOVE, *ENTRY_POINTS}
    for name in imported_names(path):
        top = name.partition(".")[0]
        # A command that composes its config imports itself as a module after checking the arguments.
        assert top not in {*ENTRY_POINTS} - {path.stem}, f"{path} imports the entry point {name}"
        if folder:
            assert top not in FORBIDDEN_LIBRARIES.get(folder, ()), f"{path} imports {name}"
        if folder and top in ours:
            # `from dataset import format` also names the package, which does not import its other modules.
            allowed = ALLOWED[folder] | EXCEPTIONS.get(str(path.relative_to(ROOT)), set())
            fine = any(is_below(name, module) or is_below(module, name) for module in allowed)
            assert fine, f"{path} imports {name}; {folder}/ may import {sorted(ALLOWED[folder])}"


def test_build_scripts_are_not_imported():
    for path in MODULES:
        assert not any("build_" in name for name in imported_names(path) if name.startswith("dataset")), path


def test_no_module_of_dataset_shadows_the_standard_library():
    # Scripts run with dataset/ first on the import path.
    import sys

    assert not {path.stem for path in (ROOT / "dataset").glob("*.py")} & set(sys.stdlib_module_names)


def import_cycles(root: Path) -> list[list[str]]:
    """Return the groups of modules of a repository that import each other."""
    paths = [
        *root.glob("*.py"),
        *(path for name in (*FOLDERS, "benchmarks") for path in (root / name).rglob("*.py")),
    ]
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }
    imports = {name: imported_names(path, root) & modules.keys() - {name} for name, path in modules.items()}
    return [sorted(circle) for circle in strongly_connected(imports) if len(circle) > 1]


def test_there_are_no_import_cycles():
    circles = import_cycles(ROOT)
    assert not circles, "\n".join(" and ".join(circle) + " import each other" for circle in circles)


def test_cycles_are_found_through_functions_and_other_modules():
    imports = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set()}
    assert [circle for circle in strongly_connected(imports) if len(circle) > 1] == [{"a", "b", "c"}]
