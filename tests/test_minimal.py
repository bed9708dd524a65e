"""Training and evaluation with only the packages of requirements-min.txt."""

from __future__ import annotations

import versions
from training_runs import ROOT, TINY, run_python

from utils.errors import OPTIONAL_PACKAGES, as_user_error

# Runs a script in which some packages cannot be imported, as if they were not installed.
WITHOUT = """
import sys
script, names, *arguments = sys.argv[1:]
class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in names.split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv, __file__ = [script, *arguments], script
sys.path[0] = script.rpartition("/")[0]
exec(compile(open(script).read(), script, "exec"))
"""


def without_optional_packages(script: str, *arguments: str, cwd, **environment: str):
    names = ",".join(OPTIONAL_PACKAGES)
    return run_python("-c", WITHOUT, str(ROOT / script), names, *arguments, cwd=cwd, **environment)


def test_the_optional_packages_are_those_that_the_minimum_lacks():
    assert sorted(OPTIONAL_PACKAGES.values()) == sorted(versions.ranges("requirements.txt"))
    assert not versions.ranges("requirements.txt").keys() & versions.ranges("requirements-min.txt").keys()


def test_training_evaluation_and_solving_work_without_them(sudoku4x4, tmp_path):
    data = f"data_paths=[{sudoku4x4}]"
    options = ["checkpoint_path=run", "epochs=8", "eval_interval=4"]
    done = without_optional_packages(
        "pretrain.py", *TINY, data, *options, cwd=tmp_path, WANDB_DISABLED="false"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B: the package wandb is not installed: pip install wandb") == 1
    assert (tmp_path / "run" / "result.txt").exists()
    assert not list(tmp_path.glob("**/*.png"))

    done = without_optional_packages("evaluate.py", "checkpoint=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no plot: the package matplotlib is not installed: pip install matplotlib" in done.stdout
    assert list(tmp_path.glob("run/evaluation_*/report.json"))

    done = without_optional_packages("solve.py", "checkpoint=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = without_optional_packages("solve.py", "checkpoint=run", "png=steps.png", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("Traceback")) == (2, 0)
    assert "is not installed: pip install" in done.stderr


def test_other_missing_modules_keep_their_traceback():
    assert as_user_error(ModuleNotFoundError("no", name="models.mine")) is None
    assert as_user_error(ImportError("broken", name="wandb")) is None


def test_a_blocked_package_cannot_be_imported(tmp_path):
    script = tmp_path / "a.py"
    script.write_text("import wandb\n")
    done = run_python("-c", WITHOUT, str(script), ",".join(OPTIONAL_PACKAGES), cwd=tmp_path)
    assert "ModuleNotFoundError: No module named 'wandb'" in done.stderr
