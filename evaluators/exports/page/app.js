"use strict";
// The page: choose or edit a puzzle, solve it, scrub through the steps.

(() => {
  const find = (id) => document.getElementById(id);
  const style = page.style, canType = rules.writable.size > 0;
  const state = {
    question: null, // tokens
    puzzle: null, // the puzzle of data.js that the question is, or null
    panels: [], // the question, then an answer for each step
    shown: 0,
    chosen: null, // cell that a key or a button of the palette changes
    problem: null, // why the text is not a puzzle
    run: 0, // counts solving runs and new puzzles: an older run stops
    isRunning: false,
    total: 0, // steps of the latest run
    timer: null, // of the replay
  };

  // ---------------------------------------------------------------- the puzzle

  function setQuestion(question, puzzle = null, { keepText = false } = {}) {
    stop();
    const label = puzzle ? puzzle.label : null;
    Object.assign(state, { question, puzzle, label, panels: [{ number: 0, tokens: question }], shown: 0, problem: null });
    if (!keepText && canType) find("text").value = rules.write(question);
    find("remarks").replaceChildren(...(isEmpty(question) ? [] : rules.remarks(question)).map((words) => element("li", words)));
    refresh();
  }

  const isEmpty = (question) => question.every((token) => token === rules.open);

  function sample() {
    const others = page.puzzles.filter((puzzle) => puzzle !== state.puzzle);
    const choices = others.length ? others : page.puzzles;
    const puzzle = choices[Math.floor(Math.random() * choices.length)];
    state.chosen = null;
    setQuestion(puzzle.question.slice(), puzzle);
  }

  function clear() {
    state.chosen = null;
    setQuestion(new Array(grid.numCells).fill(rules.open));
  }

  function typed() {
    try {
      setQuestion(rules.read(find("text").value), null, { keepText: true });
    } catch (error) {
      const question = new Array(grid.numCells).fill(rules.open);
      setQuestion(question, null, { keepText: true }); // the answer to an earlier puzzle must not stay
      state.problem = error.message;
      refresh();
    }
  }

  // Put a token into the chosen cell.
  function put(token) {
    if (state.chosen === null) return;
    const question = state.question.slice(), number = rules.required[token];
    if (number === 1) { // such as the start of a maze: it moves
      const old = question.indexOf(token);
      if (old >= 0) question[old] = rules.open;
    }
    question[state.chosen] = token;
    setQuestion(question);
  }

  // Throws an Error if the question cannot be given to the model.
  function checkQuestion() {
    if (state.problem) throw new Error(state.problem);
    if (canType) rules.read(rules.write(state.question));
    if (isEmpty(state.question)) throw new Error("There is no puzzle yet: type one, or take a new one.");
  }

  // ---------------------------------------------------------------- solving

  function stop() {
    state.run++;
    state.isRunning = false;
    stopReplay();
  }

  async function solve() {
    if (state.isRunning) {
      stop();
      find("status").textContent = `Stopped after ${rules.plural(state.panels.length - 1, "step")}.`;
      state.total = state.panels.length - 1;
      refresh();
      return;
    }
    try {
      checkQuestion();
    } catch (error) {
      state.problem = error.message;
      refresh();
      return;
    }
    stop();
    const run = state.run, count = Number(find("count").value), began = performance.now();
    Object.assign(state, { panels: state.panels.slice(0, 1), total: count, shown: 0, chosen: null, isRunning: true });
    refresh();
    try {
      for await (const step of solver.solve(state.question, state.puzzle?.identifier ?? page.model.blank_identifier, count)) {
        if (run !== state.run) break;
        const isFollowed = state.shown === state.panels.length - 1;
        state.panels.push(panel(step));
        if (isFollowed) state.shown = state.panels.length - 1;
        find("status").textContent = `Step ${step.number} of ${count} …`;
        refresh();
      }
      if (run === state.run) {
        const seconds = (performance.now() - began) / 1000;
        find("status").textContent = `${rules.plural(count, "step")} in ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s.`;
      }
    } catch (error) {
      find("status").textContent = `The model failed: ${error.message}`;
    }
    if (run !== state.run) return;
    stop();
    refresh();
  }

  function panel({ number, answer, confidence, haltProbability, saysStop }) {
    const question = state.question, previous = state.panels.at(-1).tokens;
    const broken = rules.broken(question, answer);
    const kinds = answer.map((token, cell) =>
      broken[cell] ? "broken"
        : token !== previous[cell] ? "changed"
          : page.completes && token !== question[cell] ? "filled" : "plain");
    const changed = answer.filter((token, cell) => token !== previous[cell]).length;
    const verdict = rules.judge(question, answer, state.label);
    return { number, tokens: answer, kinds, confidence, haltProbability, saysStop, changed, verdict };
  }

  // The last verdict, and the step since which answers have been right.
  function summary() {
    const last = state.panels.at(-1), right = state.panels.filter(({ verdict }) => verdict?.solved);
    if (last.verdict.solved === null) return `Not judged: ${last.verdict.words}.`;
    if (!last.verdict.solved) {
      const lost = right.length ? ` It was solved at step ${right[0].number}, but changed later.` : "";
      return `Not solved: ${last.verdict.words}.${lost}`;
    }
    let first = last.number;
    while (state.panels[first - 1].verdict?.solved) first--;
    return `Solved from step ${first} on: ${last.verdict.words}.`;
  }

  // ---------------------------------------------------------------- what is shown

  function refresh() {
    const { panels, shown } = state, current = panels[shown];
    grid.show(current.tokens, current.kinds ?? null, current.confidence ?? null);
    grid.choose(shown === 0 ? state.chosen : null);
    find("heading").textContent = shown ? `step ${shown} of ${state.total}` : "puzzle";
    find("changed").textContent = shown ? `${current.changed} changed` : page.puzzles.includes(state.puzzle) ? page.source : "";
    find("changed").classList.toggle("some", Boolean(current.changed));
    const verdict = find("verdict");
    const hint = canType && state.chosen === null ? "Choose a cell to change it." : "";
    verdict.textContent = shown ? `${current.verdict.solved ? "solved: " : ""}${current.verdict.words}` : hint;
    verdict.className = shown && current.verdict.solved ? "right" : shown && current.verdict.solved === false ? "wrong" : "";
    find("palette").hidden = shown !== 0 || state.chosen === null;
    find("legend").hidden = shown === 0;
    find("problem").hidden = !state.problem;
    find("problem").textContent = state.problem ?? "";
    find("text").setAttribute("aria-invalid", String(Boolean(state.problem)));
    find("text").wrap = find("text").value.includes("\n") ? "off" : "soft"; // rows stay rows on a phone
    find("solve").textContent = state.isRunning ? "Stop" : "Solve";
    find("steps").hidden = panels.length < 2;
    if (panels.length < 2) return;
    find("halting").textContent = shown
      ? `Halting ${(100 * current.haltProbability).toFixed(1)}%${current.saysStop ? ", says stop" : ""}`
      : "Move the slider to see the answer after each step.";
    find("halting").classList.toggle("right", Boolean(current.saysStop));
    find("step").max = panels.length - 1;
    find("step").value = shown;
    find("step").setAttribute("aria-valuetext", shown ? `step ${shown}: ${current.verdict.words}` : "puzzle");
    find("last").textContent = `step ${panels.length - 1}`;
    find("summary").textContent = summary();
    find("summary").className = `summary ${panels.at(-1).verdict.solved ? "right" : ""}`;
    find("steps").style.setProperty("--bars", panels.length);
    find("chart").replaceChildren(...panels.map((one) => bar(one)));
  }

  function bar(one) {
    const column = element("div", ""), inner = element("i", "");
    inner.style.height = one.number ? `${Math.max(2, 100 * one.haltProbability)}%` : "0";
    column.className = `bar${one.saysStop ? " stops" : ""}${one.number === state.shown ? " current" : ""}`;
    column.title = one.number ? `step ${one.number}: halting ${(100 * one.haltProbability).toFixed(1)}%` : "puzzle";
    column.addEventListener("click", () => scrub(one.number));
    column.append(inner);
    return column;
  }

  function scrub(number) {
    stopReplay();
    state.shown = number;
    refresh();
  }

  function replay() {
    if (state.timer) { stopReplay(); return; }
    state.shown = 0;
    state.timer = setInterval(() => {
      if (state.shown >= state.panels.length - 1) { stopReplay(); return; }
      state.shown++;
      refresh();
    }, 600);
    find("play").textContent = "Pause";
    refresh();
  }

  function stopReplay() {
    clearInterval(state.timer);
    state.timer = null;
    find("play").textContent = "Replay";
  }

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  // ---------------------------------------------------------------- setting up

  function listen() {
    find("sample").addEventListener("click", sample);
    find("clear").addEventListener("click", clear);
    find("solve").addEventListener("click", solve);
    find("play").addEventListener("click", replay);
    find("text").addEventListener("input", typed);
    find("step").addEventListener("input", () => scrub(Number(find("step").value)));
    find("count").addEventListener("input", () => { find("chosen").textContent = find("count").value; });
    document.addEventListener("keydown", (event) => {
      if (state.chosen === null || event.target.matches("textarea, input") || event.ctrlKey || event.metaKey) return;
      const moves = { ArrowUp: -style.columns, ArrowDown: style.columns, ArrowLeft: -1, ArrowRight: 1 };
      const to = state.chosen + (moves[event.key] ?? 0);
      if (event.key in moves && to >= 0 && to < grid.numCells) state.chosen = to;
      else if (event.key in page.rules.characters) put(page.rules.characters[event.key]);
      else if (["Backspace", "Delete"].includes(event.key)) put(rules.open);
      else if (event.key === "Escape") state.chosen = null;
      else return;
      event.preventDefault();
      refresh();
    });
  }

  function chooseCell(cell) {
    if (!canType) return;
    state.chosen = state.shown === 0 && state.chosen === cell ? null : cell;
    scrub(0);
  }

  function fill() {
    find("title").textContent = page.title;
    document.title = `${page.title}: solve step by step`;
    find("about").textContent = page.about;
    find("facts").textContent = page.facts;
    find("help").textContent = page.help ?? "";
    find("typing").hidden = find("clear").hidden = !canType;
    find("count").max = page.mostSteps;
    find("count").value = find("chosen").textContent = page.model.trained_steps;
    find("trained").textContent = `The model was trained with ${page.model.trained_steps} steps. More can solve harder puzzles.`;
    find("text").rows = Math.min(style.rows, 16);
    for (const [token, character] of rules.writable) {
      const button = element("button", style.empty.includes(token) ? "␣" : style.symbols[token].trim() || "␣");
      button.type = "button";
      button.setAttribute("aria-label", `put ${character}`);
      button.addEventListener("click", () => put(token));
      find("palette").append(button);
    }
    for (const { token, kind, words } of style.legend) {
      const item = element("li", "");
      item.append(grid.sampleCell(token, kind), element("span", words));
      find("legend").append(item);
    }
    find("legend").append(element("li", style.shade));
  }

  async function start() {
    grid.build(chooseCell);
    fill();
    listen();
    if (page.puzzles.length) sample(); else clear();
    try {
      await solver.load();
      find("solve").disabled = false;
      find("status").textContent = "Ready.";
    } catch (error) {
      find("status").textContent = `The model cannot run here: ${error.message}.`;
    }
  }

  start();
})();
