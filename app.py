"""Local web page for a trained model: type or sample a puzzle and watch the model solve it step by step.

    python app.py checkpoint=RUN

The page listens on this machine only (127.0.0.1). Needs Gradio: pip install -r requirements-app.txt
"""

from __future__ import annotations

if __name__ == "__main__":  # for the imports
    from utils.interrupts import handle_interrupts

    handle_interrupts()
    from utils.collection import pause_collection

    pause_collection()

from config.solve_schema import AppConfig
from utils.command_line.arguments import Command, check_arguments, read_command

COMMAND = Command("app.py", __doc__.strip(), AppConfig)

if __name__ == "__main__":  # before the slow import of torch below
    check_arguments(COMMAND)

import os
import secrets
import sys
import time

from dataset.families import family_notices, family_of, named_family
from evaluators.inference import Solver
from evaluators.playground import MOST_STEPS, Session, Solved
from trained_run import open_trained, recorded_metadata
from utils.collection import resume_collection
from utils.device import resolve_device
from utils.errors import UserError, report_user_errors

STYLE = "#puzzle textarea {font-family: monospace; line-height: 1.15} #picture img {max-width: 520px}"


def main(arguments: list[str]) -> None:
    resume_collection()
    config = read_command(arguments, COMMAND)
    require_gradio()
    with named_family(config.family):
        session, label = open_session(config)
    serve(session, label, config.port)


def require_gradio() -> None:
    # Disable telemetry; Gradio reads this when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the page needs Gradio, which cannot be imported ({error}): pip install -r requirements-app.txt"
        ) from error


def open_session(config: AppConfig) -> tuple[Session, str]:
    """Load the model given on the command line."""
    trained = open_trained(config.checkpoint)
    sizes = trained.sizes(config.seq_len)
    metadata = recorded_metadata(trained.metadata, sizes)
    device = resolve_device(config.device)
    solver = Solver(trained.build(sizes=sizes, device=device, notice=print), device)
    for notice in family_notices([(trained.label, metadata)]):
        print(f"note: {notice}")
    family = family_of(metadata)
    by_identifier = solver.knows_identifiers and metadata.num_puzzle_identifiers > 1
    symmetries = None if by_identifier else family.symmetries
    return Session(solver, family, symmetries, metadata.blank_identifier_id), trained.label


def page(session: Session, label: str):
    """Build the Gradio page. Answers stay on the server; the page sends text and numbers and receives pictures."""
    import gradio

    def sample() -> str:
        try:
            return session.sample(secrets.randbits(32))
        except UserError as error:
            raise gradio.Error(str(error)) from None

    def solve(text: str, num_steps: float, voting: bool):
        try:
            solved = session.solve(text, int(num_steps), bool(voting))
        except UserError as error:
            return None, f"**{error}**", gradio.Image(visible=False), gradio.Slider(visible=False)
        last = len(solved.panels) - 1
        words = "\n\n".join([f"**{solved.summary}**", *(f"Warning: {remark}." for remark in solved.remarks)])
        slider = gradio.Slider(maximum=last, value=last, visible=True)
        return solved, words, gradio.Image(session.show(solved, last), visible=True), slider

    def scrub(solved: Solved | None, number: float):
        return gradio.skip() if solved is None else session.show(solved, int(number))

    trained = session.solver.trained_steps
    most = min(MOST_STEPS, max(64, 4 * trained))
    with gradio.Blocks(title="Solve step by step", analytics_enabled=False) as blocks:
        gradio.Markdown(f"## Solve step by step\n`{label}`, supervision steps in training: {trained}")
        solved = gradio.State()
        with gradio.Row():
            with gradio.Column():
                text = gradio.Textbox(
                    label="puzzle",
                    lines=11,
                    max_lines=40,
                    max_length=session.most_characters,
                    elem_id="puzzle",
                )
                gradio.Markdown(session.family.text_help)
                steps = gradio.Slider(1, most, trained, step=1, label="supervision steps", elem_id="steps")
                voting = gradio.Checkbox(
                    label="let symmetric copies of the puzzle vote (shade: share of the copies)",
                    interactive=session.symmetries is not None,
                    elem_id="voting",
                )
                with gradio.Row():
                    sampler = gradio.Button("Sample a puzzle", elem_id="sample")
                    button = gradio.Button("Solve", variant="primary", elem_id="solve")
            with gradio.Column():
                words = gradio.Markdown(elem_id="words")
                slider = gradio.Slider(
                    0, trained, trained, step=1, label="step", visible=False, elem_id="step"
                )
                picture = gradio.Image(
                    show_label=False,
                    interactive=False,
                    visible=False,
                    buttons=[],
                    format="png",
                    elem_id="picture",
                )
        # Not listed as an API.
        quiet = {"api_visibility": "private"}
        sampler.click(sample, None, text, **quiet)
        button.click(solve, [text, steps, voting], [solved, words, picture, slider], **quiet)
        slider.change(
            scrub, [solved, slider], picture, show_progress="hidden", trigger_mode="always_last", **quiet
        )
    return blocks


def serve(session: Session, label: str, port: int) -> None:
    """Serve the page on the loopback address until it is interrupted."""
    import gradio

    # Use system fonts, because the default theme would fetch fonts from Google.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    blocks = page(session, label)
    try:
        blocks.queue(max_size=16).launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=1,  # bytes, because the page has no uploads
            state_session_capacity=64,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
            css=STYLE,
        )
    except OSError as error:
        raise UserError(f"port={port}: cannot listen on it ({error}); choose another port") from error
    print(f"{label}: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    while blocks.is_running:  # `block_thread` would catch Ctrl-C and exit with 0
        time.sleep(0.1)


if __name__ == "__main__":
    report_user_errors(main)(sys.argv[1:])
