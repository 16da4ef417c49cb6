"""A small Hub on loopback, for the real client: repositories in memory, large files over LFS on a second port.

Blobs have a port of their own because the client follows redirects within one origin and then misses X-Repo-Commit.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LICENSES = ("apache-2.0", "cc0-1.0", "mit", "openrail", "other")
LFS_SUFFIXES = (".safetensors", ".bin", ".png")


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """The git hash; of the pointer where the file itself lies in LFS."""
        return _git_hash(f"oid sha256:{self.sha256}".encode() if self.lfs else self.content)


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    card_data: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, title: str, files: dict[str, File], branch: str = "main") -> Commit:
        parent = self.branches.get(branch)
        seed = f"{title}{parent}{[(path, file.oid) for path, file in sorted(files.items())]}{len(self.commits)}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, title, files)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    @property
    def history(self) -> list[Commit]:
        """The commits of main, the newest first."""
        found, commit = [], self.at("main")
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent or "")
        return found


@dataclass(frozen=True)
class Account:
    name: str
    organizations: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, repo: str) -> bool:
        return repo.split("/")[0] in (self.name, *self.organizations)


@dataclass
class Fault:
    """Something that goes wrong with the next requests that match."""

    method: str
    path: str
    times: int
    status: int | None = None
    message: str = ""
    cut_after: int = 0
    """Bytes of a body after which the connection is cut, where there is no status."""


class HubServer:
    """`with HubServer(port) as hub:`; then `hub.add("acme/tins", {...})` and look at `hub.repos` and `hub.requests`."""

    def __init__(self, port: int) -> None:
        self.accounts = {
            "hf_anna": Account("anna", ("acme", "ORG")),
            "hf_anna_read": Account("anna", ("acme",), role="read"),
            "hf_ben": Account("ben"),
        }
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.faults: list[Fault] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        blob_handler = type("BlobHandler", (_BlobHandler,), {"hub": self})
        self._servers = [
            ThreadingHTTPServer(("127.0.0.1", port), handler),
            ThreadingHTTPServer(("127.0.0.1", 0), blob_handler),
        ]
        self.url, self.blob_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes], **settings: Any) -> Repo:
        """A repository that holds the files already."""
        repo = self.repos.setdefault(name, Repo(**settings))
        stored = {path: File(content, path.endswith(LFS_SUFFIXES)) for path, content in files.items()}
        self.blobs |= {file.sha256: file.content for file in stored.values()}
        repo.commit("added", stored)
        return repo

    def go_wrong(self, method: str, path: str, *, times: int = 1, **how: Any) -> None:
        """Let the next requests of a method whose path holds `path` fail with a status, or be cut off."""
        self.faults.append(Fault(method, path, times, **how))

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None


class _RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status, self.message, self.code = status, message, code


class _Base(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Nothing: a test looks at `hub.requests`."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, content: Any, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def refuse(self, refused: _RefusedError) -> None:
        headers = {"X_Error_Message": refused.message}
        if refused.code:
            headers["X_Error_Code"] = refused.code
        self.answer_json({"error": refused.message}, refused.status, **headers)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    def handle_one(self, method: str) -> None:
        self.hub.requests[f"{method} {urlsplit(self.path).path}"] += 1
        fault = self.hub.fault(method, self.path)
        if fault is not None and fault.status is not None:
            self.body()
            self.refuse(_RefusedError(fault.status, fault.message))
            return
        self.cut_after = None if fault is None else fault.cut_after
        try:
            self.serve(method, unquote(urlsplit(self.path).path))
        except _RefusedError as refused:
            self.refuse(refused)

    def serve(self, method: str, path: str) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.handle_one("GET")

    def do_HEAD(self) -> None:
        self.handle_one("HEAD")

    def do_POST(self) -> None:
        self.handle_one("POST")

    def do_PUT(self) -> None:
        self.handle_one("PUT")


class _BlobHandler(_Base):
    """What a storage host does: PUT and GET of bytes, with ranges and without tokens."""

    def serve(self, method: str, path: str) -> None:
        assert self.headers.get("Authorization") is None, "a token must not leave the Hub"
        digest = path.rsplit("/", 1)[-1]
        if method == "PUT":
            if self.cut_after is not None:
                self.rfile.read1(self.cut_after)
                self.cut()
                return
            content = self.body()
            assert hashlib.sha256(content).hexdigest() == digest
            self.hub.blobs[digest] = content
            self.answer(200)
            return
        content = self.hub.blobs[digest]
        first = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        headers = {"Content_Length": str(len(content) - first), "Accept_Ranges": "bytes"}
        if first:
            headers["Content_Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        body = content[first:] if self.cut_after is None else content[first : first + self.cut_after]
        self.answer(206 if first else 200, body, **headers)
        if self.cut_after is not None:
            self.cut()


class _Handler(_Base):
    """The routes of the Hub that push and pull use."""

    _ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("GET", r"/api/models/([^/]+/[^/]+)", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/revision/(.+)", "info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", "tree"),
        ("GET", r"/api/models/([^/]+/[^/]+)/refs", "refs"),
        ("POST", r"/api/models/([^/]+/[^/]+)/branch/(.+)", "create_branch"),
        ("POST", r"/api/models/([^/]+/[^/]+)/tag/(.+)", "create_tag"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/(.+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/(.+)", "commit"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/verify", "lfs_verify"),
        ("HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
        ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
    )

    def serve(self, method: str, path: str) -> None:
        self.raw = b"" if method in ("GET", "HEAD") else self.body()
        if self.cut_after is not None:
            self.cut()
            return
        for route_method, pattern, name in self._ROUTES:
            if method == route_method and (match := re.fullmatch(pattern, path)):
                getattr(self, name)(*match.groups())
                return
        raise _RefusedError(404, f"no route {method} {path}")

    def account(self) -> Account | None:
        header = self.headers.get("Authorization")
        if header is None:
            return None
        account = self.hub.accounts.get(header.removeprefix("Bearer "))
        if account is None:
            raise _RefusedError(401, "Invalid credentials in Authorization header")
        return account

    def repo(self, name: str, *, write: bool = False) -> Repo:
        account, repo = self.account(), self.hub.repos.get(name)
        visible = repo is not None and (not repo.private or (account is not None and account.owns(name)))
        if not visible:
            if account is None:
                raise _RefusedError(401, "Invalid username or password.")
            raise _RefusedError(404, "Repository not found", "RepoNotFound")
        assert repo is not None
        if repo.gated and (account is None or not account.owns(name)):
            raise _RefusedError(403, "Access to this model is restricted.", "GatedRepo")
        if write:
            self.check_may_write(account, name)
        return repo

    def check_may_write(self, account: Account | None, name: str) -> None:
        if account is None:
            raise _RefusedError(401, "Invalid username or password.")
        if account.role == "read":
            raise _RefusedError(403, "Forbidden: you must use a write token to upload to a repository.")
        if not account.owns(name):
            namespace = name.split("/")[0]
            raise _RefusedError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')

    def commit_at(self, repo: Repo, revision: str) -> Commit:
        commit = repo.at(revision)
        if commit is None:
            raise _RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self) -> None:
        account = self.account()
        if account is None:
            raise _RefusedError(401, "Invalid username or password.")
        token = {"displayName": f"{account.name}-{account.role}", "role": account.role}
        orgs = [{"name": name, "type": "org"} for name in account.organizations]
        self.answer_json(
            {"type": "user", "name": account.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
        )

    def create_repo(self) -> None:
        asked = json.loads(self.raw)
        account = self.account()
        owner = asked.get("organization") or (account.name if account else "")
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repos and account is not None and account.owns(name):
            self.answer_json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
            return
        self.check_may_write(account, name)
        repo = self.hub.repos[name] = Repo(private=asked.get("visibility") == "private" or asked.get("private") is True)
        repo.commit("initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)})
        self.answer_json({"url": f"{self.hub.url}/{name}"})

    def validate_yaml(self) -> None:
        content = json.loads(self.raw)["content"]
        if not content.startswith("---\n"):
            self.answer_json({"warnings": [{"message": "empty or missing yaml metadata in repo card"}], "errors": []})
            return
        license_id = re.search(r"^license: (.+)$", content, re.MULTILINE)
        if license_id is not None and license_id[1] not in LICENSES:
            errors = [{"message": f'"license" must be one of [{", ".join(LICENSES)}]'}]
            self.answer_json({"error": errors[0]["message"], "errors": errors, "warnings": []}, 400)
            return
        self.answer_json({"errors": [], "warnings": []})

    def info(self, name: str, revision: str = "main") -> None:
        repo = self.repo(name)
        commit = self.commit_at(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        about = {"id": name, "modelId": name, "sha": commit.sha, "private": repo.private, "siblings": siblings}
        self.answer_json(about | ({"cardData": repo.card_data} if repo.card_data else {}))

    def tree(self, name: str, revision: str) -> None:
        entries = []
        for path, file in sorted(self.commit_at(self.repo(name), revision).files.items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(file.content), "oid": file.oid}
            if file.lfs:
                entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
            entries.append(entry)
        self.answer_json(entries)

    def refs(self, name: str) -> None:
        repo = self.repo(name)

        def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in refs.items()]

        branches, tags = listed("heads", repo.branches), listed("tags", repo.tags)
        self.answer_json({"branches": branches, "converts": [], "tags": tags})

    def create_branch(self, name: str, branch: str) -> None:
        repo = self.repo(name, write=True)
        if branch in repo.branches:
            raise _RefusedError(409, f"Reference already exists: {branch}")
        start = json.loads(self.raw or b"{}").get("startingPoint", "main")
        repo.branches[branch] = self.commit_at(repo, start).sha
        self.answer_json({})

    def create_tag(self, name: str, revision: str) -> None:
        repo, tag = self.repo(name, write=True), json.loads(self.raw)["tag"]
        if tag in repo.tags:
            raise _RefusedError(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = self.commit_at(repo, revision).sha
        self.answer_json({})

    def preupload(self, name: str, revision: str) -> None:
        files = self.commit_at(self.repo(name, write=True), revision).files
        answers = []
        for asked in json.loads(self.raw)["files"]:
            path = asked["path"]
            there = files.get(path)
            oid = None if there is None else there.sha256 if there.lfs else there.oid
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer_json({"files": answers})

    def lfs_batch(self, name: str) -> None:
        self.repo(name, write=True)
        objects = []
        for asked in json.loads(self.raw)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.blob_url}/upload/{asked['oid']}"}
                verify = {"href": f"{self.hub.url}/{name}.git/info/lfs/objects/verify"}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        self.answer_json({"transfer": "basic", "objects": objects})

    def lfs_verify(self, name: str) -> None:
        self.repo(name, write=True)
        asked = json.loads(self.raw)
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise _RefusedError(404, "object not found")
        self.answer_json({})

    def commit(self, name: str, branch: str) -> None:
        repo = self.repo(name, write=True)
        parent = self.commit_at(repo, branch)
        files, title = dict(parent.files), ""
        for line in self.raw.decode().splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, parent.sha):
                    raise _RefusedError(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                files[value["path"]] = File(self.hub.blobs[value["oid"]], True)
            elif key == "deletedFile":
                del files[value["path"]]
        commit = repo.commit(title, files, branch)
        self.answer_json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit.sha}", "commitOid": commit.sha})

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.commit_at(self.repo(name), revision)
        if path not in commit.files:
            raise _RefusedError(404, "Entry not found", "EntryNotFound")
        file = commit.files[path]
        headers = {"X_Repo_Commit": commit.sha, "ETag": f'"{file.oid}"'}
        if not file.lfs:
            self.answer(200, file.content, Content_Length=str(len(file.content)), **headers)
            return
        headers |= {"X_Linked_Etag": f'"{file.sha256}"', "X_Linked_Size": str(len(file.content))}
        self.answer(302, Location=f"{self.hub.blob_url}/blob/{file.sha256}", **headers)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
