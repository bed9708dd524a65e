"use strict";
// Read puzzles and judge answers by the rules that the family states as data. `page` comes from data.js, and
// `familyScript` from family.js if counts of symbols do not suffice.

const rules = (() => {
  const { rows, columns, symbols } = page.style;
  const stated = page.rules, script = typeof familyScript === "undefined" ? null : familyScript;
  const numCells = rows * columns, shape = [rows, columns];

  const plural = (number, noun) => `${number} ${noun}${number === 1 ? "" : noun.endsWith("x") ? "es" : "s"}`;

  // The token of cells that are still open in an answer, such as blank or free cells.
  const open = Number(Object.keys(stated.becomes)[0] ?? Object.values(stated.characters)[0] ?? 0);

  // Tokens that a puzzle may have, with the first of the characters that stand for each.
  const writable = new Map();
  for (const [character, token] of Object.entries(stated.characters)) {
    // JavaScript lists keys that are digits first, but a blank is better written as `.` than as `0`.
    if (!writable.has(token) || character === ".") writable.set(token, character);
  }

  // Parse a puzzle; throws an Error that names the first mistake.
  function read(text) {
    const tokens = [];
    for (let position = 0; position < text.length; position++) {
      const character = text[position];
      if (character in stated.characters && character !== "\n") tokens.push(stated.characters[character]);
      else if (!/\s/.test(character) && !stated.ignored.includes(character)) {
        throw new Error(`The puzzle has '${character}' at ${where(text, position)}; allowed are ` +
          `${[...writable.values()].join(" ")}, and ${[...stated.ignored].join(" ")} and line breaks, which are ignored.`);
      }
    }
    if (!tokens.length) throw new Error("There is no puzzle yet: type one, or take a new one.");
    if (tokens.length !== numCells) {
      throw new Error(`The puzzle has ${plural(tokens.length, "cell")}, but this model solves ${rows}x${columns} grids ` +
        `with ${numCells} cells.`);
    }
    for (const [token, number] of Object.entries(stated.required)) {
      const found = tokens.filter((other) => other === Number(token)).length;
      if (found !== number) {
        throw new Error(`The puzzle has ${plural(found, "cell")} with ${symbols[token]}, but it must have ${number}.`);
      }
    }
    return tokens;
  }

  function where(text, position) {
    const before = text.slice(0, position).split("\n");
    const character = `character ${before.at(-1).length + 1}`;
    return text.includes("\n") ? `line ${before.length}, ${character}` : character;
  }

  // Format a puzzle as text that `read` accepts.
  function write(question) {
    const characters = question.map((token) => writable.get(token) ?? "?");
    return Array.from({ length: rows }, (_, row) => characters.slice(row * columns, (row + 1) * columns).join("")).join("\n");
  }

  // Marks the cells in which an answer contradicts its question.
  function broken(question, answer) {
    if (!Object.keys(stated.becomes).length) return question.map(() => false);
    return question.map((token, cell) =>
      answer[cell] !== token && !(stated.becomes[token] ?? []).includes(answer[cell]));
  }

  function* violations(rule, grid, atMost) {
    for (const [number, cells] of rule.groups.entries()) {
      for (const token of rule.tokens) {
        const found = cells.filter((cell) => grid[cell] === token).length;
        if (found > rule.most || (!atMost && found < rule.least)) yield { number, token, found };
      }
    }
  }

  // Warnings about a question, which can be given to the model nevertheless.
  function remarks(question) {
    const repeated = stated.counts.flatMap((rule) => [...violations(rule, question, true)].map(({ number, token, found }) =>
      `${found} times ${symbols[token]} in ${rule.groups.length > 1 ? `${rule.name} ${number + 1}` : `the ${rule.name}`}`));
    const contradiction = repeated.length
      ? [`The puzzle contradicts itself, so it has no solution: ${repeated.slice(0, 3).join(", ")}.`] : [];
    return [...contradiction, ...(script ? script.remarks(question, shape) : []).map((words) => `${words}.`)];
  }

  // Whether an answer is a solution (null: unknown), and why. `label` is null for puzzles that were typed.
  function judge(question, answer, label) {
    if (!stated.areKnown) {
      if (label === null) return { solved: null, words: "unknown: the page has no rules of these puzzles, and no answer to this one" };
      return isLabel(answer, label) ? { solved: true, words: "equal to the answer" } : { solved: false, words: agreement(answer, label) };
    }
    const verdict = script ? script.judge(question, answer, shape) : judgeCounts(question, answer);
    if (label === null) return verdict;
    if (!verdict.solved) return { ...verdict, words: `${verdict.words}; ${agreement(answer, label)}` };
    return { ...verdict, words: verdict.words + (isLabel(answer, label) ? "" : ", but not the answer in the data") };
  }

  function judgeCounts(question, answer) {
    const parts = [], wrong = [];
    for (const rule of stated.counts) {
      const groups = new Set([...violations(rule, answer, false)].map(({ number }) => number));
      if (groups.size) wrong.push(plural(groups.size, rule.name));
    }
    if (wrong.length) parts.push(`${wrong.join(", ")} broken`);
    const changed = broken(question, answer).filter(Boolean).length;
    if (changed) parts.push(`${plural(changed, "given cell")} changed`);
    return parts.length ? { solved: false, words: parts.join("; ") } : { solved: true, words: "valid" };
  }

  const isLabel = (answer, label) => answer.every((token, cell) => label[cell] < 0 || token === label[cell]);

  function agreement(answer, label) {
    const known = label.filter((token) => token >= 0).length;
    const right = answer.filter((token, cell) => label[cell] >= 0 && token === label[cell]).length;
    return `${right} of ${plural(known, "cell")} as in the answer`;
  }

  return { read, write, broken, remarks, judge, open, writable, plural, required: stated.required };
})();
