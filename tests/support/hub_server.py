"""A fake hub on loopback: models with commits, for `model_info` and `snapshot_download`."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest


class HubServer:
    """Fake hub; `hub.push(folder)` commits the files of a folder and returns the commit."""

    def __init__(self, repo: str) -> None:
        self.repo = repo
        self.commits: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.asked: list[str] = []
        self.private = False
        self.datasets: dict[str, dict[str, bytes]] = {}
        """Dataset repositories and their files."""
        self.large: dict[str, bytes] = {}
        """sha256 -> an uploaded file that is kept outside of git."""
        self.lost = 0
        """How many more uploads of large files break off."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                status, headers, data = outer.answer(unquote(self.path.split("?")[0]))
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def do_POST(self) -> None:
                self._take()

            def do_PUT(self) -> None:
                self._take()

            def _take(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, data = outer.take(unquote(self.path.split("?")[0]), body, self.headers)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def push(self, folder: Path, ref: str = "main", **more: bytes) -> str:
        """Commit a folder's files (and more, by name) to a branch."""
        files = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()} | more
        return self.push_files(files, ref)

    def push_files(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Commit these files to a branch, instead of those it has."""
        commit = hashlib.sha1(b"".join(k.encode() + v for k, v in files.items())).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return (status, headers, body) for a path."""
        kind = {"Content-Type": "application/json"}
        if path.startswith("/datasets/"):
            dataset, _, name = path.removeprefix("/datasets/").partition("/resolve/main/")
            if dataset not in self.datasets:
                return 404, {**kind, "X-Error-Code": "RepoNotFound"}, b"{}"
            data = self.datasets[dataset].get(name)
            if data is None:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "d" * 40}, b""
            return 200, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": "d" * 40}, data
        prefix = f"/api/models/{self.repo}"
        if path.startswith(prefix) and self.refs:
            rest = path.removeprefix(prefix).strip("/").split("/")
            revision = rest[1] if len(rest) > 1 else "main"
            commit = self.refs.get(revision, revision)
            if commit not in self.commits:
                return 404, {**kind, "X-Error-Code": "RevisionNotFound"}, b"{}"
            files = self.commits[commit]
            if rest[0] == "tree":
                rows = [_entry(name, data) for name, data in files.items()]
                return 200, kind, json.dumps(rows).encode()
            info = {
                "id": self.repo,
                "sha": commit,
                "private": self.private,
                "tags": [],
                "downloads": 0,
                "siblings": [{"rfilename": name} for name in files],
            }
            return 200, kind, json.dumps(info).encode()
        if path.startswith(f"/{self.repo}/resolve/"):
            revision, _, name = path.removeprefix(f"/{self.repo}/resolve/").partition("/")
            commit = self.refs.get(revision, revision)
            data = self.commits.get(commit, {}).get(name)
            if data is None:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
            return 200, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit}, data
        return 404, {**kind, "X-Error-Code": "RepoNotFound"}, b"{}"

    def take(self, path: str, body: bytes, headers: Any) -> tuple[int, bytes]:
        """Return (status, body) for what is sent to a path, as the hub's upload protocol has it."""
        signed = path.startswith("/lfs/")
        if not signed and headers.get("Authorization") != "Bearer hf_maywrite":
            return 403, b'{"error": "this token may not write"}'
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---")
            return 200, b'{"errors": [], "warnings": []}'
        if path == "/api/repos/create":
            sent = json.loads(body)
            assert f"{sent['organization']}/{sent['name']}" == self.repo
            self.private = sent.get("visibility") == "private" or bool(sent.get("private"))
            self.push_files({})
            return 200, json.dumps({"url": f"{self.url}/{self.repo}"}).encode()
        if path.endswith("/preupload/main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if _is_large(file["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, json.dumps({"files": files}).encode()
        if path.endswith("/info/lfs/objects/batch"):
            objects = []
            for found in json.loads(body)["objects"]:
                put = {"upload": {"href": f"{self.url}/lfs/{found['oid']}"}}
                objects.append(found if found["oid"] in self.large else {**found, "actions": put})
            return 200, json.dumps({"transfer": "basic", "objects": objects}).encode()
        if signed:
            if self.lost:
                self.lost -= 1
                return 400, b"{}"
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/lfs/")
            self.large[path.removeprefix("/lfs/")] = body
            return 200, b"{}"
        assert path == f"/api/models/{self.repo}/commit/main", path
        return self._commit([json.loads(line) for line in body.splitlines()])

    def _commit(self, lines: list[dict[str, Any]]) -> tuple[int, bytes]:
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != self.refs.get("main"):
            return 412, b'{"error": "A commit has happened since."}'
        files = dict(self.commits[self.refs["main"]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        commit = self.push_files(files)
        url = f"{self.url}/{self.repo}/commit/{commit}"
        return 200, json.dumps({"commitUrl": url, "commitOid": commit}).encode()

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Point the hub client of this process at the server, with an empty cache."""
        from huggingface_hub import constants

        from kdharness.harness.models import hub

        monkeypatch.setenv("HF_ENDPOINT", self.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            self.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        hub.commit_of.cache_clear()


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", "tokenizer.json"))


def _entry(name: str, data: bytes) -> dict[str, Any]:
    """Return a file as the hub lists it."""
    git = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git}
    if _is_large(name):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return entry


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
