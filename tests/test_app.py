"""The web page: its logic without Gradio, and in a real browser if one is installed."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from headless_browser import needs_browser, started_browser
from trained_folders import TINY_ARCH, randomised, write_run

import app
from config.solve_schema import AppConfig
from dataset.families.sudoku.search import solve as solve_by_rules
from evaluators.playground import MOST_STEPS, Session
from utils.command_line.arguments import read_arguments
from utils.errors import UserError

PUZZLE = "12..|34../..3.|.3.2"
SUDOKU = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}
MAZE = {"seq_len": 64, "vocab_size": 6, "num_puzzle_identifiers": 1}
FAMILIES = {
    "sudoku": SUDOKU | {"family": "sudoku", "grid_shape": [4, 4], "box_shape": [2, 2]},
    "maze": MAZE | {"family": "maze", "grid_shape": [8, 8]},
}
ROOT = Path(__file__).parents[1]


def write(folder: Path, metadata: dict, arch: dict = TINY_ARCH) -> Path:
    sizes = {key: metadata[key] for key in SUDOKU}
    return write_run(folder, randomised(arch, sizes), arch, metadata=metadata)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("played")
    return {family: write(root / family, metadata) for family, metadata in FAMILIES.items()}


@pytest.fixture
def sessions(runs) -> dict[str, Session]:
    return {
        family: app.open_session(AppConfig(checkpoint=str(run), device="cpu"))[0]
        for family, run in runs.items()
    }


def test_every_step_has_a_panel_and_a_picture_with_halting_probabilities(sessions):
    solved = sessions["sudoku"].solve(PUZZLE, 6)
    assert [panel.number for panel in solved.panels] == list(range(7))
    pictures = [np.asarray(sessions["sudoku"].show(solved, number)) for number in range(7)]
    assert len({picture.shape for picture in pictures}) == 1
    assert all((pictures[i] != pictures[j]).any() for i in range(7) for j in range(i))
    # Out-of-range steps show the first or last step.
    assert (np.asarray(sessions["sudoku"].show(solved, 99)) == pictures[6]).all()


def test_the_page_gives_the_answers_that_the_solver_gives(sessions):
    session = sessions["sudoku"]
    solved = session.solve(PUZZLE, 3)
    question = session.family.read(PUZZLE)
    for panel, step in zip(solved.panels[1:], session.solver.refine(question[None], None, 3), strict=True):
        assert (panel.tokens == step.answer[0].numpy()).all()
        assert panel.halt_probability == pytest.approx(float(step.halt_probability[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_puzzles_can_be_entered_as_text_and_have_one_solution(sessions, family):
    session = sessions[family]
    texts = {session.sample(seed) for seed in range(3)}
    assert len(texts) == 3
    for text in texts:
        assert session.solve(text, 1).remarks == []
        assert session.sample(0) == session.sample(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_symmetric_copies_vote_on_every_step(sessions, family):
    session = sessions[family]
    text = session.sample(1)
    solved = session.solve(text, 2, voting=True)
    assert len(solved.panels) == 3
    # With random weights copies disagree; the confidence of a cell is the share of 8 copies that agree with the winner.
    confidence = solved.panels[-1].confidence * 8
    assert confidence == pytest.approx(confidence.round())
    assert confidence.min() >= 1


def test_votes_are_for_answers_mapped_back_to_the_puzzle(sessions):
    session = sessions["sudoku"]

    class SolvesByRules:
        """A fake model that has learned the rules."""

        def refine(self, tokens, identifiers, num_steps):
            box = session.family.box
            values = [solve_by_rules(np.maximum(row - 1, 0), box).solutions[0] for row in tokens]
            answers = np.array(values).astype(np.int64) + 1
            (step,) = Session(real, session.family, None).solver.refine(tokens, identifiers, 1)
            yield replace(step, answer=torch.from_numpy(answers))

    real, session.solver = session.solver, SolvesByRules()
    solved = session.solve(PUZZLE, 1, voting=True)
    assert solved.panels[-1].verdict.solved
    assert (solved.panels[-1].confidence == 1).all()
    assert solved.summary == "Solved from step 1 on: valid."


@pytest.mark.parametrize(
    ("text", "steps", "message"),
    [
        ("", 4, "there is no puzzle yet"),
        ("12..", 4, "the puzzle has 4 cells, but this model solves 4x4 Sudoku with 16 cells"),
        ("12x." * 4, 4, "the puzzle has 'x' at character 3; allowed are 1234"),
        ("1" * 1000, 4, "the puzzle has 1,000 characters, more than 96"),
        (PUZZLE, 0, "0 steps were requested: choose 1 to 256"),
        (PUZZLE, MOST_STEPS + 1, "257 steps were requested"),
        ("../../etc/passwd", 4, "the puzzle has 'e' at character 7"),
    ],
)
def test_bad_input_is_explained(sessions, text, steps, message):
    with pytest.raises(UserError, match=re.escape(message)):
        sessions["sudoku"].solve(text, steps)


def test_a_puzzle_without_a_solution_is_accepted_with_a_warning(sessions):
    solved = sessions["sudoku"].solve("11..............", 2)
    assert len(solved.panels) == 3
    assert "contradicts itself" in solved.remarks[0]
    assert solved.summary.startswith("Not solved: ")


def test_models_of_unsupported_families_are_rejected_by_name(tmp_path):
    arc = {"seq_len": 900, "vocab_size": 12, "num_puzzle_identifiers": 3, "family": "arc"}
    with pytest.raises(UserError, match="a model of arc, whose puzzles cannot be typed"):
        app.open_session(AppConfig(checkpoint=str(write(tmp_path / "run", arc)), device="cpu"))


def test_a_model_with_puzzle_identifiers_does_not_vote(tmp_path):
    session, _ = app.open_session(
        AppConfig(
            checkpoint=str(write(tmp_path / "run", FAMILIES["sudoku"] | {"num_puzzle_identifiers": 5})),
            device="cpu",
        )
    )
    assert len(session.solve(PUZZLE, 2).panels) == 3
    with pytest.raises(UserError, match="uses puzzle identifiers"):
        session.solve(PUZZLE, 2, voting=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint: None is not valid"),
        (["checkpoint=x", "port=80"], "port: '80' is not valid"),
        (["checkpoint=x", "share=true"], "share: unknown key"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(UserError, match=message):
        read_arguments(arguments, AppConfig)


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as end:
        app.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {key} " in text for key in AppConfig.model_fields)


def test_without_gradio_the_error_explains_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-app\.txt"):
        app.main(["checkpoint=x"])


# ------------------------------------------------------------------------------ in a browser

in_browser = needs_browser("gradio")
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="not installed: gradio")


@contextmanager
def served(run: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Serve the page of a run in a separate process; return its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "app.py"), f"checkpoint={run}", "device=cpu", f"port={port}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: listens(port) or server.poll() is not None, "the page is served")
        assert server.poll() is None, server.stdout.read()
        yield server, port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def address(runs):
    with served(runs["sudoku"]) as (_, port):
        yield "127.0.0.1", port


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started_browser(tmp_path_factory.mktemp("browser"), {"performance": "ALL"}) as driver:
        yield driver


def until(condition, what: str, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"timed out after {seconds} s: {what}"
        time.sleep(0.1)
    return found


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


@pytest.mark.slow
@in_browser
def test_the_page_loads_solves_scrubs_and_explains_bad_input(address, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def find(selector: str):
        found = browser.find_elements(By.CSS_SELECTOR, selector)
        return found[0] if found and found[0].is_displayed() else None

    def words() -> str:
        return find("#words").text if find("#words") else ""

    def source() -> str:
        return find("#picture img").get_attribute("src") if find("#picture img") else ""

    def put(text: str) -> None:
        box = until(lambda: find("#puzzle textarea"), "there is a box for the puzzle")
        box.clear()
        box.send_keys(text)
        find("#solve").click()

    browser.get("http://{}:{}/".format(*address))
    put("12..")
    until(lambda: "the puzzle has 4 cells" in words(), "bad input is explained")
    assert not source()
    put(PUZZLE)
    until(lambda: "olved" in words() and source(), "the answer is shown")
    last = source()
    number = until(lambda: find("#step input[type=number]"), "there is a slider of steps")
    assert number.get_attribute("value") == "4"
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("1", Keys.ENTER)
    until(lambda: source() not in ("", last), "another step is shown")
    # A later mistake removes the answer.
    put("x")
    until(lambda: "allowed are" in words() and not source(), "the old picture is gone")
    find("#sample").click()
    box = find("#puzzle textarea")
    until(lambda: len(re.findall("[1-4.]", box.get_attribute("value"))) == 16, "a puzzle is sampled")

    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The browser's own pages (chrome://) and embedded data (data:, blob:) need no network.
    asked = {urlsplit(url).hostname for url in urls if url.startswith(("http", "ws"))}
    assert asked == {"127.0.0.1"}


@pytest.mark.slow
@needs_gradio
def test_the_page_listens_on_this_machine_only_and_takes_no_files(address):
    import urllib.error
    import urllib.request

    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
        "127.0.0.1"
    }
    assert not any(listens(address[1], host) for host in own if not host.startswith("127."))
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.pkl"\r\n\r\n'
        + b"A" * 2000
        + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    url = "http://{}:{}/gradio_api/upload".format(*address)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=20)


@pytest.mark.slow
@needs_gradio
def test_ctrl_c_ends_the_page_with_one_line(runs):
    with served(runs["sudoku"]) as (server, port):
        assert f"http://127.0.0.1:{port}" in server.stdout.readline()
        server.send_signal(signal.SIGINT)
        assert server.stdout.read() == "interrupted\n"
        assert server.wait() == 130
