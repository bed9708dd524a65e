#!/usr/bin/env bash
# python-constraint2 2.9.0: the constraint "x == -y" is solved as x == y, and "x // 2 == 3" as x == 3**2.
#
# The README recommends constraints as strings over lambdas: they are parsed to faster built-in constraints. Expected: the
# same solutions for both. Actual: the parser extracts the names from an equation of two variables and drops a minus sign
# before them. It moves a division to the other side by replacing each / by *, so that // becomes **: for x // 2 == 3 it
# returns the single solution 9, although 9 // 2 is 4. "x == 0 - y", "x == -1*y" and "x // 2 == y" are solved correctly, so
# a test with these finds nothing. There is no message about how a string was parsed.
#
# Affected: its use as a reference solver for a puzzle generator: wrong answers, or "no solution", for valid puzzles.
# Workaround: lambdas for constraints with a sign or //; check answers by the rules, and their number by brute force.
#
# Exits with an error if the output differs from the expected one.
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
