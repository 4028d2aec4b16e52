"""A page to try models in a browser: pick an image, ask, see the answers, where a model looked and what it used.

What the page does is plain functions of images and strings; gradio is only needed for the page itself, and imported
there. Every limit on what a stranger may send stands at the top.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from packaging.requirements import Requirement
from PIL import Image

from modeling_ume import UMEForVisualQuestionAnswering, UMEProcessor
from modeling_ume.padding_ume import unpadded
from modeling_ume.pipeline_ume import UMEVQAPipeline
from modeling_ume.processing_ume import to_rgb
from training_ume.attribution import integrated_map
from training_ume.demo_uploads import Uploads
from training_ume.evaluation import load_checkpoint
from training_ume.explain import SUBSETS, answer_id, need_captum, shapley_values, subset_probabilities
from training_ume.publish import check_files

MAX_UPLOAD = 10 * 2**20  # bytes
MAX_PIXELS = (
    40_000_000  # read from the header, before anything is decoded; a telephone's pictures have 12 to 24 million
)
MAX_QUESTION = 300  # characters
QUEUE = 32  # calls that wait; who comes later is told so
CALLS_A_MINUTE = 120  # uploads, answers and reasons for one address: a question a second, from several people, too
SIDE = 1024  # pixels; larger images are scaled down once, so that each question costs the same
KEPT_ANSWERS = 8  # questions that stay on the page
HOUR = 3600  # seconds after which uploads and visits are forgotten
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # no decoder that few people use reads a stranger's file
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TOP_K = 5
MAP_PIXELS = 320  # of the longer side of a heat map

GRADIO_VERSION = "6.31.0"  # the one that the page is tested with
PACKAGES = ("modeling_ume", "configuration_ume", "training_ume", "metrics")  # what a Space needs of this project
QUESTIONS = "questions.txt"  # in a folder of examples


@dataclass
class Judge:
    """A model that answers on the page, and what the page calls it; one call at a time, as tokenizers need."""

    title: str
    model: UMEForVisualQuestionAnswering
    processor: UMEProcessor
    pipeline: UMEVQAPipeline = field(init=False)
    lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self):
        self.pipeline = UMEVQAPipeline(
            model=self.model, processor=self.processor, device=self.model.device, top_k=TOP_K
        )


@dataclass
class Reasons:
    """Why a model gave its best answer.

    Attributes:
        heat: the image in grey with what speaks for the answer in colour.
        speaks_for: whether any part of the image does.
        start: the answer's probability without question and image; with both it is `start + text + image`.
        text, image: Shapley values, what each adds to the probability.
    """

    heat: Image.Image
    speaks_for: bool
    start: float
    text: float
    image: float


@dataclass
class Card:
    """A question, each model's best answers `{"answer", "score"}`, and each model's reasons once they are known."""

    question: str
    answers: list[list[dict]]
    reasons: list[Reasons] | None = None


@dataclass
class Visit:
    """What the page remembers of one visitor: the image and the last questions about it, the newest first."""

    image: Image.Image | None = None
    cards: list[Card] = field(default_factory=list)


# ------------------------------------------------------------------------------------------ images, questions, answers


def read_upload(path: str | Path | None) -> Image.Image:
    """
    Reads a stranger's file as an upright RGB image with a longer side of at most 1024 pixels.

    Raises:
        ValueError: when there is none, or when it is too large, has too many pixels, or is no image that can be read.
    """
    if path is None:
        raise ValueError("There is no image: upload one, or pick an example.")
    if not isinstance(path, (str, Path)) or "\0" in str(path):
        raise ValueError("What was sent is no image: upload one, or pick an example.")
    path = Path(path)
    name = f"The file “{path.name[-60:]}”"
    if not path.is_file():
        raise ValueError(f"{name} is no longer here: upload it again.")
    if path.stat().st_size > MAX_UPLOAD:
        raise ValueError(f"{name} is larger than {MAX_UPLOAD // 2**20} MB: choose a smaller one.")
    too_many = f"{name} has more than {MAX_PIXELS // 1_000_000} megapixels: scale it down first."
    try:
        with Image.open(path, formats=FORMATS) as opened:  # the header only
            image = to_rgb(opened) if opened.width * opened.height <= MAX_PIXELS else None
    except Image.DecompressionBombError:
        raise ValueError(too_many) from None
    except Exception as error:  # a decoder raises whatever it likes for a broken file
        raise ValueError(
            f"{name} is not an image that can be read: choose a JPEG, PNG, WebP, GIF or BMP picture."
        ) from error
    if image is None:
        raise ValueError(too_many)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


def read_question(question: str | None) -> str:
    """The question without spaces around it; ValueError for an empty or an endless one."""
    if question is not None and not isinstance(question, str):
        raise ValueError("The question is no text: write what you want to know about the image.")
    question = (question or "").strip()
    if not question:
        raise ValueError("The question is empty: write what you want to know about the image.")
    if len(question) > MAX_QUESTION:
        raise ValueError(
            f"The question has {len(question)} characters: ask it in {MAX_QUESTION} or fewer, one question at a time."
        )
    return question


def chosen(examples: list, number) -> object:
    """The example of that number; ValueError for anything that is not the number of one."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(examples):
        raise ValueError("There is no such example: pick one of those on the page.")
    return examples[number]


def load_judges(names: list[str]) -> list[Judge]:
    """Loads one or two models by folder or Hub name; ValueError as `load_checkpoint`, and for another number."""
    if len(names) not in (1, 2):
        raise ValueError(f"{len(names)} models were named: the page shows one, or two side by side.")
    judges = []
    for name in names:
        model, processor = load_checkpoint(name)
        folder = folder_name(name) if Path(name).is_dir() else name.rsplit("/", 1)[-1]
        title = folder if folder == model.config.fusion else f"{folder} · fusion {model.config.fusion}"
        judges.append(Judge(title, model, processor))
    return judges


def folder_name(folder: str | Path) -> str:
    """Its last part, also of `.`; a link keeps its own name."""
    return os.path.basename(os.path.abspath(folder))


def answer(judges: list[Judge], visit: Visit, question: str | None) -> Visit:
    """The visit with one more question and its answers; ValueError without an image, or as `read_question`."""
    if visit.image is None:
        read_upload(None)
    card = Card(read_question(question), [])
    for judge in judges:
        with judge.lock:
            card.answers.append(judge.pipeline(visit.image, card.question))
    return Visit(visit.image, [card, *visit.cards][:KEPT_ANSWERS])


def give_reasons(judges: list[Judge], visit: Visit) -> Visit:
    """The visit with reasons for the newest answers that have none yet."""
    cards = list(visit.cards)
    for number, card in enumerate(cards):
        if card.reasons is None:
            reasons = []
            for judge, answers in zip(judges, card.answers, strict=True):
                with judge.lock:
                    reasons.append(reasons_for(judge, visit.image, card.question, answers[0]["answer"]))
            cards[number] = Card(card.question, card.answers, reasons)
            break
    return Visit(visit.image, cards)


def reasons_for(judge: Judge, image: Image.Image, question: str, said: str) -> Reasons:
    """Integrated gradients over the image and Shapley values of both modalities, as docs/explain.md says them."""
    model, processor = judge.model, judge.processor
    target = answer_id(model, said)
    inputs = processor(images=image, text=question)
    seen = processor(images=image, images_kwargs={"do_normalize": False})["pixel_values"][0]  # [3, H, W]
    [own] = unpadded(inputs["pixel_values"], inputs.pop("pixel_mask", None))
    inputs["pixel_values"], seen = own[None], seen[:, : own.shape[1], : own.shape[2]]
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    cells, _ = integrated_map(model, inputs, target)
    with torch.no_grad():
        encoded = model.encode_images(inputs.pop("pixel_values"))
    values = subset_probabilities(model, {**inputs, **encoded}, torch.tensor([target]))[0]
    shapley = dict(zip(("text", "image"), shapley_values(values).tolist(), strict=True))
    cells = cells.clamp(min=0).cpu().numpy()
    heat = heat_map(seen.clamp(0, 1).permute(1, 2, 0).cpu().numpy(), cells)
    return Reasons(heat, bool(cells.any()), values[SUBSETS.index(())].item(), **shapley)


def heat_map(seen: np.ndarray, cells: np.ndarray) -> Image.Image:
    """
    The image [H, W, 3] in 0 … 1, pale and grey, under the map [h, w] ≥ 0 from clear over orange to dark red.

    Each cell keeps its edges: a smooth picture would promise more places than the map has.
    """
    scale = MAP_PIXELS / max(seen.shape[:2])
    size = tuple(round(scale * side) for side in seen.shape[1::-1])
    strength = cells / (cells.max() or 1)
    strength = np.asarray(Image.fromarray(strength.astype(np.float32)).resize(size, Image.Resampling.NEAREST))
    grey = Image.fromarray((255 * seen.mean(-1)).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pale = 0.45 + 0.55 * np.asarray(grey, np.float32)[..., None] / 255
    steps = np.array([0.0, 0.5, 1.0])
    colours = np.array([[1.0, 0.85, 0.35], [0.96, 0.45, 0.10], [0.65, 0.0, 0.15]])
    colour = np.stack([np.interp(strength, steps, channel) for channel in colours.T], -1)
    opacity = 0.85 * np.sqrt(strength)[..., None]
    return Image.fromarray((255 * (pale * (1 - opacity) + colour * opacity)).round().astype(np.uint8))


# ------------------------------------------------------------------------------------------------------------- as HTML

CSS = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
#upload [data-testid="upload-icon"] {display: none}
#upload [data-testid="upload-text"] {padding-top: 18px; font-size: .95rem}
/* a message says more, and what was there before still holds */
:is(#answers, #picture) [data-testid="status-tracker"]:has(> .error) {display: none}
#picture img {width: 100%; height: 100%; object-fit: contain}
.ume-card {border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 14px 16px; margin: 0 0 14px;
  background: var(--background-fill-primary); color: var(--body-text-color)}
.ume-card h3 {margin: 0 0 10px; font-size: 1.15rem; overflow-wrap: anywhere; color: var(--body-text-color)}
.ume-models {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 22px}
.ume-models h4 {margin: 0 0 6px; font-size: .9rem; font-weight: 600; color: var(--body-text-color); opacity: .8}
.ume-rows {display: grid; grid-template-columns: minmax(3.5rem, max-content) 1fr max-content; gap: 5px 10px;
  align-items: center; margin: 0; font-variant-numeric: tabular-nums}
.ume-rows dt {overflow-wrap: anywhere; max-width: 11rem}
.ume-rows dt.first {font-weight: 700}
.ume-rows dd {margin: 0; color: var(--body-text-color)}
.ume-rows dd:nth-of-type(even) {text-align: right}
.ume-track {position: relative; display: block; height: 12px; border-radius: 3px;
  background: var(--border-color-primary)}
.ume-track i {position: absolute; top: 0; bottom: 0; border-radius: 3px; background: #4878a8}
.ume-track i.image {background: #c47f2c}
.ume-track i.start {background: #8a8f98}
.ume-track i.against {background: repeating-linear-gradient(45deg, #b5473c 0 4px, #d98a82 4px 8px)}
.ume-card figure {margin: 12px 0 0; max-width: 320px}
.ume-card figure img {width: 100%; border-radius: 6px; display: block}
.ume-card figcaption, .ume-note {font-size: .85rem; color: var(--body-text-color); opacity: .8;
  margin: 5px 0}
.ume-wait {animation: ume-wait 1.2s ease-in-out infinite alternate}
@keyframes ume-wait {to {opacity: .4}}
@media (prefers-reduced-motion: reduce) {.ume-wait {animation: none}}
"""


def render(judges: list[Judge], visit: Visit) -> str:
    """The questions and answers of a visit as HTML that loads nothing; what strangers wrote is escaped."""
    if not visit.cards:
        return '<p class="ume-note">The answers will stand here.</p>'
    return "".join(render_card(judges, card) for card in visit.cards)


def render_card(judges: list[Judge], card: Card) -> str:
    parts = []
    for number, (judge, answers) in enumerate(zip(judges, card.answers, strict=True)):
        rows = "".join(
            f"<dt{'' if place else ' class=first'}>{escape(found['answer'])}</dt>"
            f"<dd>{bar(0, found['score'])}</dd><dd>{found['score']:.1%}</dd>"
            for place, found in enumerate(answers)
        )
        reasons = '<p class="ume-note ume-wait">Looking for the reasons …</p>'
        if card.reasons is not None:
            reasons = render_reasons(answers[0], card.reasons[number])
        parts.append(f'<section><h4>{escape(judge.title)}</h4><dl class="ume-rows">{rows}</dl>{reasons}</section>')
    return (
        f'<article class="ume-card"><h3>{escape(card.question)}</h3><div class="ume-models">{"".join(parts)}</div>'
        "</article>"
    )


def render_reasons(best: dict, why: Reasons) -> str:
    """The heat map, and bars that lead from the probability without text and image to the one with both."""
    said = escape(best["answer"])
    file = io.BytesIO()
    why.heat.save(file, "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    where = f"What in the image speaks for “{said}”" if why.speaks_for else f"Nothing in the image speaks for “{said}”"
    rows = [("neither", "start", 0.0, why.start), ("question", "text", why.start, why.text)]
    rows.append(("image", "image", why.start + why.text, why.image))
    bars = "".join(
        f"<dt>{name}</dt><dd>{bar(begin, by, kind)}</dd>"
        f"<dd>{f'{by:.1%}' if kind == 'start' else f'{100 * by:+.1f}'}</dd>"
        for name, kind, begin, by in rows
    )
    return (
        f'<figure><img src="{source}" alt="Heat map: {where.lower()}."><figcaption>{where}.</figcaption></figure>'
        f'<p class="ume-note">Probability of “{said}” without either, and what question and image add</p>'
        f'<dl class="ume-rows ume-modalities">{bars}</dl>'
    )


def bar(begin: float, by: float, kind: str = "") -> str:
    """A bar from `begin` to `begin + by`, of 0 … 1; striped where it leads back."""
    left, right = sorted(min(max(x, 0.0), 1.0) for x in (begin, begin + by))
    kind = "against" if by < 0 else kind
    return (
        f'<span class="ume-track"><i class="{kind}" style="left:{100 * left:.1f}%;width:{100 * (right - left):.1f}%">'
        "</i></span>"
    )


# ------------------------------------------------------------------------------------------------------------ the page


NAME_EXAMPLES = """() => {
  const names = %s;
  document.querySelectorAll("#examples button").forEach((button, i) => button.setAttribute("aria-label", names[i]));
}"""


# On a telephone the answers may begin below the screen.
SHOW_ANSWERS = """() => {
  const answers = document.getElementById("answers");
  if (answers.getBoundingClientRect().top > 0.6 * window.innerHeight) answers.scrollIntoView({block: "start"});
}"""


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


@contextmanager
def sentences():
    """What a visitor did wrong is said on the page as the ValueError says it; any other error is logged."""
    import gradio as gr

    try:
        yield
    except ValueError as error:
        raise gr.Error(escape(str(error)), duration=None, print_exception=False) from None
    except Exception as error:
        raise gr.Error("The page made a mistake, which is not yours: its log says more.", duration=None) from error


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


# ------------------------------------------------------------------------------------------------------------- a Space

APP = '''"""The page of this Space: the models below answer questions about pictures."""

import os

from training_ume.demo import build_demo, launch, load_judges

# The proxies in front of a Space, which say who asks: each visitor then has a limit, not all of them one.
os.environ.setdefault("FORWARDED_ALLOW_IPS", "127.0.0.1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16")
demo = build_demo(load_judges({models!r}), {examples!r})

if __name__ == "__main__":
    launch(demo)
'''

README = """---
title: Ask about a picture
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
{listed}pinned: false
---

# Ask about a picture

Choose a picture, ask, and see the answers of {titles}, the part of the picture that speaks for them, and what the
question and the picture add to their probability. Pictures are deleted after an hour and not kept otherwise.
"""


def write_space(folder: str | Path, names: list[str], examples: str | Path | None = None) -> list[str]:
    """
    Writes a folder that runs as a Space: `app.py`, `requirements.txt`, `README.md`, and this project's packages.

    Models of the Hub are named in it, models in folders are put into it.

    Returns:
        The files, relative to the folder.

    Raises:
        ValueError: when there is such a folder with something in it, or as `load_judges` and `find_examples`.
    """
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"{str(folder)!r} exists and is not empty: name a new folder for the Space.")
    images, _ = find_examples(examples)
    judges = load_judges(names)
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for name, judge in zip(names, judges, strict=True):
        if not Path(name).is_dir():
            models.append(name)
            continue
        place = f"models/{folder_name(name)}"
        if place in models:
            place += f"-{len(models) + 1}"
        judge.pipeline.save_pretrained(folder / place)
        models.append(place)
    if images:
        (folder / "examples").mkdir()
        for path in [*images, Path(examples) / QUESTIONS]:
            if path.is_file():
                shutil.copyfile(path, folder / "examples" / path.name)
    for package in PACKAGES:
        source = Path(__file__).resolve().parent.parent / package
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    on_hub = [name for name in models if not name.startswith("models/")]
    texts = {
        "app.py": APP.format(models=models, examples="examples" if images else None),
        "requirements.txt": "\n".join(requirements()) + "\n",
        "README.md": README.format(
            gradio=GRADIO_VERSION,
            listed="".join(["models:\n", *(f"  - {name}\n" for name in on_hub)]) if on_hub else "",
            titles=" and ".join(f"`{judge.title}`" for judge in judges),
        ),
        ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    written = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    ours = tuple(f"{package}/" for package in PACKAGES)
    check_files({name: folder / name for name in written if not name.startswith(ours)})
    return written


def requirements() -> list[str]:
    """What this project's page needs besides gradio, which a Space brings in the version that its README.md names."""
    needed = []
    for line in metadata.requires("ume"):
        requirement = Requirement(line)
        given = requirement.marker is None or requirement.marker.evaluate({"extra": "demo"})
        if given and requirement.name != "gradio":
            requirement.marker = None
            needed.append(str(requirement))
    return sorted(needed)
