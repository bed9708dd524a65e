"""The page of `export.py page=`: its files, and in a real browser, opened from disk, if one is installed."""

from __future__ import annotations

import json
import re
import shutil
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import numpy as np
import pytest
from headless_browser import needs_browser, started_browser
from trained_folders import SIZES, randomised, write_run

from dataset.families import family_of
from evaluators.exports import browser_page, onnx_step
from evaluators.exports.browser_page import PAGE_FILES, RUNTIME, PageContent, page_data
from evaluators.inference import Solver
from evaluators.sample_puzzles import filed_puzzles, generated_puzzles
from export import main
from trained_run import open_trained, recorded_metadata
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
NINE = ROOT / "pretrained" / "sudoku_extreme_cpu_best"
HARD = "4..9..58......6..7...8...46...6....8.....5.9.13.4.8....4.7.9.6..8.....5..9.5..7.4"
MAZE = {"seq_len": 64, "vocab_size": 6, "num_puzzle_identifiers": 1, "family": "maze", "grid_shape": [8, 8]}
LOCAL = {
    "name": "trm_local",
    "hidden_size": 16,
    "H_cycles": 1,
    "L_cycles": 1,
    "halt_max_steps": 4,
    "forward_dtype": "float32",
}
UNKNOWN = SIZES | {"family": "none of ours"}


def maze_run(folder: Path) -> Path:
    sizes = {key: MAZE[key] for key in SIZES}
    return write_run(folder, randomised(LOCAL, sizes), LOCAL, metadata=MAZE)


def content(metadata: dict) -> PageContent:
    family = family_of(recorded_metadata(metadata, {key: metadata[key] for key in SIZES}))
    return PageContent(family, generated_puzzles(family, 0), "generated puzzle")


# ------------------------------------------------------------------------------ without a browser


def test_the_page_states_model_family_and_puzzles_as_data(tmp_path):
    trained = open_trained(str(maze_run(tmp_path / "run")))
    data = json.loads(json.dumps(page_data(trained.build(), content(MAZE))))
    assert data["title"] == "Maze 8x8"
    assert data["model"]["trained_steps"] == 4
    assert data["rules"]["required"] == {"3": 1, "4": 1}
    assert data["rules"]["areKnown"]
    assert len(data["puzzles"]) == 48
    assert all(len(puzzle["question"]) == len(puzzle["label"]) == 64 for puzzle in data["puzzles"])
    assert len(data["style"]["symbols"]) == len(data["style"]["colours"]) == 6


def test_without_known_rules_answers_are_compared_with_labels_only():
    data = page_data(randomised(LOCAL), content(UNKNOWN))
    assert not data["rules"]["areKnown"]
    assert data["rules"]["characters"] == {}
    assert data["puzzles"] == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("question,answer\n12..34..43..21..,1234\n", "the puzzle has 4 cells|puzzle= has 4 cells"),
        (
            "puzzle,answer\n12..,1234\n",
            "its columns must be question and answer, but a row has puzzle, answer",
        ),
        (b"question,answer\n\xff\xfe,1\n", "can't decode"),
    ],
)
def test_a_wrong_table_of_puzzles_is_named(tmp_path, table, message):
    path = tmp_path / "puzzles.csv"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    family = content({"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1, "family": "sudoku"}).family
    with pytest.raises(UserError, match=rf"puzzles\.csv: .*({message})"):
        filed_puzzles(path, family)


def test_data_cannot_end_its_script(tmp_path):
    assert "</script" not in browser_page._json({"title": "</script><script>alert(1)</script>"})


def test_a_family_that_crops_answers_is_rejected_by_name():
    arc = {"seq_len": 900, "vocab_size": 12, "num_puzzle_identifiers": 1, "family": "arc"}
    with pytest.raises(UserError, match="a model of arc, whose answers are cropped"):
        browser_page.check_family(content(arc).family)


def test_the_scripts_name_no_family():
    for path in (ROOT / "evaluators" / "exports" / "page").glob("*.js"):
        assert not re.search(r"\b(sudoku|nqueens|arc)\b", path.read_text(), re.IGNORECASE), path


# ------------------------------------------------------------------------------ in a browser

in_browser = needs_browser(*onnx_step.PACKAGES)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Pages of a trained model of 9x9 puzzles and of a random one of mazes, written by the command."""
    try:
        RUNTIME.read(["package.json"])
    except UserError as error:
        pytest.skip(str(error))
    root = tmp_path_factory.mktemp("pages")
    runs = {"nine": NINE, "maze": maze_run(root / "run")}
    for name, run in runs.items():
        main([f"checkpoint={run}", f"page={root / name}"])
    return {name: root / name for name in runs}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started_browser(
        tmp_path_factory.mktemp("browser"), {"performance": "ALL", "browser": "ALL"}
    ) as driver:
        yield driver


class PageInBrowser:
    """What a user does on the page and sees there."""

    def __init__(self, browser, place: Path | str):
        self.browser = browser
        browser.get(f"{place.as_uri() if isinstance(place, Path) else place}/index.html")
        self.until(lambda: self.text("status") == "Ready.", "the model is loaded")

    def until(self, condition, what: str, seconds: float = 120):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"timed out: {what}; {self.text('status')} {self.text('problem')}"
            time.sleep(0.1)
        return found

    def text(self, name: str) -> str:
        return self.browser.find_element("id", name).text

    def click(self, name: str) -> None:
        self.browser.find_element("id", name).click()

    def write(self, text: str) -> None:
        """Put a text into the box, as pasting does."""
        self.set("text", text)

    def set(self, name: str, value: object) -> None:
        script = (
            "const it = document.getElementById(arguments[0]); it.value = arguments[1]; "
            "it.dispatchEvent(new Event('input'))"
        )
        self.browser.execute_script(script, name, value)

    def solve(self) -> None:
        self.click("solve")
        self.until(
            lambda: re.fullmatch(r"\d+ steps? in [\d.]+ s\.", self.text("status")), "all steps are run"
        )

    def cells(self) -> list[str]:
        return self.browser.execute_script(
            "return [...document.querySelectorAll('#grid .cell')].map((cell) => cell.textContent)"
        )

    def symbols(self) -> list[str]:
        """What screen readers say of each cell, which names symbols that are shown as colours too."""
        script = "return [...document.querySelectorAll('#grid .cell')].map((cell) => cell.ariaLabel)"
        return [label.split(": ")[1].partition(",")[0] for label in self.browser.execute_script(script)]


@in_browser
@pytest.mark.slow
def test_a_hard_sudoku_is_typed_solved_and_scrubbed(pages, browser):
    page = PageInBrowser(browser, pages["nine"])
    assert {path.name for path in pages["nine"].iterdir()} == set(PAGE_FILES)
    assert sum(cell != "" for cell in page.cells()) >= 17
    page.click("typing")
    page.write(HARD)
    assert "".join(cell or "." for cell in page.cells()) == HARD
    page.solve()
    assert page.text("heading") == "step 16 of 16"
    assert re.fullmatch(r"Solved from step \d+ on: valid\.", page.text("summary"))
    assert "says stop" in page.text("halting")
    solution = "".join(page.cells())
    assert all(given in (".", value) for given, value in zip(HARD, solution, strict=True))

    page.set("step", 1)
    assert page.text("heading") == "step 1 of 16"
    assert "broken" in page.text("verdict")
    assert (
        page.text("changed")
        == f"{sum(a != (b or '.') for a, b in zip(HARD, page.cells(), strict=True))} changed"
    )
    page.set("step", 0)
    assert page.text("heading") == "puzzle"
    assert "".join(cell or "." for cell in page.cells()) == HARD


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nine", "maze"])
def test_each_step_shows_the_answer_and_halting_probability_of_pytorch(pages, browser, name):
    page = PageInBrowser(browser, pages[name])
    text = HARD
    if name == "maze":
        family = content(MAZE).family
        text = family.write(generated_puzzles(family, 0)[0].question)
    page.write(text)
    page.solve()
    trained = open_trained(str(NINE if name == "nine" else pages[name].parent / "run"))
    sizes = trained.sizes()
    family = family_of(recorded_metadata(trained.metadata, sizes))
    solver = Solver(trained.build(settings={"forward_dtype": "float32"}))
    question = family.read(text)
    for step in solver.refine(question[None]):
        page.set("step", step.number)
        answer = step.answer[0].numpy()
        assert page.symbols() == [family.grid_style.symbols[token] for token in answer]
        halting = float(re.match(r"Halting ([\d.]+)%", page.text("halting"))[1])
        assert halting == pytest.approx(100 * float(step.halt_probability[0]), abs=0.2)
        assert ("says stop" in page.text("halting")) == bool(step.says_stop[0])
        assert page.text("verdict").startswith("solved") == bool(
            family.check(question[None], answer[None])[0]
        )


@in_browser
@pytest.mark.slow
def test_bad_input_is_explained_and_removes_the_answer(pages, browser):
    page = PageInBrowser(browser, pages["nine"])
    page.click("typing")
    page.write(HARD)
    page.solve()
    for text, message in (
        ("12..", "The puzzle has 4 cells, but this model solves 9x9 grids with 81 cells."),
        ("12..\n3x", "The puzzle has 'x' at line 2, character 2; allowed are"),
        ("", "There is no puzzle yet"),
    ):
        page.write(text)
        assert message in page.text("problem")
        assert set(page.cells()) == {""}
        page.click("solve")
        assert page.text("heading") == "puzzle"
    page.write("55" + "." * 79)
    assert page.text("problem") == ""
    assert page.text("remarks").startswith(
        "The puzzle contradicts itself, so it has no solution: 2 times 5 in row 1"
    )
    page = PageInBrowser(browser, pages["maze"])
    page.click("typing")
    page.write("S" + "." * 63)
    assert page.text("problem") == "The puzzle has 0 cells with G, but it must have 1."
    page.write("S#" + "." * 6 + "##" + "." * 53 + "G")
    assert page.text("remarks") == "G cannot be reached from S, so the maze has no solution."


@in_browser
@pytest.mark.slow
def test_cells_are_changed_by_the_palette_and_by_keys(pages, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = PageInBrowser(browser, pages["maze"])
    cells = browser.find_elements("css selector", "#grid .cell")
    before = page.symbols()
    free = [number for number, symbol in enumerate(before) if symbol == " "]
    cells[free[0]].click()
    browser.find_element("css selector", "#palette button[aria-label='put S']").click()
    moved = page.symbols()
    assert moved[free[0]] == "S"
    assert moved.count("S") == 1  # the start has moved
    cells[free[1]].click()
    ActionChains(browser).send_keys("#").perform()
    assert page.symbols()[free[1]] == "#"
    ActionChains(browser).send_keys(Keys.DELETE).perform()
    assert page.symbols()[free[1]] == " "


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nine", "maze"])
def test_the_rules_in_the_browser_are_those_of_the_family(pages, browser, name):
    page = PageInBrowser(browser, pages[name])
    metadata = MAZE if name == "maze" else open_trained(str(NINE)).metadata | {"num_puzzle_identifiers": 1}
    family, rng = content(metadata).family, np.random.default_rng(0)
    questions, answers = [], []
    for puzzle in generated_puzzles(family, 0)[:12]:
        changed = [puzzle.label.copy() for _ in range(6)]
        for number, answer in enumerate(changed[1:]):  # the first stays right
            places = rng.choice(len(answer), number + 1, replace=False)
            answer[places] = (
                puzzle.question[places] if number % 2 else rng.integers(1, metadata["vocab_size"])
            )
        questions += [puzzle.question] * len(changed)
        answers += changed
    script = (
        "const [questions, answers] = arguments; return questions.map((question, index) => "
        "({solved: rules.judge(question, answers[index], null).solved, "
        "broken: rules.broken(question, answers[index])}))"
    )
    rows = [[row.tolist() for row in part] for part in (questions, answers)]
    judged = browser.execute_script(script, *rows)
    expected = family.check(np.stack(questions), np.stack(answers))
    assert 12 <= expected.sum() < len(expected)
    assert [one["solved"] for one in judged] == expected.tolist()
    for one, question, answer in zip(judged, questions, answers, strict=True):
        assert one["broken"] == family.broken(question, answer).tolist()
    assert page.text("problem") == ""


@in_browser
@pytest.mark.slow
def test_nothing_is_asked_of_the_network_and_a_phone_shows_all_of_its_width(pages, browser):
    browser.get_log("performance")
    page = PageInBrowser(browser, pages["nine"])
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.solve()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        cell = browser.execute_script("return document.querySelector('.cell').getBoundingClientRect().width")
        assert cell > 30  # wide enough for a finger
        text = browser.find_element("id", "text")
        assert (text.get_attribute("wrap"), text.get_attribute("value").count("\n")) == ("off", 8)
        page.write(HARD)
        assert text.get_attribute("wrap") == "soft"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {urlsplit(url).scheme for url in urls} <= {"file", "blob", "data"}
    assert any(url.endswith("runtime.js") for url in urls)
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@in_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nine", "maze"])
def test_every_control_has_a_name_for_screen_readers(pages, browser, name):
    page = PageInBrowser(browser, pages[name])
    page.solve()
    for details in browser.find_elements("css selector", "details"):
        details.click()
    controls = browser.find_elements("css selector", "button, input, textarea, #grid .cell")
    shown = [control for control in controls if control.is_displayed()]
    assert len(shown) > 10
    assert [one.get_attribute("outerHTML") for one in shown if not one.accessible_name] == []


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@in_browser
@pytest.mark.slow
def test_the_page_also_works_from_a_static_server(pages, browser):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentHandler, directory=str(pages["maze"])))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = PageInBrowser(browser, f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    page.solve()  # with the server gone
    assert page.text("heading") == "step 4 of 4"


@in_browser
@pytest.mark.slow
def test_an_incomplete_folder_is_reported_on_the_page(pages, browser, tmp_path):
    folder = shutil.copytree(pages["maze"], tmp_path / "copy")
    (folder / "model.js").unlink()
    browser.get(f"{folder.as_uri()}/index.html")
    status = browser.find_element("id", "status")
    end = time.monotonic() + 60
    while status.text.startswith("Loading") and time.monotonic() < end:
        time.sleep(0.1)
    assert "model.js cannot be loaded: the folder of the page is incomplete" in status.text
