"""A fake hub on loopback: models with commits, for `model_info` and `snapshot_download`."""

from __future__ import annotations

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

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def push(self, folder: Path, ref: str = "main", **more: bytes) -> str:
        """Commit a folder's files (and more, by name) to a branch."""
        files = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()} | more
        commit = hashlib.sha1(b"".join(k.encode() + v for k, v in files.items())).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return (status, headers, body) for a path."""
        kind = {"Content-Type": "application/json"}
        prefix = f"/api/models/{self.repo}"
        if path.startswith(prefix):
            rest = path.removeprefix(prefix).strip("/").split("/")
            revision = rest[1] if len(rest) > 1 else "main"
            commit = self.refs.get(revision, revision)
            if commit not in self.commits:
                return 404, {**kind, "X-Error-Code": "RevisionNotFound"}, b"{}"
            files = self.commits[commit]
            if rest[0] == "tree":
                rows = [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in files.items()
                ]
                return 200, kind, json.dumps(rows).encode()
            info = {
                "id": self.repo,
                "sha": commit,
                "private": False,
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


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
