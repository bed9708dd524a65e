"""Damaged and malicious files give one message that names the file."""

from __future__ import annotations

import ast
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError, report_user_errors
from utils.reading import MAX_DEPTH, open_npy, parse_json, read_json, read_mapping, read_npz, read_yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9" * 5000, "holds an integer of thousands of digits"),
        ("[" * 100_000, "is nested deeper than 50 levels"),
        ("[" * 60 + "]" * 60, "is nested deeper than 50 levels"),
        ('{"a":' * 60 + "1" + "}" * 60, "is nested deeper than 50 levels"),
        ('["\\ud800"]', "holds half of a surrogate pair"),
        ("{", "is not valid JSON (column 2"),
        ('{"a": 1,\n}', "is not valid JSON (line 2, column 1"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_json_that_python_cannot_represent_names_the_file(tmp_path, text, reason):
    path = tmp_path / "file.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: {reason}")


def test_json_with_maximum_nesting_byte_order_mark_and_surrogate_pairs_is_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_text("\ufeff" + "[" * MAX_DEPTH + '"\\ud83d\\ude00"' + "]" * MAX_DEPTH, encoding="utf-8")
    value = read_json(path)
    for _ in range(MAX_DEPTH):
        (value,) = value
    assert value == "\N{GRINNING FACE}"


def test_a_missing_file_or_a_folder_is_reported(tmp_path):
    for read in (read_json, read_yaml, open_npy, read_npz):
        with pytest.raises(UserError, match=rf"{tmp_path}/none: is missing; build it"):
            read(tmp_path / "none", missing="is missing; build it")
        with pytest.raises(UserError, match=rf"^{tmp_path}: "):
            read(tmp_path)


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
_MERGE_BOMB = "a: &a {x: 1, y: 2, z: 3}\n" + "".join(
    f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("start: 2024-02-30", "is not valid YAML (day is out of range for month"),
        ("start: 2024-01-01 25:00:00", "is not valid YAML (hour must be in 0..23"),
        ("seed: " + "9" * 5000, "is not valid YAML (Exceeds the limit"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [true]", "is not valid YAML (could not determine a constructor"),
        ("a: &a [*a]", "is nested deeper than 50 levels"),
        ("[" * 5000, "is nested deeper than 50 levels"),
        (_BOMB, "its aliases expand to more than 100,000 values"),
        (_MERGE_BOMB, "is not valid YAML (its merge keys expand to too many values"),
        ("? [1, 2]\n: 3", "is not valid YAML (while constructing a mapping"),
        ("2024: 1", "has the key 2024, but keys must be text"),
        ("- 1", "holds a list, but must hold a mapping"),
    ],
)
def test_yaml_that_python_cannot_represent_names_the_file(tmp_path, text, reason):
    path = tmp_path / "all_config.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_mapping(path)
    assert str(error.value).startswith(f"{path}: {reason}")
    assert len(str(error.value)) < 400 + len(str(path))


def test_yaml_with_a_few_aliases_and_merge_keys_is_read(tmp_path):
    path = tmp_path / "all_config.yaml"
    path.write_text("paths: &id001 [a, b]\nothers: *id001\nbase: &base {x: 1}\nmore: {<<: *base, y: 2}\n")
    read = read_mapping(path)
    assert (read["others"], read["more"]) == (["a", "b"], {"x": 1, "y": 2})


def npy_header(descr: str, shape: str, version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy_header("'<i8'", "(99999999999, 99999999999)"), ""),
        (npy_header("'<i8'", "(" + "9" * 300 + ",)"), ""),
        (npy_header("'<i8'", "(-4,)") + bytes(32), ""),
        (npy_header("'|O'", "(1,)") + bytes(8), "Array can't be memory-mapped: Python objects"),
        (npy_header("'<U99999999'", "(4,)"), ""),
        (npy_header("'" + "(" * 300, "(4,)"), ""),
        (npy_header("(" * 900, "(4,)"), ""),
        (npy_header("[('a', '<i8', (2,)), ('a', '<i8')]", "(4,)"), ""),
        (b"\x93NUMPY\x07\x00" + bytes(80), ""),
        (b"", "No data left in file"),
    ],
)
def test_an_array_with_a_wrong_header_names_the_file(tmp_path, content, reason):
    path = tmp_path / "all__inputs.npy"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        open_npy(path)
    assert str(error.value).startswith(f"{path}: is truncated or not an npy array ({reason}")
    archive = tmp_path / "identifiers.npz"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("numbers.npy", content)
    with pytest.raises(UserError) as error:
        read_npz(archive)
    assert str(error.value).startswith(f"{archive}: is truncated or not an npz file (")


def test_an_archive_member_is_not_allocated_before_its_size_is_verified(tmp_path, monkeypatch):
    path = tmp_path / "identifiers.npz"
    np.savez(path, a=np.arange(4), b=np.zeros((2, 3), np.uint8))
    assert {key: value.shape for key, value in read_npz(path).items()} == {"a": (4,), "b": (2, 3)}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", npy_header("'|u1'", f"({10**9},)") + bytes(8))

    def reject(*args, **kwargs):
        raise AssertionError("the array was allocated")

    monkeypatch.setattr(np, "load", reject)
    with pytest.raises(UserError, match=r"a\.npy has the shape \(1000000000,\), but 8 bytes of data"):
        read_npz(path)


def test_json_lines_are_read_with_their_bytes():
    assert parse_json(b'{"a": [1]}', "x") == {"a": [1]}


@pytest.mark.parametrize("folder", ["config", "dataset", "evaluators", "models", "utils", "."])
def test_no_other_module_calls_parsers_directly(folder):
    """Only `utils/reading.py` and `utils/tensor_files.py` handle exceptions of parsers."""
    parsers = {("json", "load"), ("json", "loads"), ("yaml", "load"), ("yaml", "safe_load"), ("np", "load")}
    parsers |= {("torch", "load"), ("np", "fromfile")}
    paths = (ROOT / folder).glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    for path in paths:
        if path.name in ("reading.py", "tensor_files.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in parsers, f"{path}:{node.lineno}"


def test_unsupported_characters_are_printed_as_escapes(monkeypatch):
    import sys

    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)

    @report_user_errors
    def main():
        print("▀ \udcff")

    main()
    out.flush()
    assert out.buffer.getvalue() == b"\\u2580 \\udcff\n"


def test_a_file_name_that_is_too_long_gives_one_line(capsys):
    @report_user_errors
    def main():
        Path("x" * 5000).read_text()

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: xxx")
    assert line.endswith(": File name too long")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", ["npy"]),
        ("family", ["sudoku"]),
        ("family", 3),
        ("difficulty", {"a": 1}),
        ("box_shape", [2.0, 2.0]),
        ("box_shape", "2x2"),
        ("grid_shape", [4.5, 4]),
        ("grid_shape", [4]),
        ("grid_shape", [4, -4]),
        ("unsolved_tasks", 5),
        ("unknown_answers", {"a": 1}),
        ("unknown_answers", {"a": ["0"]}),
        ("sets", ["x" * 300]),
    ],
)
def test_a_dataset_key_of_the_wrong_type_is_reported(sudoku4x4, tmp_path, capsys, key, value):
    import shutil

    from dataset.format import open_split
    from dataset.report import main

    broken = shutil.copytree(sudoku4x4, tmp_path / "broken")
    path = broken / "test" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"{path}: {key} is .*, but "):
        open_split(broken, "test")
    assert main([str(broken)]) == 1
    assert f"{path}: {key} is " in capsys.readouterr().out
