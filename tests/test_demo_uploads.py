"""What strangers can fill through the page is bounded, and what they send in place of its own values is refused."""

import asyncio
import json
import math

import pytest

from training_ume.serve import uploads as demo_uploads
from training_ume.serve.judges import chosen, read_question, read_upload
from training_ume.serve.uploads import Uploads

LIMIT = 100_000
BOUNDARY = b"abcdef123"


def form(*files: bytes) -> bytes:
    head = b'--%s\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%s\r\n'
    return b"".join(head % (BOUNDARY, content) for content in files) + b"--%s--\r\n" % BOUNDARY


class Page:
    """Stands behind `Uploads` as gradio does: writes what it is sent, and answers with the paths."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []
        self.uploads = Uploads(self, LIMIT)

    async def __call__(self, scope, receive, send):
        body = (await receive())["body"]
        self.calls.append(body)
        path = self.folder / f"{len(self.calls)}" / "a.png"
        path.parent.mkdir()
        path.write_bytes(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps([str(path)]).encode()})

    def send(self, body, path="/gradio_api/upload", address="10.0.0.1", length=None, content_type=None, method="POST"):
        sent, parts = [], [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]

        async def receive():
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message):
            sent.append(message)

        length = str(len(body)).encode() if length is None else length
        content_type = b"multipart/form-data; boundary=" + BOUNDARY if content_type is None else content_type
        headers = [(b"content-type", content_type), (b"content-length", length)]
        scope = {"type": "http", "method": method, "path": path, "client": (address, 1), "headers": headers}
        asyncio.run(self.uploads(scope, receive, send))
        return sent[0]["status"], sent[1]["body"].decode()

    def files(self):
        return sorted(self.folder.rglob("*.png"), key=lambda path: int(path.parent.name))


@pytest.fixture
def page(tmp_path):
    return Page(tmp_path)


def test_one_file_of_a_call_comes_through_as_it_was_sent(page):
    body = form(b"\x89PNG" + bytes(range(256)) * 300)
    assert page.send(body)[0] == 200
    assert page.calls == [body]
    assert page.send(b'{"data": []}', path="/gradio_api/queue/join", content_type=b"application/json")[0] == 200


@pytest.mark.parametrize(
    ("body", "options", "status"),
    [
        (form(*[b"x" * 9000] * 10), {}, 413),
        (form(*[b""] * 100), {}, 413),
        (form(b"x" * 300_000), {}, 413),
        (form(b"x" * 300_000), {"length": b"10"}, 413),
        (form(b"x"), {"length": b""}, 411),
        (form(b"x"), {"length": b"-5"}, 411),
        (form(b"x"), {"content_type": b"multipart/form-data"}, 413),
        (form(b"x"), {"content_type": b"image/png"}, 413),
        (b"q" * 2 * 2**20, {"path": "/gradio_api/queue/join"}, 413),
    ],
)
def test_a_call_that_brings_too_much_is_refused_before_anything_is_written(page, body, options, status):
    found, said = page.send(body, **options)
    assert found == status
    assert "upload one picture of at most 0 MB at a time." in json.loads(said)["detail"]
    assert page.calls == []
    assert page.files() == []


def test_the_oldest_files_make_room(page, monkeypatch):
    monkeypatch.setattr(demo_uploads, "KEPT_FILES", 6)
    monkeypatch.setattr(demo_uploads, "KEPT_OF_ONE", 4)
    for _ in range(10):
        page.send(form(b"x" * 100))
    assert [path.parent.name for path in page.files()] == ["7", "8", "9", "10"]  # of one address
    for number in range(5):
        page.send(form(b"x" * 100), address=f"10.0.1.{number}")
    assert [path.parent.name for path in page.files()] == ["10", "11", "12", "13", "14", "15"]
    assert len(list(page.folder.iterdir())) == 6, "no empty folders either"
    page.files()[0].unlink()  # by the page itself, after an hour
    page.send(form(b"x"), address="10.0.2.1")
    assert len(page.uploads.kept) == len(page.files()) == 6
    monkeypatch.setattr(demo_uploads, "KEPT_BYTES", 1000)
    page.send(form(b"x" * 700))
    assert [path.parent.name for path in page.files()][-1] == "17"
    assert sum(path.stat().st_size for path in page.files()) <= 1000


@pytest.mark.parametrize("number", [-1, 2, 10**30, 1.0, math.nan, "0", None, True, [0], {"a": 0}])
def test_what_is_no_number_of_an_example_is_refused_with_a_sentence(number):
    with pytest.raises(ValueError, match="There is no such example"):
        chosen(["a", "b"], number)
    assert chosen(["a", "b"], 1) == "b"


@pytest.mark.parametrize("sent", [["a"], {"path": "a"}, 7, math.nan, "a\0b"])
def test_what_is_no_file_and_no_question_is_refused_with_a_sentence(sent):
    with pytest.raises(ValueError, match="no image"):
        read_upload(sent)
    if not isinstance(sent, str):
        with pytest.raises(ValueError, match="is no text"):
            read_question(sent)
