"""Reading puzzle tables; errors name file and line."""

from __future__ import annotations

import os
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dataset.sources import find_table, question_length, read_rows
from utils.errors import UserError

HEADER = "source,question,answer,rating\n"
SYMBOLS = {"question_symbols": ".12", "answer_symbols": "12"}


def table(path, text: str, header: str = HEADER):
    path.write_text(header + text, encoding="utf-8")
    return path


def test_rows_are_read_as_character_codes_with_their_ratings(tmp_path):
    path = table(tmp_path / "t.csv", "a,.1,21,7\nb,2.,21,\n")
    rows = read_rows(path, **SYMBOLS)
    assert rows.questions.dtype == np.uint8
    assert [bytes(row).decode() for row in rows.questions] == [".1", "2."]
    assert [bytes(row).decode() for row in rows.answers] == ["21", "21"]
    assert rows.ratings[0] == 7
    assert np.isnan(rows.ratings[1])
    assert rows.numbers.tolist() == [0, 1]
    assert question_length(path) == 2


def test_columns_are_found_by_name_and_blank_lines_skipped(tmp_path):
    path = table(
        tmp_path / "t.csv",
        "21,5,x,.1,more\r\n\r\n12,6,x,1.,more\r\n",
        "answer,rating,source,question,extra\r\n",
    )
    rows = read_rows(path, **SYMBOLS)
    assert [bytes(row).decode() for row in rows.questions] == [".1", "1."]
    assert rows.ratings.tolist() == [5, 6]


def test_a_byte_order_mark_and_significant_spaces_are_understood(tmp_path):
    path = table(tmp_path / "t.csv", "m, S , S ,\n", "\ufeff" + HEADER)
    rows = read_rows(path, question_symbols=" S", answer_symbols=" S")
    assert bytes(rows.questions[0]) == b" S "


def test_rows_below_a_rating_are_skipped_but_numbers_are_kept(tmp_path):
    path = table(tmp_path / "t.csv", "a,.1,21,3\na,.2,12,5\na,1.,12,4.5\n")
    rows = read_rows(path, **SYMBOLS, min_rating=4)
    assert rows.numbers.tolist() == [1, 2]
    assert rows.where(0).endswith("t.csv line 3")
    assert rows.take(np.array([1])).numbers.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,.1,21,\na,.1.,21,\n", "line 3: its question has 3 characters instead of 2"),
        ("a,.1,21,\na,.1,2,\n", "line 3: its answer has 1 characters instead of 2"),
        ("a,.1,21,\na,.3,21,\n", "line 3: its question has '3' at character 2; allowed are '.12'"),
        ("a,.1,.1,\n", "line 2: its answer has '.' at character 1"),
        ("a,.€,21,\n", "line 2: its question has '?' at character 2"),
        ("a,.1,21\n", "line 2 has 3 fields, but its header has 4"),
        ("a,.1,21,,\n", "line 2 has 5 fields, but its header has 4"),
        ("a,.1,21,hard\n", "line 2: its rating is 'hard', not a number"),
        ("", "has no row"),
    ],
)
def test_a_wrong_row_is_rejected_with_file_and_line(tmp_path, text, message):
    path = table(tmp_path / "t.csv", text)
    with pytest.raises(UserError) as error:
        read_rows(path, **SYMBOLS)
    assert str(path) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("header", ["", "a,.1,21,\n", "question answer\n"])
def test_a_table_without_its_header_is_rejected(tmp_path, header):
    path = table(tmp_path / "t.csv", "a,.1,21,\n", header)
    with pytest.raises(
        UserError,
        match=r"t\.csv has no question column: its first line must be a header such as source,quest",
    ):
        read_rows(path, **SYMBOLS)


@pytest.mark.parametrize(
    "text",
    [
        "puzzle,solution\n.1,21\n2.,21\n",
        "Solutions,Quizzes\n21,.1\n21,2.\n",
        "# from somewhere\n\nid;Question;ANSWER\n1;.1;21\n2;2.;21\n\n;;\n",
        'puzzle\tsolution\n".1"\t"21"\n2.\t21\n',
        "\ufeffpuzzle , solution,clues\r\n.1,21,17\r\n2.,21,18\r\n",
    ],
)
def test_the_headers_of_published_tables_are_understood(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    rows = read_rows(path, **SYMBOLS)
    assert [bytes(row).decode() for row in rows.questions] == [".1", "2."]
    assert [bytes(row).decode() for row in rows.answers] == ["21", "21"]
    assert np.isnan(rows.ratings).all()
    starts = [line for line in text.splitlines() if ".1" in line or "2." in line]
    assert [text.splitlines()[line - 1] for line in rows.lines] == starts


def test_a_column_called_difficulty_is_the_rating(tmp_path):
    path = table(tmp_path / "t.csv", "2.5,.1,21\n", "Difficulty,puzzle,solution\n")
    assert read_rows(path, **SYMBOLS).ratings.tolist() == [2.5]


def test_two_columns_of_the_same_meaning_and_a_missing_answer_are_rejected(tmp_path):
    path = table(tmp_path / "t.csv", ".1,.1,21\n", "puzzle,question,answer\n")
    with pytest.raises(
        UserError, match=r"t\.csv line 1: the columns question and puzzle could both be the question"
    ):
        read_rows(path, **SYMBOLS)
    path = table(tmp_path / "t.csv", ".1,1\n", "puzzle,rating\n")
    with pytest.raises(
        UserError, match=r"t\.csv line 1: .* has no answer column; it must be called answer or"
    ):
        read_rows(path, **SYMBOLS)


def test_a_missing_rating_is_rejected_only_if_needed(tmp_path):
    path = table(tmp_path / "t.csv", "a,.1,21,9\na,.2,12,\n")
    assert len(read_rows(path, **SYMBOLS)) == 2
    with pytest.raises(UserError, match="line 3 has no rating"):
        read_rows(path, **SYMBOLS, min_rating=1)
    path = table(tmp_path / "t.csv", "a,.1,21,9\n")
    with pytest.raises(UserError, match="has no row rated 10 or higher"):
        read_rows(path, **SYMBOLS, min_rating=10)


def test_a_file_that_is_not_text_is_rejected(tmp_path):
    (tmp_path / "t.csv").write_bytes(HEADER.encode() + b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a CSV file"):
        read_rows(tmp_path / "t.csv", **SYMBOLS)


def test_a_local_folder_must_contain_the_table(tmp_path):
    with pytest.raises(UserError, match=r"test\.csv does not exist"):
        find_table("test", source_csv=tmp_path, source_repo="a/b")
    table(tmp_path / "test.csv", "")
    assert find_table("test", source_csv=tmp_path, source_repo="a/b") == tmp_path / "test.csv"


def test_the_dataset_file_is_downloaded_from_the_hub(monkeypatch, tmp_path):
    asked = []

    def download(repo, name, repo_type):
        asked.append((repo, name, repo_type))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_table("train", source_csv=None, source_repo="a/b") == tmp_path / "train.csv"
    assert asked == [("a/b", "train.csv", "dataset")]


def hub_error() -> HfHubHTTPError:
    return HfHubHTTPError.__new__(HfHubHTTPError)  # its constructor needs a response of the HTTP library


@pytest.mark.parametrize(
    "failure",
    [
        LocalEntryNotFoundError("no connection\nmore"),
        HFValidationError("repo id must be ..."),
        ConnectionError("unreachable"),
        hub_error(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_an_unreachable_hub_is_reported_with_alternatives(monkeypatch, failure):
    def download(*arguments, **settings):
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError) as error:
        find_table("train", source_csv=None, source_repo="a/b")
    message = str(error.value)
    assert "cannot get train.csv of the dataset a/b from the hub" in message
    assert "--source-csv DIR" in message
    assert "--generate N" in message
    assert "\n" not in message


def test_a_download_from_an_unresponsive_hub_ends_in_one_line_without_warnings(tmp_path):
    code = (
        "import time; time.sleep = lambda seconds: None\n"  # pauses of newer libraries between attempts
        "from dataset.sources import download_table; from utils.errors import UserError\n"
        "try: download_table('a/b', 'train.csv')\n"
        "except UserError as error: print(error)"
    )
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_")
    } | unreachable
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.startswith("cannot get train.csv of the dataset a/b from the hub")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_the_hub_library_is_imported_only_when_used():
    code = (
        "import sys, dataset.sources, dataset.build_sudoku_dataset; print('huggingface_hub' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
