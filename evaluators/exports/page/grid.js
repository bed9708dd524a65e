"use strict";
// Draw a grid of tokens, as `dataset/drawing/picture.py` does, and let the user choose cells.

const grid = (() => {
  const style = page.style, root = document.getElementById("grid");
  const numCells = style.rows * style.columns, cells = [];
  const [paper, sure] = [[255, 255, 255], [122, 172, 240]];

  const css = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;
  const mix = (one, other, share) => one.map((value, index) => (1 - share) * value + share * other[index]);

  function build(onChoose) {
    root.style.setProperty("--columns", style.columns);
    root.style.setProperty("--rows", style.rows);
    root.style.setProperty("--changed", css(style.frame));
    root.classList.add(style.cells, style.columns > 16 ? "fine" : "coarse");
    for (let cell = 0; cell < numCells; cell++) {
      const element = document.createElement("div");
      element.className = "cell";
      element.setAttribute("role", "gridcell");
      cells.push(element);
      root.append(element);
    }
    if (style.lines) {
      for (let row = style.lines[0]; row < style.rows; row += style.lines[0]) drawLine("above", `${row + 1} / 1 / auto / -1`);
      for (let column = style.lines[1]; column < style.columns; column += style.lines[1]) drawLine("left", `1 / ${column + 1} / -1 / auto`);
    }
    root.addEventListener("click", (event) => {
      const chosen = cells.indexOf(event.target.closest(".cell"));
      if (chosen >= 0) onChoose(chosen);
    });
  }

  // A thick line at the upper or left edge of a grid area.
  function drawLine(edge, area) {
    const element = document.createElement("div");
    element.className = `line ${edge}`;
    element.style.gridArea = area;
    element.setAttribute("role", "presentation");
    root.append(element);
  }

  // Fill an element with a token; `sureness` in 0..1 shades an answer, null stands for a question.
  function paint(element, token, kind, sureness) {
    const isAnswer = sureness !== null, colour = style.colours[token];
    const isOpen = style.empty.includes(token);
    let ground = paper, ink = "", symbol = token === 0 ? "?" : isOpen ? "" : style.symbols[token], dot = 0;
    let isGiven = false;
    if (style.cells === "symbols") {
      isGiven = symbol !== "" && (!isAnswer || kind === "plain");
      if (isAnswer && !isGiven) ground = mix(paper, sure, sureness);
    } else if (style.cells === "path") {
      const [free, path] = style.blend;
      const answered = token === path ? 0.4 + 0.6 * sureness : token === free ? 0.3 * (1 - sureness) : 0;
      const share = isAnswer ? answered : Number(token === path);
      ground = style.blend.includes(token) ? mix(style.colours[free], style.colours[path], share) : colour;
      if (!style.ends.includes(token)) symbol = "";
      ink = "#fff";
    } else {
      ground = colour;
      if (!style.colouredSymbols) symbol = "";
      if (isAnswer && sureness < 0.9 && token) dot = 1 - sureness;
    }
    element.textContent = symbol;
    element.style.background = isGiven ? "" : css(ground);
    element.style.color = ink;
    element.style.setProperty("--dot", dot);
    element.classList.toggle("dotted", dot > 0);
    for (const name of ["given", "changed", "broken"]) {
      element.classList.toggle(name, name === "given" ? isGiven : kind === name);
    }
  }

  // Show tokens with the kind of each cell and the model's confidence; both null for a question.
  function show(tokens, kinds, confidence) {
    for (const [cell, element] of cells.entries()) {
      paint(element, tokens[cell], kinds ? kinds[cell] : "plain", confidence ? confidence[cell] : null);
      const position = `row ${Math.floor(cell / style.columns) + 1}, column ${(cell % style.columns) + 1}`;
      const certainty = confidence ? `, ${Math.round(100 * confidence[cell])}% sure` : "";
      element.setAttribute("aria-label", `${position}: ${style.symbols[tokens[cell]]}${certainty}`);
      element.title = confidence ? `${style.symbols[tokens[cell]].trim() || "empty"}${certainty}` : "";
    }
  }

  function choose(cell) {
    for (const [number, element] of cells.entries()) element.classList.toggle("chosen", number === cell);
  }

  function sampleCell(token, kind) {
    const element = document.createElement("span");
    element.className = `cell ${style.cells}`;
    element.style.setProperty("--changed", css(style.frame));
    paint(element, token, kind, kind === "plain" ? null : 1);
    return element;
  }

  return { build, show, choose, sampleCell, numCells };
})();
