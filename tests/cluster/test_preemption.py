"""A spot node's preemption, from metadata services that are real HTTP servers: AWS's with its token, Google's."""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tune_srgan.cluster import preemption


class Service:
    """One cloud's metadata service."""

    def __init__(self, cloud):
        self.cloud, self.taken, self.asked = cloud, False, 0
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, method):
                service.asked += 1
                found = service.answer(method, self.path, self.headers)
                self.send_response(200 if found is not None else 404)
                self.end_headers()
                self.wfile.write((found or "").encode())

            def do_GET(self):
                self.answer("GET")

            def do_PUT(self):
                self.answer("PUT")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method, path, headers):
        if self.cloud == "aws" and (method, path) == ("PUT", "/latest/api/token"):
            return "secret" if headers.get("X-aws-ec2-metadata-token-ttl-seconds") else None
        if self.cloud == "aws" and path == "/latest/meta-data/spot/instance-action":
            given = headers.get("X-aws-ec2-metadata-token") == "secret"
            return '{"action": "terminate"}' if given and self.taken else None
        if self.cloud == "google" and path == "/computeMetadata/v1/instance/preempted":
            return ("TRUE" if self.taken else "FALSE") if headers.get("Metadata-Flavor") == "Google" else None
        return None


@pytest.fixture(params=["aws", "google"])
def service(request, monkeypatch):
    made = Service(request.param)
    monkeypatch.setenv("TUNE_SRGAN_METADATA", made.url)
    yield made
    made.server.shutdown()


@pytest.fixture(autouse=True)
def closed(monkeypatch, tmp_path):
    """A machine of one's own; why its node was closed."""
    found = []
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path / "machine"))
    monkeypatch.setattr("tune_srgan.cluster.nodes.close_this_node", found.append)
    return found


def test_a_preemption_is_waited_for_and_seen_by_trainings(service, closed):
    assert not preemption.ask_clouds()
    waiting = threading.Thread(target=preemption.main, args=(["--poll", "0.05"],))
    waiting.start()
    while service.asked < 6:
        time.sleep(0.01)
    assert waiting.is_alive()
    assert (closed, preemption.is_announced()) == ([], False)
    service.taken = True
    waiting.join(20)
    assert not waiting.is_alive()
    assert (closed, preemption.is_announced()) == (["a spot node's preemption"], True)


def test_where_nobody_answers_no_preemption_comes(monkeypatch):
    monkeypatch.setenv("TUNE_SRGAN_METADATA", "http://127.0.0.1:9")
    assert not preemption.ask_clouds()


def test_whoever_knows_it_says_so_and_an_old_preemption_is_none(closed, tmp_path):
    preemption.main(["--now"])
    assert (closed, preemption.is_announced()) == (["a spot node's preemption"], True)
    long_ago = time.time() - 2 * preemption.VALID_S
    os.utime(tmp_path / "machine" / "preemption", (long_ago, long_ago))
    assert not preemption.is_announced()
