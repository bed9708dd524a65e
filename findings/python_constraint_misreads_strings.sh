#!/usr/bin/env bash
# python-constraint2 2.9.0: of constraints written as text, "x == -y" is solved as x == y, and "x // 2 == 3" as x == 3**2.
#
# The README prefers constraints as strings to lambdas: they are parsed into the library's own, faster constraints. One
# expects the same solutions from both. The parser, however, picks the names out of an equation of two variables and
# forgets a minus before one, and takes a division to the other side by writing a * for each /, so that // becomes **:
# for x // 2 == 3 the one solution given is 9, whose half is 4. "x == 0 - y", "x == -1*y" and "x // 2 == y" are solved
# rightly, so that a try with them finds nothing. No message tells how a string was understood.
#
# Hurt: who uses it as reference solver for a generator of puzzles: wrong answers, or "no solution", for valid puzzles.
# Guard: lambdas where there is a sign or //; check each answer by the rule itself, and the number of answers by brute force.
#
# Fails if the output is not the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q python-constraint2==2.9.0
cat > "$work/program.py" <<'PROGRAM'
from constraint import Problem


def solutions(domain, *constraint):
    problem = Problem()
    problem.addVariables(["x", "y"], domain)
    problem.addConstraint(*constraint)
    return sorted((found["x"], found["y"]) for found in problem.getSolutions())


signs = [-1, 0, 1]
print('"x == -y":', solutions(signs, "x == -y"))
print('"-x == y":', solutions(signs, "-x == y"))
print('"x == 0 - y":', solutions(signs, "x == 0 - y"))
print("lambda x, y: x == -y:", solutions(signs, lambda x, y: x == -y, ["x", "y"]))
numbers = range(1, 10)
print('"x // 2 == 3":', sorted({x for x, _ in solutions(numbers, "x // 2 == 3")}))
print("lambda x: x // 2 == 3:", sorted({x for x, _ in solutions(numbers, lambda x: x // 2 == 3, ["x"])}))
PROGRAM
found=$("$work/venv/bin/python" "$work/program.py")
expected=$(cat <<'TEXT'
"x == -y": [(-1, -1), (0, 0), (1, 1)]
"-x == y": [(-1, -1), (0, 0), (1, 1)]
"x == 0 - y": [(-1, 1), (0, 0), (1, -1)]
lambda x, y: x == -y: [(-1, 1), (0, 0), (1, -1)]
"x // 2 == 3": [9]
lambda x: x // 2 == 3: [6, 7]
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
