#!/usr/bin/env bash
# pandas 3.1.1 and pyarrow 26.0.1: a Sudoku of 81 digits in a CSV file is read as a number, differently by each reader.
#
# The usual Sudoku tables have a column of questions and one of answers, each with 81 digits, 0 for an empty cell. Types are
# inferred unless they are given; 81 digits fit into no integer type of either library, so they should stay text. With the
# default engine of pandas the column has dtype object, like text columns for a long time, but contains Python ints: leading
# zeros, that is empty first cells, are lost, and str() gives 79 instead of 81 characters. With engine="pyarrow", and with
# pyarrow.csv itself, the column is float64, which keeps about 16 of the 81 digits of questions and answers.
# (apache/arrow issue 46853 and pandas issue 57666 are about short numbers with leading zeros.)
#
# Affected: code that converts back with str() or f"{x:.0f}", and pads or drops the rows of the wrong length.
# Workaround: dtype=str, or ConvertOptions(column_types=...) of pyarrow; check that each row has 81 characters.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pandas==3.1.1 pyarrow==26.0.1
cat > "$work/program.py" <<'PROGRAM'
from pathlib import Path

import pandas
import pyarrow.csv

question = "003020600900305001001806400008102900700000008006708200002609500800203009005010300"
answer = "483921657967345821251876493548132976729564138136798245372689514814253769695417382"
table = Path(__file__).with_name("sudoku.csv")
table.write_text(f"quizzes,solutions\n{question},{answer}\n")


def tell(reader, column, sent):
    value = column[0]
    print(f"{reader}: {type(value).__name__} {str(value)[:20]}..., {len(str(value))} characters, same {value == sent}")


default, arrow = pandas.read_csv(table), pandas.read_csv(table, engine="pyarrow")
text = pandas.read_csv(table, dtype=str)
tell("pandas, question", default.quizzes, question)
tell("pandas with engine pyarrow, question", arrow.quizzes, question)
tell("pandas with engine pyarrow, answer", arrow.solutions, answer)
print("the answer's last digits:", str(int(arrow.solutions[0]))[-20:], "for", answer[-20:])
print("pyarrow.csv:", pyarrow.csv.read_csv(table).schema.types)
tell("pandas with dtype=str, question", text.quizzes, question)
PROGRAM
found=$("$work/venv/bin/python" "$work/program.py")
expected=$(cat <<'TEXT'
pandas, question: int 30206009003050010018..., 79 characters, same False
pandas with engine pyarrow, question: float64 3.020600900305001e+7..., 21 characters, same False
pandas with engine pyarrow, answer: float64 4.839216579673458e+8..., 21 characters, same False
the answer's last digits: 48388130236241281024 for 14814253769695417382
pyarrow.csv: [DataType(double), DataType(double)]
pandas with dtype=str, question: str 00302060090030500100..., 81 characters, same True
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
