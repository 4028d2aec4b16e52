"""How much of the disk strangers may fill through the page: one file a call, and a budget for all that lies there."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock

MAX_CALL = 2**20  # bytes of any other call: a question, or the names of things on the page
FORM = 2**16  # bytes of an upload beyond its file
KEPT_BYTES, KEPT_FILES = 500 * 2**20, 500  # of uploads that lie on the disk; the oldest make room
KEPT_OF_ONE = 50  # of these for one address, so that nobody takes the room of all others
TOO_MUCH = "{what}: upload one picture of at most {megabytes} MB at a time."


class Uploads:
    """
    ASGI middleware that bounds what uploads bring and what remains of them.

    A call without a length, with more bytes than `max_file` and a form around it, or with more than one file is
    refused before anything is written. Of the files that are written, the oldest are deleted when those of an address
    or all together exceed the budget; a picture that was read already is not needed any more.

    Args:
        app: what comes behind.
        max_file (`int`): bytes of one file.
    """

    def __init__(self, app, max_file: int):
        self.app, self.max_file = app, max_file
        self.kept: OrderedDict[str, tuple[str, int]] = OrderedDict()  # path → address, bytes; the oldest first
        self.lock = Lock()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"").decode("latin-1")
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        limit = self.max_file + FORM if is_upload else MAX_CALL
        if not (length.isascii() and length.isdecimal() and len(length) < 16):
            await self._refuse(send, 411, "The call does not say how long it is")
        elif int(length) > limit:
            await self._refuse(send, 413, "The call is too large")
        elif not is_upload:
            await self.app(scope, receive, send)
        else:
            await self._upload(scope, receive, send, headers)

    async def _upload(self, scope, receive, send, headers) -> None:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # who called has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_file + FORM:
                await self._refuse(send, 413, "The call is too large")
                return
        _, _, boundary = headers.get(b"content-type", b"").partition(b"boundary=")
        boundary = boundary.split(b";")[0].strip().strip(b'"')
        # One more stands at the end of the form.
        if not boundary or body.count(b"--" + boundary) > 2:
            await self._refuse(send, 413, "The call brings more than one file")
            return
        given, status, answer = False, 0, bytearray()

        async def replay():
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        async def watch(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                answer.extend(message.get("body", b""))
            await send(message)

        await self.app(scope, replay, watch)
        if status == 200:
            with suppress(ValueError):
                paths = json.loads(bytes(answer))
                self.remember([path for path in paths if isinstance(path, str)], scope["client"][0])

    def remember(self, paths: list[str], address: str) -> None:
        """Takes note of files that an address has brought, and deletes the oldest beyond the budget."""
        with self.lock:
            for path in paths:
                with suppress(OSError):
                    size = os.path.getsize(path)
                    self.kept.pop(path, None)
                    self.kept[path] = (address, size)
            for path in [path for path in self.kept if not os.path.exists(path)]:  # the page forgets them in time, too
                del self.kept[path]
            own = [path for path, (owner, _) in self.kept.items() if owner == address]
            for path in own[:-KEPT_OF_ONE]:
                self._delete(path)
            while len(self.kept) > KEPT_FILES or sum(size for _, size in self.kept.values()) > KEPT_BYTES:
                self._delete(next(iter(self.kept)))

    def _delete(self, path: str) -> None:
        del self.kept[path]
        with suppress(OSError):
            os.remove(path)
            Path(path).parent.rmdir()  # its own, named after the content; others' files keep it

    async def _refuse(self, send, status: int, what: str) -> None:
        said = TOO_MUCH.format(what=what, megabytes=self.max_file // 2**20)
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"detail": said}).encode()})
