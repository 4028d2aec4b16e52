"""The page: what it refuses, what it says, the Space made of it; and, with `-m browser`, the page in real Chromium."""

import asyncio
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_pipeline import ANSWERS, make_model, make_processor

from modeling_ume import UMEVQAPipeline
from training_ume.commands.demo import main
from training_ume.serve import judges as judges_module
from training_ume.serve import page as demo
from training_ume.serve import space as space_module
from training_ume.serve.html import bar, render
from training_ume.serve.judges import (
    KEPT_ANSWERS,
    MAX_QUESTION,
    SIDE,
    Judge,
    Visit,
    answer,
    give_reasons,
    heat_map,
    load_judges,
    read_question,
    read_upload,
)
from training_ume.serve.page import build_demo, find_examples
from training_ume.serve.space import write_space

ROOT = Path(__file__).parent.parent


def png(path, width, height):
    """A file whose header promises so many pixels, and which holds none of them."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    return path


def picture(path, size=(24, 18), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def judges():
    models = make_model(), make_model(fusion="concat")
    return [Judge(model.config.fusion, model, make_processor(model)) for model in models]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, judges):
    """Two saved models and a folder of examples with a question."""
    top = tmp_path_factory.mktemp("demo")
    for judge in judges:
        judge.pipeline.save_pretrained(top / judge.title)
    (top / "examples").mkdir()
    picture(top / "examples" / "first_one.png")
    picture(top / "examples" / "second.png", seed=1)
    (top / "examples" / "questions.txt").write_text("what colour is it ?\n\nis it red ?\n")
    return top


# ---------------------------------------------------------------------------------------------------- what is refused


def test_no_image_is_refused_with_advice(judges):
    with pytest.raises(ValueError, match=r"^There is no image: upload one, or pick an example\.$"):
        answer(judges, Visit(), "what colour is it ?")


@pytest.mark.parametrize("question", ["", "  \n ", None])
def test_an_empty_question_is_refused(judges, tmp_path, question):
    visit = Visit(read_upload(picture(tmp_path / "a.png")))
    with pytest.raises(ValueError, match=r"^The question is empty: "):
        answer(judges, visit, question)


def test_an_endless_question_is_refused():
    assert read_question(" " + "x" * MAX_QUESTION) == "x" * MAX_QUESTION
    with pytest.raises(ValueError, match=f"^The question has {MAX_QUESTION + 1} characters"):
        read_question("x" * (MAX_QUESTION + 1))


@pytest.mark.parametrize("content", [b"I am no picture.\n", b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_a_text_file_renamed_jpg_is_refused(tmp_path, content):
    file = tmp_path / "text.jpg"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^The file “text.jpg” is not an image that can be read: ") as error:
        read_upload(file)
    assert str(tmp_path) not in str(error.value)


def test_half_an_image_is_refused(tmp_path):
    whole = picture(tmp_path / "whole.png", (200, 200)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not an image that can be read"):
        read_upload(tmp_path / "half.png")


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (8_000, 6_000)])
def test_too_many_pixels_are_refused_by_the_header_alone(tmp_path, monkeypatch, width, height):
    def decode(*args):
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(ValueError, match=r"^The file “bomb.png” has more than 40 megapixels: "):
        read_upload(png(tmp_path / "bomb.png", width, height))


def test_a_large_file_is_refused_unread(tmp_path, monkeypatch):
    file = picture(tmp_path / "large.png")
    monkeypatch.setattr(judges_module, "MAX_UPLOAD", file.stat().st_size - 1)
    with pytest.raises(ValueError, match="is larger than 0 MB"):
        read_upload(file)


def test_a_file_that_was_deleted_meanwhile_is_asked_for_again(tmp_path):
    with pytest.raises(ValueError, match=r"is no longer here: upload it again\.$"):
        read_upload(tmp_path / "gone.png")


def test_large_images_are_scaled_down_once_and_small_ones_stay(tmp_path):
    assert read_upload(picture(tmp_path / "small.png", (60, 30))).size == (60, 30)
    Image.new("L", (3000, 1500)).save(tmp_path / "large.png")
    large = read_upload(tmp_path / "large.png")
    assert (large.size, large.mode) == ((SIDE, SIDE // 2), "RGB")


def test_an_address_that_calls_too_often_waits_for_the_next_minute_and_no_other_does(monkeypatch):
    let_through, now = [], 0.0
    monkeypatch.setattr(demo.time, "monotonic", lambda: now)

    async def app(scope, receive, send):
        let_through.append(scope["client"][0])

    def call(address, method="POST"):
        sent = []

        async def send(message):
            sent.append(message)

        asyncio.run(rate({"type": "http", "method": method, "client": (address, 1)}, None, send))
        return sent

    rate = demo.Rate(app)
    for _ in range(demo.CALLS_A_MINUTE):
        assert call("10.0.0.1") == []
    start, body = call("10.0.0.1")
    assert start["status"] == 429
    assert json.loads(body["body"])["detail"].startswith("More than 120 calls came from your address in one minute")
    assert len(let_through) == demo.CALLS_A_MINUTE
    assert call("10.0.0.2") == call("10.0.0.1", "GET") == []
    now = 60.0
    assert call("10.0.0.1") == []


# ---------------------------------------------------------------------------------------------------- what is answered


def test_the_page_answers_as_the_pipeline_does(judges, tmp_path):
    image = read_upload(picture(tmp_path / "a.png"))
    [card] = answer(judges, Visit(image), " is it red ? ").cards
    for judge, answers in zip(judges, card.answers, strict=True):
        assert card.question == "is it red ?"
        pipeline = UMEVQAPipeline(model=judge.model, processor=judge.processor, device="cpu", top_k=5)
        assert answers == pipeline(image, "is it red ?")


def test_several_questions_encode_the_image_once_a_model(judges, tmp_path):
    runs = []
    hooks = [j.model.ume.vision_model.register_forward_hook(lambda *args: runs.append(1)) for j in judges]
    visit = Visit(read_upload(picture(tmp_path / "a.png", seed=5)))
    try:
        for number in range(KEPT_ANSWERS + 2):
            visit = answer(judges, visit, f"is it {number} ?")
    finally:
        for hook in hooks:
            hook.remove()
    assert len(runs) == len(judges)
    assert [card.question for card in visit.cards] == [f"is it {n} ?" for n in range(KEPT_ANSWERS + 1, 1, -1)]


def test_reasons_come_to_each_card_and_lead_to_the_answers_probability(judges, tmp_path):
    pytest.importorskip("captum")
    visit = Visit(read_upload(picture(tmp_path / "a.png")))
    for question in ("is it red ?", "what colour is it ?"):
        visit = answer(judges, visit, question)
    visit = give_reasons(judges, give_reasons(judges, visit))
    for card in visit.cards:
        for answers, why in zip(card.answers, card.reasons, strict=True):
            assert why.start + sum(why.shapley.values()) == pytest.approx(answers[0]["score"], abs=1e-4)
            assert max(why.heat.size) == judges_module.MAP_PIXELS
    assert give_reasons(judges, visit).cards == visit.cards
    assert give_reasons(judges, Visit()).cards == []


def test_the_heat_lies_where_the_map_is_strong():
    cells = np.zeros((4, 4), np.float32)
    cells[0, 3] = 2.0
    heat = np.asarray(heat_map(np.full((32, 32, 3), 0.5, np.float32), cells)).astype(int)
    redness = heat[..., 0] - heat[..., 2]
    quarter = judges_module.MAP_PIXELS // 4
    assert redness[:quarter, -quarter:].min() > 60
    assert redness[quarter:].max() == 0
    assert redness[:, :-quarter].max() == 0


def test_a_map_of_nothing_leaves_the_image_grey():
    heat = np.asarray(heat_map(np.random.default_rng(0).random((20, 30, 3)), np.zeros((4, 4), np.float32)))
    assert (heat[..., 0] == heat[..., 2]).all()


def test_bars_stay_in_their_track_and_losses_are_striped():
    assert "left:20.0%;width:30.0%" in bar(0.2, 0.3)
    assert 'class="against" style="left:0.0%;width:20.0%"' in bar(0.2, -0.9, "text")


def test_html_in_a_question_or_an_answer_is_shown_not_run(tmp_path):
    model = make_model()
    model.config.id2label = {**ANSWERS, 0: "<script>alert(1)</script>"}
    model.config.id2label |= {i: f"<b>{i}" for i in range(1, 7)}
    judges = [Judge("<i>", model, make_processor(model))]
    visit = answer(judges, Visit(read_upload(picture(tmp_path / "a.png"))), '<img src=x onerror="alert(1)">')
    html = render(judges, visit)
    assert "&lt;img src=x onerror=" in html
    assert not re.search(r"<(script|img|b|i)>|<img src=x", html)


# ------------------------------------------------------------------------------------------------ folders and commands


def test_examples_are_images_and_lines_of_questions(folders):
    images, questions = find_examples(folders / "examples")
    assert [path.name for path in images] == ["first_one.png", "second.png"]
    assert questions == ["what colour is it ?", "is it red ?"]
    assert find_examples(None) == ([], [])


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no image"):
        find_examples(tmp_path)
    with pytest.raises(ValueError, match="There is no folder"):
        find_examples(tmp_path / "none")


def test_a_model_is_called_by_its_folder_and_its_fusion(folders, monkeypatch):
    shutil.copytree(folders / "concat", folders / "second_run", dirs_exist_ok=True)
    assert [j.title for j in load_judges([str(folders / "ume"), str(folders / "second_run")])] == [
        "ume",
        "second_run · fusion concat",
    ]
    with pytest.raises(ValueError, match="3 models were named"):
        load_judges(["a", "b", "c"])


def test_a_space_holds_all_that_it_needs_and_nothing_of_this_machine(folders, tmp_path, capsys):
    space = tmp_path / "space"
    names = [str(folders / "ume"), str(folders / "concat")]
    assert main([*names, "--examples", str(folders / "examples"), "--space", str(space)]) == 0
    assert f"wrote {space}" in capsys.readouterr().out
    metadata = (space / "README.md").read_text().split("---")[1]
    assert f"sdk: gradio\nsdk_version: {space_module.GRADIO_VERSION}" in metadata
    assert "app_file: app.py" in metadata
    needed = (space / "requirements.txt").read_text().split("\n")
    assert not any(line.startswith("gradio") for line in needed)
    assert {"torch", "transformers", "captum"} <= {re.split(r"[<>=]", line)[0] for line in needed}
    compile((space / "app.py").read_text(), "app.py", "exec")
    for path in space.rglob("*"):
        if path.is_file() and path.suffix in {".py", ".json", ".md", ".txt"}:
            for private in (str(folders), str(tmp_path), str(ROOT)):
                assert private not in path.read_text(), path
    # The packages in it are enough, wherever it is run.
    run = (
        "import app_check, training_ume.serve.page as page, training_ume.serve.judges as judges\n"
        "print(page.__file__); judges.load_judges(['models/ume', 'models/concat'])"
    )
    (space / "app_check.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=space, env={**os.environ, "PYTHONPATH": str(space)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(space))


def test_a_space_replaces_no_folder(folders, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main([str(folders / "ume"), "--space", str(tmp_path)]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_space_names_the_models_of_the_hub(folders, tmp_path, monkeypatch, judges):
    monkeypatch.setattr(space_module, "load_judges", lambda names, *rest: judges[:1])
    write_space(tmp_path / "space", ["someone/ume-easy-vqa"])
    assert "models:\n  - someone/ume-easy-vqa\n" in (tmp_path / "space" / "README.md").read_text()
    assert "load_judges(['someone/ume-easy-vqa']), None" in (tmp_path / "space" / "app.py").read_text()
    assert not (tmp_path / "space" / "models").exists()


def test_the_page_is_tested_with_the_gradio_that_a_space_gets():
    assert f"gradio=={space_module.GRADIO_VERSION}\n" in (ROOT / "constraints.txt").read_text()


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert main(["runs/none"]) == 2
    assert capsys.readouterr().err == (
        "error: The page needs the package gradio: `pip install gradio` (or the extra `ume[demo]`).\n"
    )


def test_a_folder_without_a_model_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path), "--space", str(tmp_path / "space")]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert not (tmp_path / "space").exists()


# ------------------------------------------------------------------------------------------------------ in the browser

CONNECTIONS = []  # addresses that this process connects to


def record_connections(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        CONNECTIONS.append(args[1][0])


@pytest.fixture(scope="module")
def address(folders):
    pytest.importorskip("gradio", reason="the page needs gradio: pip install 'ume[demo]'")
    sys.addaudithook(record_connections)
    models = [str(folders / "ume"), str(folders / "concat")]
    blocks = build_demo(load_judges(models), folders / "examples")
    yield demo.launch(blocks, wait=False)
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'ume[browser]'")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """The page, freshly loaded; that no request went elsewhere and no script failed is checked at the end."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    requests, failures = [], []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("pageerror", lambda error: failures.append(str(error)))
    opened.goto(address)
    opened.wait_for_selector("#examples button[aria-label]")
    yield opened
    opened.close()
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    assert failures == []


def pick(page, number=0):
    page.locator("#examples button").nth(number).click()
    page.wait_for_selector("#picture img")


def ask(page, question, cards=1, models=2):
    box = page.locator("#question input")
    box.fill(question)
    box.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.ume-card figure img').length == {cards * models}")


def message(page):
    body = page.locator("[data-testid=toast-body]")
    body.wait_for()
    text = body.inner_text()
    page.locator("[data-testid=toast-close]").click()
    body.wait_for(state="detached")
    return text


@pytest.mark.browser
def test_picking_and_asking_shows_answers_overlay_and_modalities_side_by_side(page):
    pick(page)
    ask(page, "is it red ?")
    ask(page, "what colour is it ?", cards=2)
    assert page.locator(".ume-card h3").all_inner_texts() == ["what colour is it ?", "is it red ?"]
    newest = page.locator(".ume-card").first
    assert newest.locator("h4").all_inner_texts() == ["ume", "concat"]
    left, right = newest.locator("section").all()
    assert right.bounding_box()["x"] > left.bounding_box()["x"] + left.bounding_box()["width"]
    assert re.fullmatch(r"\d+\.\d%", left.locator("dl.ume-rows dd").nth(1).inner_text())
    assert left.locator(".ume-modalities dt").all_inner_texts() == ["neither", "question", "image"]
    overlay = left.locator("figure img")
    assert overlay.evaluate("image => image.naturalWidth") == judges_module.MAP_PIXELS
    assert re.match("(heat map: what|heat map: nothing)", overlay.get_attribute("alt").lower())


@pytest.mark.browser
def test_the_keyboard_is_enough(page):
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == "first one":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#picture img")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#question input')"):
            break
    page.keyboard.type("is it red ?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".ume-card figure img")
    assert page.evaluate("document.activeElement.matches('#question input')"), "the next question can be typed at once"
    assert page.locator("#question input").input_value() == ""


@pytest.mark.browser
def test_an_uploaded_picture_and_an_example_question_work_and_a_new_picture_starts_anew(page, tmp_path):
    upload = page.locator("#upload input[type=file]")
    upload.set_input_files(picture(tmp_path / "mine.png", (40, 30), seed=3))
    page.wait_for_selector("#picture img")
    page.locator("#questions button").nth(1).click()
    page.wait_for_selector(".ume-card figure img")
    assert page.locator(".ume-card h3").all_inner_texts() == ["is it red ?"]
    pick(page, 1)
    page.wait_for_selector(".ume-card", state="detached")


@pytest.mark.browser
def test_what_a_visitor_does_wrong_is_said_in_a_sentence(page, tmp_path):
    box = page.locator("#question input")
    box.fill("is it red ?")
    box.press("Enter")
    assert "There is no image: upload one, or pick an example." in message(page)
    (tmp_path / "text.jpg").write_text("I am no picture.")
    (tmp_path / "large.jpg").write_bytes(b"x" * (demo.MAX_UPLOAD + 1))
    png(tmp_path / "bomb.png", 20_000, 10_000)
    for name, sentence in {
        "text.jpg": "The file “text.jpg” is not an image that can be read",
        "bomb.png": "The file “bomb.png” has more than 40 megapixels",
        "large.jpg": "exceed the maximum allowed size",
    }.items():
        page.locator("#upload input[type=file]").set_input_files(tmp_path / name)
        assert sentence in message(page)
    pick(page)
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "text.jpg")
    message(page)
    page.locator("#picture img").click(trial=True)  # nothing hides the picture that is still asked about
    box.fill("   ")
    box.press("Enter")
    assert "The question is empty" in message(page)
    ask(page, "is it red ?")


@pytest.mark.browser
def test_html_in_a_question_is_text_on_the_page(page):
    pick(page)
    question = "<img src=x onerror=\"document.title='taken'\"> ?"
    ask(page, question)
    assert page.locator(".ume-card h3").inner_text() == question
    assert page.title() == "Ask about a picture"


@pytest.mark.browser
def test_a_telephone_scrolls_in_one_direction_and_sees_the_answer(page):
    page.set_viewport_size({"width": 390, "height": 844})
    pick(page)
    ask(page, "is it red ?")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    top, bottom = (section.bounding_box() for section in page.locator(".ume-card section").all())
    assert bottom["y"] > top["y"] + top["height"]
    assert bottom["x"] == top["x"]
    page.wait_for_function("document.getElementById('answers').getBoundingClientRect().top < 0.6 * window.innerHeight")


@pytest.mark.browser
def test_the_server_refuses_large_uploads_and_long_queues_and_calls_nobody(page, address):
    import httpx

    files = {"files": ("large.png", b"x" * (demo.MAX_UPLOAD + 1))}
    assert httpx.post(f"{address}gradio_api/upload", files=files).status_code == 413
    stranger = {"X-Forwarded-For": "203.0.113.7"}  # so that the other tests' calls are not counted
    codes = [
        httpx.post(f"{address}gradio_api/upload", files={}, headers=stranger).status_code
        for _ in range(demo.CALLS_A_MINUTE * 2)  # a minute may end in between
    ]
    assert 429 in codes
    assert codes[0] != 429
    config = httpx.get(f"{address}config").json()
    assert config["max_file_size"] == demo.MAX_UPLOAD
    assert config["analytics_enabled"] is False
    assert set(CONNECTIONS) <= {"127.0.0.1", "::1", "localhost"}


@pytest.mark.browser
def test_a_space_answers(folders, tmp_path):
    client = pytest.importorskip("gradio_client")
    space = tmp_path / "space"
    write_space(space, [str(folders / "ume")], folders / "examples")
    env = {**os.environ, "PYTHONPATH": str(space), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=space, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = server.stdout.readline()
        assert line.startswith("The page is at "), server.stderr.read()
        visitor = client.Client(line.split()[4], verbose=False)
        visitor.predict(client.handle_file(picture(tmp_path / "a.png")), api_name="/pick")
        html, _ = visitor.predict("is it red ?", api_name="/ask")
        assert "answer" in html
        assert "<figure>" in visitor.predict(api_name="/why")
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()
        server.stderr.close()
