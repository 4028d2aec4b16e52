"""A Hub on 127.0.0.1, in memory: as much of its API as pushing a model repo and loading it back need.

with LoopbackHub() as hub:
    subprocess.run(…, env=hub.environment(tmp_path))
    hub.repos["me/model"]["README.md"]
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "loopback" * 4
LFS_SUFFIXES = (".safetensors", ".png")


class LoopbackHub:
    """Serves from `__enter__` to `__exit__`. `repos` maps `OWNER/NAME` to the files of its only branch."""

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.uploads: dict[str, bytes] = {}  # LFS objects by their SHA-256

    def __enter__(self):
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def environment(self, home: Path, **changes: str) -> dict[str, str]:
        """Variables for a process that shall take this for the Hub, logged in, with an empty cache in `home`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        ours = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return {**kept, **ours, "OMP_NUM_THREADS": "1", **changes}

    def commit(self, repo: str) -> str:
        """What stands for the hash of the last commit: it changes with the content."""
        digest = hashlib.sha1()
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request; `ROUTES` says which method answers it."""

    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self):
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(urlsplit(self.path).path)
        for pattern, method in ROUTES.items():
            if found := re.fullmatch(pattern, path):
                return getattr(self, method)(*found.groups())
        return self.send(404, {"error": f"there is nothing at {path}"})

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status: int, reply: dict | list | bytes, **headers: str):
        content = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(reply, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refused(self) -> bool:
        """Whether the request has no right to write; it is answered then."""
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send(401, {"error": "Invalid credentials"})
            return True
        return False

    def unknown(self, repo: str) -> bool:
        if repo not in self.hub.repos:
            self.send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return True
        return False

    def whoami(self):
        if not self.refused():
            self.send(200, {"type": "user", "name": "me", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self):
        wish = json.loads(self.content)
        repo = f"{wish.get('organization') or 'me'}/{wish['name']}"
        if self.refused():
            return
        if not repo.startswith("me/"):
            return self.send(403, {"error": "You may not write here"})
        if repo in self.hub.repos:
            return self.send(
                409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{repo}"}
            )
        self.hub.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.hub.private[repo] = bool(wish.get("private")) or wish.get("visibility") == "private"
        return self.send(200, {"url": f"{self.hub.endpoint}/{repo}", "name": repo})

    def validate(self):
        self.send(200, {"errors": [], "warnings": []})

    def preupload(self, repo: str):
        if self.refused() or self.unknown(repo):
            return
        names = [file["path"] for file in json.loads(self.content)["files"]]
        modes = [
            {"path": name, "uploadMode": "lfs" if name.endswith(LFS_SUFFIXES) else "regular", "shouldIgnore": False}
            for name in names
        ]
        self.send(200, {"files": modes})

    def lfs_batch(self, repo: str):
        objects = json.loads(self.content)["objects"]
        for entry in objects:
            entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{entry['oid']}"}}
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str):
        if hashlib.sha256(self.content).hexdigest() != oid:
            return self.send(400, {"error": "the content has another hash"})
        self.hub.uploads[oid] = self.content
        return self.send(200, {})

    def make_commit(self, repo: str):
        if self.refused() or self.unknown(repo):
            return
        for line in self.content.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                self.hub.repos[repo][value["path"]] = self.hub.uploads[value["oid"]]
        oid = self.hub.commit(repo)
        self.send(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{oid}"})

    def info(self, repo: str):
        if not self.unknown(repo):
            siblings = [{"rfilename": name} for name in self.hub.repos[repo]]
            private = self.hub.private.get(repo, False)
            self.send(
                200, {"id": repo, "sha": self.hub.commit(repo), "private": private, "siblings": siblings, "tags": []}
            )

    def tree(self, repo: str, folder: str | None):
        if self.unknown(repo):
            return
        entries = []
        for name, content in self.hub.repos[repo].items():
            if folder is None or name.startswith(f"{folder}/"):
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                entry = {"type": "file", "path": name, "size": len(content), "oid": blob}
                if name.endswith(LFS_SUFFIXES):
                    sha256 = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
                entries.append(entry)
        if not entries:
            return self.send(404, {"error": f"{folder} does not exist"}, X_Error_Code="EntryNotFound")
        return self.send(200, entries)

    def resolve(self, repo: str, name: str):
        if self.unknown(repo):
            return
        content, commit = self.hub.repos[repo].get(name), self.hub.commit(repo)
        if content is None:
            self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            self.send(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES = {
    r"/api/whoami-v2": "whoami",
    r"/api/repos/create": "create",
    r"/api/validate-yaml": "validate",
    rf"/api/models/{REPO}/preupload/main": "preupload",
    rf"/{REPO}\.git/info/lfs/objects/batch": "lfs_batch",
    r"/lfs/(\w+)": "lfs_upload",
    rf"/api/models/{REPO}/commit/main": "make_commit",
    rf"/api/models/{REPO}(?:/revision/[^/]+)?": "info",
    rf"/api/models/{REPO}/tree/[^/]+(?:/(.+))?": "tree",
    rf"/{REPO}/resolve/[^/]+/(.+)": "resolve",
}
