"""A page to try models in a browser: pick an image, ask, see the answers, where a model looked and what it used.

What the page does is plain functions of images and strings; gradio is only needed for the page itself, and imported
there. Every limit on what a stranger may send stands at the top, here and in judges.py.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from training_ume.explain.explanation import need_captum
from training_ume.serve.html import CSS, NAME_EXAMPLES, SHOW_ANSWERS, render
from training_ume.serve.judges import (
    MAX_QUESTION,
    MAX_UPLOAD,
    SUFFIXES,
    Judge,
    Visit,
    answer,
    chosen,
    give_reasons,
    read_question,
    read_upload,
)
from training_ume.serve.page_any import build_any
from training_ume.serve.sentences import HOUR, QUEUE, sentences
from training_ume.serve.uploads import Uploads

CALLS_A_MINUTE = 120  # uploads, answers and reasons for one address: a question a second, from several people, too
QUESTIONS = "questions.txt"  # in a folder of examples


def need_gradio() -> None:
    """Raises ImportError where gradio is missing; asked before a model is loaded."""
    if find_spec("gradio") is None:
        raise ImportError("The page needs the package gradio: `pip install gradio` (or the extra `ume[demo]`).")
    need_captum()


def find_examples(folder: str | Path | None) -> tuple[list[Path], list[str]]:
    """The images of a folder and the lines of its questions.txt; ValueError where an image is missing or broken."""
    if folder is None:
        return [], []
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}: --examples names one with images.")
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not images:
        raise ValueError(f"The folder {str(folder)!r} holds no image: --examples needs {', '.join(SUFFIXES)} files.")
    for path in images:
        read_upload(path)
    file = folder / QUESTIONS
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return images, [read_question(line) for line in lines if line.strip()]


class Rate:
    """ASGI middleware that tells an address to wait which has sent more than `CALLS_A_MINUTE` in this minute."""

    def __init__(self, app):
        self.app = app
        self.minute, self.calls = 0, Counter()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            minute = int(time.monotonic() // 60)
            if minute != self.minute:
                self.minute, self.calls = minute, Counter()
            address = scope["client"][0]
            self.calls[address] += 1
            if self.calls[address] > CALLS_A_MINUTE:
                said = f"More than {CALLS_A_MINUTE} calls came from your address in one minute: wait for the next one."
                headers = [(b"content-type", b"application/json")]
                await send({"type": "http.response.start", "status": 429, "headers": headers})
                await send({"type": "http.response.body", "body": json.dumps({"detail": said}).encode()})
                return
        await self.app(scope, receive, send)


def build_demo(judges: list[Judge], examples: str | Path | None = None):
    """
    The page as `gradio.Blocks`; `launch` serves it.

    Args:
        examples: a folder with images to pick from, and perhaps a questions.txt, one question a line.

    Raises:
        ImportError: without gradio or captum.
        ValueError: for a folder without images.
    """
    need_gradio()
    import gradio as gr

    if not all(judge.pipeline.asks_about_images for judge in judges):
        if examples is not None:
            raise ValueError("--examples are for questions about images, and this model reads other things.")
        return build_any(judges)
    images, questions = find_examples(examples)

    def pick(path):
        with sentences():
            image = read_upload(path)
        visit = Visit(image)
        return visit, gr.Image(image, visible=True), None, render(judges, visit)

    def pick_example(number: int):
        with sentences():
            path = chosen(images, number)
        return pick(path)

    def ask(visit: Visit, question: str):
        with sentences():
            visit = answer(judges, visit, question)
        return visit, render(judges, visit), ""

    def ask_example(visit: Visit, number: int):
        with sentences():
            line = chosen(questions, number)
        return ask(visit, line)

    def why(visit: Visit):
        with sentences():
            visit = give_reasons(judges, visit)
        return visit, render(judges, visit)

    with gr.Blocks(
        analytics_enabled=False, title="Ask about a picture", fill_width=True, delete_cache=(HOUR, HOUR)
    ) as demo:
        visit = gr.State(Visit(), time_to_live=HOUR)
        gr.Markdown("# Ask about a picture\nChoose a picture, type a question and press Enter; then ask the next one.")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                shown = gr.Image(
                    label="The picture", visible=False, interactive=False, height=220, buttons=[],
                    alt_text="The picture that you ask about", elem_id="picture",
                )  # fmt: skip
                upload = gr.File(
                    label=f"Choose a picture (up to {MAX_UPLOAD // 2**20} MB)", file_types=list(SUFFIXES), height=104,
                    elem_id="upload",
                )  # fmt: skip
                if images:
                    pictures = gr.Dataset(
                        components=[gr.Image(visible=False)], samples=[[str(path)] for path in images],
                        type="index", label="… or one of these", layout="gallery", elem_id="examples",
                    )  # fmt: skip
            with gr.Column(scale=5, min_width=300):
                with gr.Row(equal_height=True):
                    question = gr.Textbox(
                        label="Your question", placeholder="What is in the picture?", max_lines=1,
                        max_length=MAX_QUESTION, scale=5, min_width=180, elem_id="question",
                    )  # fmt: skip
                    button = gr.Button("Ask", variant="primary", scale=1, min_width=80, elem_id="ask")
                if questions:
                    asked = gr.Dataset(
                        components=[gr.Textbox(visible=False)], samples=[[line] for line in questions], type="index",
                        label="For example", elem_id="questions",
                    )  # fmt: skip
                answers = gr.HTML(render(judges, Visit()), elem_id="answers", padding=False)
        # Three queues of one call at a time: an answer waits for no more than the reasons that are being looked for.
        picking, asking, explaining = (
            {"concurrency_id": name, "concurrency_limit": 1} for name in ("picking", "asking", "explaining")
        )
        seen = [visit, shown, upload, answers]
        picked = upload.upload(pick, upload, seen, api_name="pick", **picking)
        picked.failure(lambda: None, None, upload, api_visibility="private")  # so that the next file can be chosen
        if images:
            pictures.click(pick_example, pictures, seen, api_name="pick_example", **picking)
        told = [visit, answers, question]
        calls = [gr.on([question.submit, button.click], ask, [visit, question], told, api_name="ask",
                       show_progress_on=answers, **asking)]  # fmt: skip
        if questions:
            calls.append(
                asked.click(
                    ask_example, [visit, asked], told, api_name="ask_example", show_progress_on=answers, **asking
                )
            )
        for number, call in enumerate(calls):
            name = {"api_name": "why"} if number == 0 else {"api_visibility": "private"}
            call.success(why, visit, [visit, answers], show_progress="hidden", **name, **explaining)
            call.success(js=SHOW_ANSWERS)
        # To a screen reader, a picture without a name is nothing to press.
        names = json.dumps([path.stem.replace("_", " ") for path in images])
        demo.load(js=NAME_EXAMPLES % names)
    return demo.queue(max_size=QUEUE)


def launch(demo, port: int | None = None, wait: bool = True) -> str:
    """
    Serves the page, on this machine only unless GRADIO_SERVER_NAME says otherwise, and returns its address.

    Args:
        port: default: the first free one from 7860.
        wait: until Ctrl-C.

    Raises:
        ValueError: when no such port is free.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    try:
        _, address, _ = demo.launch(
            server_port=port,
            share=False,
            ssr_mode=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            footer_links=[],
            max_file_size=MAX_UPLOAD,
            app_kwargs={"middleware": [Middleware(Rate), Middleware(Uploads, max_file=MAX_UPLOAD)]},
            state_session_capacity=1000,
            # Fonts of the reader's own: nothing is fetched from elsewhere.
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=CSS,
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:
        tried = "No port from 7860 on is free" if port is None else f"Port {port} cannot be used (is it taken?)"
        raise ValueError(f"{tried}: give another --port.") from error
    if wait:
        print(f"The page is at {address} (Ctrl-C ends it).", flush=True)
        try:
            threading.Event().wait()
        finally:
            demo.close(verbose=False)
    return address
