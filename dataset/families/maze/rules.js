"use strict";
// The rules of mazes for the page of `export.py page=`, as in family.py and rules.py.
// Grids are arrays of tokens in reading order; shape is [rows, columns].

const familyScript = (() => {
  const FREE = 2, WALL = 1, START = 3, GOAL = 4, PATH = 5;

  // Number of steps from S to G through the cells for which `isOpen` holds; -1 if there is no path.
  function distance(question, shape, isOpen) {
    const [rows, columns] = shape, goal = question.indexOf(GOAL);
    const steps = new Array(question.length).fill(-1);
    let front = [question.indexOf(START)];
    steps[front[0]] = 0;
    while (front.length && steps[goal] < 0) {
      const next = [];
      for (const cell of front) {
        const row = Math.floor(cell / columns), column = cell % columns;
        for (const [r, c] of [[row - 1, column], [row + 1, column], [row, column - 1], [row, column + 1]]) {
          const other = r * columns + c;
          if (r < 0 || r >= rows || c < 0 || c >= columns || steps[other] >= 0 || !isOpen(other)) continue;
          steps[other] = steps[cell] + 1;
          next.push(other);
        }
      }
      front = next;
    }
    return steps[goal];
  }

  const shortest = (question, shape) => distance(question, shape, (cell) => question[cell] !== WALL);
  const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  return {
    // Whether an answer marks a shortest path and changes nothing else, and why.
    judge(question, answer, shape) {
      const changed = answer.filter((token, cell) =>
        token !== question[cell] && !(question[cell] === FREE && token === PATH)).length;
      const isMarked = (cell) => answer[cell] === PATH || question[cell] === START || question[cell] === GOAL;
      const marks = answer.filter((token) => token === PATH).length;
      const length = changed ? -1 : distance(question, shape, isMarked);
      const needed = shortest(question, shape);
      // A path through all marks that has no shortcut among them has one order only.
      if (length === marks + 1) {
        return length === needed
          ? { solved: true, words: `valid, a shortest path of ${plural(length, "step")}` }
          : { solved: false, words: `a path of ${plural(length, "step")}, but ${needed} are enough` };
      }
      const parts = changed ? [`${plural(changed, "cell")} of the maze changed`] : [];
      parts.push(marks ? `the marked cells (${marks}) are not one path from S to G without detours` : "no path is marked");
      return { solved: false, words: parts.join("; ") };
    },

    // Warnings about a question.
    remarks(question, shape) {
      return shortest(question, shape) < 0 ? ["G cannot be reached from S, so the maze has no solution"] : [];
    },
  };
})();
