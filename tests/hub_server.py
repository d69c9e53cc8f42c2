"""
As much of a Hub, on loopback, as pushing and loading need, and a process that has a Hub but not hf_ltkd.

Every file is a regular one: no LFS and no xet.
"""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import types
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants
from huggingface_hub.utils import _http


TOKEN = "hf_of_the_environment"


class HubServer(ThreadingHTTPServer):
    """
    Attributes:
        repos (`dict[str, dict[str, bytes]]`): Files by path, by repository; a Space is `"spaces/owner/name"`.
        variables (`dict[str, dict[str, str]]`): The variables of each Space.
        commits (`list[tuple[str, str, list[str]]]`): Repository, message and written paths of each commit.
        received (`list[bytes]`): Every body that was sent here, and every file in it as it was before base64.
        authorizations (`set[str]`): The headers of that name.
        faults (`list[tuple[str, int | str]]`):
            What requests whose path holds the text get instead of an answer: a status, "hang", "drop", "drip" (a byte
            now and then) or "later" (429 with an hour's patience).
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
            elif fault == "later":
                self.answer({"error": "slowly"}, 429, Retry_After="3600")
            elif fault == "hang":
                self.server.stopping.wait(60)
            elif fault == "drip":
                self.send_response(200)
                self.end_headers()
                with suppress(OSError):  # the client may have gone
                    while not self.server.stopping.wait(0.02):
                        self.wfile.write(b" ")
            # After a status the connection stays: a client that tries again at once would meet it half closed.
            if fault in ("hang", "drop", "drip"):
                self.close_connection = True
                with suppress(OSError):
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
            elif operation["key"] == "deletedFile":
                del self.server.repos[repo_id][value["path"]]
        self.server.commits.append((repo_id, message, sorted(written)))
        sha = hashlib.sha1(str(len(self.server.commits)).encode()).hexdigest()
        self.answer({"commitOid": sha, "commitUrl": f"{self.server.url}/{repo_id}/commit/{sha}", "success": True})

    def do_DELETE(self):  # noqa: N802
        match = re.fullmatch(r"/api/(spaces/.+/.+)/variables", self.path)
        variables = self.server.variables[match[1]]
        del variables[json.loads(self.rfile.read(int(self.headers["Content-Length"])))["key"]]
        self.answer({key: {"value": value} for key, value in variables.items()})

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
        elif (match := re.fullmatch(r"/api/models/(.+/.+)/tree/main", path)) and match[1] in self.server.repos:
            files = self.server.repos[match[1]].items()
            self.answer([{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files])
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


@contextmanager
def use_hub(hub, home, sleep=lambda seconds: None):
    """
    This process talks to a Hub with a token, as if HF_ENDPOINT, HF_TOKEN and HF_HOME had been set before the imports.

    `sleep` stands for the waits between huggingface_hub's tries.
    """
    from transformers.utils import hub as transformers_hub  # here, because most tests do without

    close_session()  # its client keeps a timeout
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(transformers_hub, "_hf_api", None)
        patch.setattr(_http, "time", types.SimpleNamespace(**{**vars(time), "sleep": sleep}))
        yield
    close_session()


class Elsewhere:
    """
    A process that has a Hub, but not hf_ltkd. It starts with the first script and serves all of them, since importing
    torch, evaluate and gradio takes most of the time.
    """

    LOOP = """
import json, sys, traceback

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_ltkd":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NotInstalled())
channel, sys.stdout = sys.stdout, sys.stderr  # what scripts print is no answer
for line in sys.stdin:
    script, names = json.loads(line)
    try:
        exec(script, names)
        answer = {"answer": names.get("answer")}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), file=channel, flush=True)
"""

    def __init__(self, hub, home):
        self.hub, self.home, self.process = hub, home, None

    def __call__(self, script, /, **names):
        """What a script leaves in `answer`; `names` are its names, as JSON values."""
        if self.process is None:
            variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
            variables |= {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(self.home / "home")}
            variables |= {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
            variables |= {"GRADIO_TEMP_DIR": str(self.home / "gradio")}
            with open(self.home / "log", "w") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", self.LOOP], env=variables, cwd=self.home, text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                )  # fmt: skip
        self.process.stdin.write(json.dumps([script, {name: _plain(value) for name, value in names.items()}]) + "\n")
        self.process.stdin.flush()
        result = json.loads(self.process.stdout.readline())
        assert "error" not in result, result["error"]
        return result["answer"]


def _plain(value):
    return value if isinstance(value, list | dict | int | float | None) else str(value)
