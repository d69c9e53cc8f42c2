"""As much of a Hub, on loopback, as pushing and loading need. Every file is a regular one: no LFS and no xet."""

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """
    Attributes:
        repos (`dict[str, dict[str, bytes]]`): Files by path, by repository; a Space is `"spaces/owner/name"`.
        variables (`dict[str, dict[str, str]]`): The variables of each Space.
        commits (`list[tuple[str, list[str]]]`): Message and paths of each commit.
        received (`list[bytes]`): Every body that was sent here, and every file in it as it was before base64.
        authorizations (`set[str]`): The headers of that name.
        faults (`list[tuple[str, int | str]]`):
            What requests whose path holds the text get instead of an answer: a status, "hang" or "drop". A client
            sets them by PUT.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.variables, self.commits, self.received = {}, {}, [], []
        self.authorizations, self.faults = set(), []
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.stopping.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args):
        pass

    def answer(self, body=b"", status=200, **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def has_fault(self, path):
        if self.headers["Authorization"]:
            self.server.authorizations.add(self.headers["Authorization"])
        for text, fault in self.server.faults:
            if text not in path:
                continue
            if isinstance(fault, int):
                self.answer({"error": f"fault {fault}"}, fault)
            elif fault == "hang":
                self.server.stopping.wait(60)
            # After a status the connection stays: a client that tries again at once would meet it half closed.
            if isinstance(fault, str):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            return True
        return False

    def do_POST(self):  # noqa: N802
        path = unquote(urlsplit(self.path).path)
        if "/commit/" in path and any(text in path and fault == "drop" for text, fault in self.server.faults):
            self.rfile.read(100)  # in the middle of the body
            self.has_fault(path)
            return
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.received.append(body)
        if self.has_fault(path):
            return
        if path == "/api/repos/create":
            request = json.loads(body)
            owner, _, name = request["name"].rpartition("/")
            repo_id = f"{request.get('organization') or owner or 'me'}/{name}"
            repo_id = f"spaces/{repo_id}" if request.get("type") == "space" else repo_id
            url = {"url": f"{self.server.url}/{repo_id}", "name": repo_id}
            if repo_id in self.server.repos:
                self.answer({**url, "error": "You already created this model repo"}, 409)
            else:
                self.server.repos[repo_id] = {}
                self.answer(url)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/(spaces/.+/.+)/variables", path):
            variables = self.server.variables.setdefault(match[1], {})
            request = json.loads(body)
            variables[request["key"]] = request["value"]
            self.answer({key: {"value": value} for key, value in variables.items()})
        elif match := re.fullmatch(r"/api/(?:models/)?(.+/.+)/preupload/(.+)", path):
            files = self.server.repos[match[1]]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": _oid(files.get(f["path"]))}
                for f in json.loads(body)["files"]
            ]
            self.answer({"files": modes})
        elif match := re.fullmatch(r"/api/(?:models/)?(.+/.+)/commit/(.+)", path):
            self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": "not found"}, 404)

    def commit(self, repo_id, operations):
        message, written = "", []
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
            elif operation["key"] == "file":
                content = base64.b64decode(value["content"])
                self.server.received.append(content)
                self.server.repos[repo_id][value["path"]] = content
                written.append(value["path"])
        self.server.commits.append((message, sorted(written)))
        sha = hashlib.sha1(str(len(self.server.commits)).encode()).hexdigest()
        self.answer({"commitOid": sha, "commitUrl": f"{self.server.url}/{repo_id}/commit/{sha}", "success": True})

    def do_DELETE(self):  # noqa: N802
        match = re.fullmatch(r"/api/(spaces/.+/.+)/variables", self.path)
        variables = self.server.variables[match[1]]
        del variables[json.loads(self.rfile.read(int(self.headers["Content-Length"])))["key"]]
        self.answer({key: {"value": value} for key, value in variables.items()})

    def do_PUT(self):  # noqa: N802
        self.server.faults = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer()

    def do_GET(self):  # noqa: N802
        path = unquote(urlsplit(self.path).path)
        if self.has_fault(path):
            return
        sha = hashlib.sha1(str(len(self.server.commits)).encode()).hexdigest()
        if match := re.fullmatch(r"/(.+/.+)/resolve/[^/]+/(.+)", path):
            content = self.server.repos.get(match[1], {}).get(match[2])
            code = "EntryNotFound" if match[1] in self.server.repos else "RepoNotFound"
            if content is None:
                self.answer(b"", 404, X_Error_Code=code, X_Repo_Commit=sha)
            else:
                self.answer(content, ETag=f'"{_oid(content)}"', X_Repo_Commit=sha)
        elif (match := re.fullmatch(r"/api/(?:models/)?((?:spaces/)?[^/]+/[^/]+)(/revision/.+)?", path)) and match[
            1
        ] in self.server.repos:
            files = [{"rfilename": name} for name in self.server.repos[match[1]]]
            self.answer({"id": match[1], "sha": sha, "siblings": files, "tags": [], "private": False})
        else:
            self.answer({"error": "not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815


def _oid(content):
    """Git's name of a file's content."""
    return None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
