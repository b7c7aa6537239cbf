"""A Hub on the loopback: what `huggingface_hub` and `datasets` call to push and read a data set.

Repositories live in memory. Pushing works through LFS (the clients need HF_HUB_DISABLE_XET=1), reading through
the tree, `paths-info` and `resolve`. Private repositories are invisible without a token of their owner.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

GITATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Commit:
    """A snapshot: path -> content, and its message."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """A data set: its commits, oldest first."""

    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        digest = hashlib.sha1(f"{self.name} {len(self.commits)} {message}".encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + b"\0" + content)
        self.commits.append(Commit(digest.hexdigest(), message, files))
        return self.commits[-1]

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.oid == revision), None)


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        url: the endpoint, for HF_ENDPOINT.
        tokens: token -> names (user and organisations) it may write to.
        repositories: by name.
        requests: "METHOD path" of every request, in order.
        before_commit: called once with the repository before the next commit is judged: a rival writer.
        broken: status that every request gets, for tests of a failing Hub.
    """

    url: str = ""
    tokens: dict[str, set[str]] = field(default_factory=lambda: {"hf_writer": {"writer", "team"}})
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    before_commit: Callable[[Repository], None] | None = None
    broken: int | None = None

    def create(
        self, name: str, *, private: bool = False, files: dict[str, bytes] | None = None
    ) -> Repository:
        repository = self.repositories[name] = Repository(name, private)
        repository.commit("initial commit", {".gitattributes": GITATTRIBUTES, **(files or {})})
        return repository

    def environment(self, token: str | None = "hf_writer") -> dict[str, str]:
        """Variables that point the real clients here, to be set before they are imported."""
        login = {} if token is None else {"HF_TOKEN": token}
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **login}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that answers until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


_NAME = r"(?P<name>[^/]+/[^/]+?)"
_ROUTES: list[tuple[str, str, str]] = [
    ("POST", r"/api/repos/create", "create_repository"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("GET", rf"/api/datasets/{_NAME}", "info"),
    ("GET", rf"/api/datasets/{_NAME}/revision/(?P<revision>[^/]+)", "info"),
    ("GET", rf"/api/datasets/{_NAME}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("POST", rf"/api/datasets/{_NAME}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", rf"/api/datasets/{_NAME}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/datasets/{_NAME}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", "lfs_verify"),
    ("GET", rf"/datasets/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class _Handler(BaseHTTPRequestHandler):
    """One method a route; each returns what goes out as JSON, or has answered by itself and returns None."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: `Hub.requests` is the log."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        method = "GET" if self.command == "HEAD" else self.command
        self.query = parse_qs(parts.query)
        self.body = self._read_body()
        self.hub.requests.append(f"{self.command} {parts.path}")
        try:
            if self.hub.broken is not None:
                raise _Refused(self.hub.broken, "out of order")
            for verb, pattern, name in _ROUTES:
                if verb == method and (match := re.fullmatch(pattern, parts.path)):
                    found = {
                        key: unquote(value) for key, value in match.groupdict().items() if value is not None
                    }
                    reply = getattr(self, name)(**found)
                    if reply is not None:
                        self._send(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})
                    return
            raise _Refused(404, f"no such route: {method} {parts.path}")
        except _Refused as refused:
            headers = {"X-Error-Message": refused.message, "Content-Type": "application/json"}
            if refused.code:
                headers["X-Error-Code"] = refused.code
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _writable(self) -> set[str]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise _Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token, set())

    def _repository(self, name: str, *, write: bool = False) -> Repository:
        names = self._writable()
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and name.split("/")[0] not in names):
            raise _Refused(404 if names else 401, "Repository not found", "RepoNotFound")
        if write and name.split("/")[0] not in names:
            raise _Refused(403, "You have no write access to this repository")
        return repository

    def _commit_at(self, name: str, revision: str) -> Commit:
        commit = self._repository(name).at(revision)
        if commit is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def create_repository(self) -> Any:
        wanted = json.loads(self.body)
        names = self._writable()
        if not names:
            raise _Refused(401, "Invalid username or password.")
        owner = wanted.get("organization") or min(names)
        if owner not in names:
            raise _Refused(403, f"You have no right to create a dataset under the namespace {owner!r}")
        name = f"{owner}/{wanted['name']}"
        if name in self.hub.repositories:
            raise _Refused(409, "You already created this dataset repo")
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.create(name, private=private)
        return {"url": f"{self.hub.url}/datasets/{name}", "name": name, "id": name}

    def validate_yaml(self) -> Any:
        return {"errors": [], "warnings": []}

    def info(self, name: str, revision: str = "main") -> Any:
        repository, commit = self._repository(name), self._commit_at(name, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return {
            "id": name,
            "sha": commit.oid,
            "private": repository.private,
            "tags": [],
            "siblings": siblings,
        }

    def tree(self, name: str, revision: str, path: str = "") -> Any:
        files = self._commit_at(name, revision).files
        below = f"{path}/" if path else ""
        inside = {file: content for file, content in files.items() if file.startswith(below)}
        if path and not inside:
            raise _Refused(404, f"{path} does not exist", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for file, content in sorted(inside.items()):
            steps = file[len(below) :].split("/")
            folders.update(
                below + "/".join(steps[:depth]) for depth in range(1, len(steps)) if deep or depth == 1
            )
            if deep or len(steps) == 1:
                entries.append(_entry(file, content))
        return [*(_folder(folder) for folder in sorted(folders)), *entries]

    def paths_info(self, name: str, revision: str) -> Any:
        files = self._commit_at(name, revision).files
        form = parse_qs(self.body.decode())
        paths = json.loads(self.body)["paths"] if self.body.startswith(b"{") else form.get("paths", [])
        folders = [path for path in paths if any(file.startswith(f"{path}/") for file in files)]
        return [_entry(path, files[path]) for path in paths if path in files] + [
            _folder(path) for path in folders
        ]

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self._commit_at(name, revision)
        if path not in commit.files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        content, status = commit.files[path], 200
        headers = {"ETag": f'"{_etag(path, content)}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(span[1]), min(int(span[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(status, content, headers)

    def preupload(self, name: str, revision: str) -> Any:
        self._repository(name, write=True)
        paths = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {path: "lfs" if _large(path) else "regular" for path in paths}
        return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}

    def lfs_batch(self, name: str) -> Any:
        self._repository(name, write=True)
        objects = []
        for item in json.loads(self.body)["objects"]:
            href = f"{self.hub.url}/lfs/{item['oid']}"
            actions = {
                "upload": {"href": href, "header": {}},
                "verify": {"href": f"{href}/verify", "header": {}},
            }
            known = item["oid"] in self.hub.objects
            objects.append(
                {"oid": item["oid"], "size": item["size"], **({} if known else {"actions": actions})}
            )
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "the content does not have the hash it was announced with")
        self.hub.objects[oid] = self.body
        return {}

    def lfs_verify(self, oid: str) -> Any:
        wanted = json.loads(self.body)
        if len(self.hub.objects.get(oid, b"")) != wanted["size"]:
            raise _Refused(404, "the object was never uploaded")
        return {}

    def commit(self, name: str, revision: str) -> Any:
        repository = self._repository(name, write=True)
        rival, self.hub.before_commit = self.hub.before_commit, None
        if rival is not None:
            rival(repository)
        files, message = dict(repository.commits[-1].files), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, repository.commits[-1].oid):
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(message, files)
        url = f"{self.hub.url}/datasets/{name}/commit/{commit.oid}"
        return {"success": True, "commitUrl": url, "commitOid": commit.oid, "pullRequestUrl": None}


def _large(path: str) -> bool:
    return path.endswith(".parquet")


def _blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if _large(path) else _blob(content)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
    if _large(path):
        entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 134}
    return entry


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
