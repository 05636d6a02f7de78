"""A fake Weights & Biases server on loopback: real HTTP, and as much of the API as runs, sweeps and reports use.

It keeps what it is sent, and misbehaves on demand: `slow`, `hang`, `refuse`, and `die` after a number of requests.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from tests.support.service import ROOT

Mode = Literal["ok", "slow", "hang", "refuse", "die"]
API_KEY = "0123456789" * 4  # wandb takes 40 characters and no others
ENTITY = "lab"
VIEWER = {"id": "user", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "lab@example.org"}
VIEWER |= {"admin": False, "flags": "{}", "deletedAt": None, "apiKeys": {"edges": []}, "teams": {"edges": []}}


@dataclass
class Run:
    """What the server knows of a run."""

    name: str
    project: str = ""
    group: str = ""
    job_type: str = ""
    display_name: str = ""
    sweep: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)  # {key: {"value": value}}, as it is stored there
    lines: dict[int, str] = field(default_factory=dict)  # of the history, by their offset
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    complete: int = 0  # how often it was closed
    created: int = 0

    @property
    def history(self) -> list[dict[str, Any]]:
        """The history's lines, in the order of the file."""
        return [json.loads(self.lines[offset]) for offset in sorted(self.lines)]

    @property
    def state(self) -> str:
        """As the web page shows it."""
        return "running" if self.exit_code is None else "failed" if self.exit_code else "finished"

    def steps_of(self, key: str) -> list[int]:
        """The steps at which `key` was logged."""
        return [line["_step"] for line in self.history if key in line]

    def resolve(self, column: str) -> Any:
        """What a panel's column shows of this run: `config:<path>` or `summary:<key>`; KeyError where it shows nothing.

        The web page walks the stored object; a key may hold dots itself, so each step takes the longest that fits.
        """
        section, _, path = column.partition(":")
        if section == "summary":
            return self.summary[path]
        return _walk(self.config, path.split("."))


def _walk(node: Any, parts: list[str]) -> Any:
    if not parts:
        return node
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if isinstance(node, dict) and key in node:
            return _walk(node[key], parts[length:])
    raise KeyError(".".join(parts))


class WandbServer:
    """The server's memory, its mode, and the port it listens on."""

    def __init__(self, mode: Mode = "ok", delay: float = 0.0, dies_after: int = 0) -> None:
        self.mode: Mode = mode
        self.delay, self.dies_after = delay, dies_after  # seconds of `slow`, requests before `die`
        self.requests = 0
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str] = set()  # credentials that were shown
        self.runs: dict[str, Run] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.projects: list[str] = []
        self.uploads: dict[str, dict[str, bytes]] = {}  # by run, by file
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """What WANDB_BASE_URL is set to."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def stop(self) -> None:
        """Free the port; requests that hang are let go."""
        self._stopping.set()
        self._http.shutdown()
        self._http.server_close()

    def called(self, operation: str) -> list[dict[str, Any]]:
        """The variables of every call of a GraphQL operation."""
        return [variables for name, variables in self.operations if name == operation]

    def answers(self) -> bool:
        """Whether this request is answered; waits as the mode says."""
        with self._lock:
            self.requests += 1
            over = self.mode == "die" and self.requests > self.dies_after
        if self.mode == "slow":
            self._stopping.wait(self.delay)
        if self.mode == "hang":
            self._stopping.wait(600)
        return not (over or self.mode == "hang")

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The data of an answer; None for an operation this server does not know."""
        with self._lock:
            self.operations.append((operation, variables))
            answer = getattr(self, f"_{operation}", None)
            return answer(variables) if answer else None

    def file_stream(self, run: str, body: dict[str, Any]) -> None:
        """Lines of a run's files."""
        with self._lock:
            known = self.runs[run]
            for name, chunk in body.get("files", {}).items():
                if name == "wandb-history.jsonl":
                    known.lines |= dict(enumerate(chunk["content"], chunk["offset"]))
                if name == "wandb-summary.json":
                    known.summary = json.loads(chunk["content"][-1])
            if body.get("complete"):
                known.complete += 1
                known.exit_code = body.get("exitcode", 0)

    def upload(self, run: str, name: str, content: bytes) -> None:
        """A file of a run."""
        with self._lock:
            self.uploads.setdefault(run, {})[name] = content

    # one method an operation; each returns the answer's `data`
    def _Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": VIEWER}

    _GetViewer = _GetDefaultEntity = _Viewer

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        model = {"id": "project", "name": variables["project"], "entity": {"id": "entity", "name": ENTITY}}
        if run is None:
            return {"model": model | {"bucket": None}}
        tail = json.dumps([run.lines[offset] for offset in sorted(run.lines)][-1:])
        known = {"id": run.name, "name": run.name, "displayName": run.display_name, "notes": None, "tags": run.tags}
        known |= {"summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config)}
        known |= {"historyLineCount": len(run.lines), "historyTail": tail, "eventsLineCount": 0, "logLineCount": 0}
        return {"model": model | {"bucket": known | {"eventsTail": "[]", "wandbConfig": '{"t": 1}'}}}

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or variables["id"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(name, created=len(self.runs)))
        if inserted or variables.get("id") is None:
            run.exit_code = None  # it runs, or runs again
        run.project = variables.get("project") or run.project
        run.group = variables.get("groupName") or run.group
        run.job_type = variables.get("jobType") or run.job_type
        run.display_name = variables.get("displayName") or run.display_name
        run.sweep = variables.get("sweep") or run.sweep
        if variables.get("tags") is not None:
            run.tags = variables["tags"]
        if variables.get("config"):
            run.config |= json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: Run) -> dict[str, Any]:
        project = {"id": "project", "name": run.project, "entity": {"id": "entity", "name": ENTITY}}
        known = {"id": run.name, "name": run.name, "displayName": run.display_name, "description": None}
        known |= {"config": json.dumps(run.config), "sweepName": run.sweep, "project": project}
        return known | {"historyLineCount": len(run.lines)}

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _UpsertSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("id") or f"sweep{len(self.sweeps)}"
        sweep = self.sweeps.setdefault(name, {"id": name, "name": name, "state": "PENDING", "config": ""})
        sweep |= {key: variables[key] for key in ("config", "state") if variables.get(key)}
        for prior in json.loads(variables.get("priorRunsFilters") or '{"$or": []}')["$or"]:
            self.runs[prior["name"]].sweep = name
        project = {"id": "project", "name": variables.get("projectName"), "entity": {"id": "entity", "name": ENTITY}}
        answer = {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}
        return {"upsertSweep": answer}

    def _GetSweep(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps.get(variables["name"])
        if sweep is None:
            return {"project": {"sweep": None}}
        extra = {"displayName": None, "method": "custom", "description": None, "bestLoss": None, "createdAt": ""}
        return {"project": {"sweep": {"__typename": "Sweep", "runCount": 0, "runCountExpected": None} | extra | sweep}}

    def _SweepWithRuns(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[variables["sweep"]]
        return {"project": {"sweep": {**sweep, "runs": {"edges": []}}}}

    def _Run(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        return {"project": {"run": run and self._run_node(run)}}

    _RunState = _Run

    def _Runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        chosen = self._matching(json.loads(variables.get("filters") or "{}"), variables.get("order"))
        first = chosen[: variables.get("perPage") or 50]
        edges = [{"node": self._run_node(run), "cursor": run.name} for run in first]
        page = {"endCursor": None, "hasNextPage": False}
        project = {"internalId": "1", "runCount": len(chosen), "readOnly": False}
        return {"project": project | {"runs": {"edges": edges, "pageInfo": page, "totalCount": len(chosen)}}}

    def _matching(self, filters: dict[str, Any], order: str | None) -> list[Run]:
        wanted = {key: value for term in filters.get("$and", []) for key, value in term.items()}
        chosen = [run for run in self.runs.values() if wanted.get("sweep") in {None, run.sweep}]
        key = (order or "+createdAt")[1:].removeprefix("summary_metrics.")
        by_key = [run for run in chosen if key in run.summary]
        by_key.sort(key=lambda run: run.summary[key], reverse=(order or "").startswith("-"))
        return by_key + sorted((run for run in chosen if run not in by_key), key=lambda run: run.created)

    def _run_node(self, run: Run) -> dict[str, Any]:
        known = self._bucket(run) | {"state": run.state, "group": run.group, "jobType": run.job_type, "tags": run.tags}
        known |= {"summaryMetrics": json.dumps(run.summary), "createdAt": "2026-01-01T00:00:00", "commit": None}
        known |= {"notes": None, "readOnly": False, "heartbeatAt": None, "historyKeys": None, "projectId": "1"}
        known |= {"systemMetrics": "{}", "user": {"name": ENTITY, "username": ENTITY}, "readOnlyRun": False}
        return known | {"computeSeconds": 0, "historyLineCount": len(run.lines), "__typename": "Run"}

    def _GetProjects(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [{"__typename": "Project", "id": name, "name": name, "entityName": ENTITY} for name in self.projects]
        full = [node | {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": VIEWER} for node in nodes]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node} for node in full]}}

    def _CreateProject(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["input"]["name"]
        self.projects.append(name)
        created = {"id": name, "name": name, "entityName": ENTITY, "description": "", "access": "", "views": "{}"}
        return {"result": {"project": created, "model": created, "inserted": True}}

    def _ProjectInternalId(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "project", "internalId": "1"}}

    def _upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:
        known = next((view for view in self.views.values() if view["id"] == variables.get("id")), None)
        view = known or {"id": f"view{len(self.views)}", "name": variables.get("name"), "saved": 0}
        view |= {key: variables.get(key) for key in ("type", "displayName", "description", "spec")}
        view["saved"] += 1
        self.views[view["id"]] = view
        project = {"id": "project", "name": variables["projectName"], "entityName": variables["entityName"]}
        answer = {key: view[key] for key in ("id", "name", "type", "displayName", "description", "spec")}
        stamps = {"project": project, "createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": answer | stamps, "inserted": known is None}}

    _UpsertView2 = _upsertView

    def _View(self, variables: dict[str, Any]) -> dict[str, Any]:
        views = [view for view in self.views.values() if view["name"] == variables["viewName"]]
        return {"project": {"allViews": {"edges": [{"node": view} for view in views]}}}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            """Nothing: the test reads the server's memory."""

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle()

        def answer(self) -> None:
            body = self._body()
            if self.headers.get("Authorization"):
                server.keys.add(self.headers["Authorization"])
            if not server.answers():
                self.close_connection = True  # no word: the other side sees the connection end
                return
            if server.mode == "refuse":
                self._send({"errors": [{"message": "invalid API key"}]}, 401)
                return
            path = unquote(urlsplit(self.path).path)
            if path == "/graphql":
                request = json.loads(body)
                found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
                data = server.graphql(found[1] if found else "", request.get("variables") or {})
                errors = {"errors": [{"message": f"unknown operation {found and found[1]}"}]}
                self._send(errors if data is None else {"data": data})
                return
            if path.endswith("/file_stream"):
                server.file_stream(path.split("/")[-2], json.loads(body))
            elif path.startswith("/upload/"):
                run, _, name = path.removeprefix("/upload/").partition("/")
                server.upload(run, name, body)
            self._send({})

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                content = b"".join(self._chunks())
            else:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def _chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def _send(self, answer: dict[str, Any], status: int = 200) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def environment(url, monkeypatch):
    """Let whoever is started from here on speak to the server at a URL, and to no other."""
    for key in [key for key in os.environ if key.startswith("WANDB_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("WANDB_BASE_URL", url)
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # python, wandb
