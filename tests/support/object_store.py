"""An S3 on loopback, and stores that fail on purpose."""

import logging
import os
import threading
import uuid
from collections import Counter
from contextlib import contextmanager

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Bucket:
    """A bucket on moto's server: its URL, what was asked of it, by method and name, a switch by which it refuses."""

    def __init__(self):
        app = pytest.importorskip("moto.moto_server.werkzeug_app")
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = app.DomainDispatcherApplication(app.create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.name = f"studies-{uuid.uuid4().hex[:8]}"  # the servers of one process keep theirs together
        self.url = f"s3://{self.name}"
        self.refuses, self.requests = False, Counter()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()

    def _answer(self, environ, start_response):
        self.requests[environ["REQUEST_METHOD"]] += 1
        self.requests[environ["REQUEST_METHOD"] + " " + environ["PATH_INFO"].rpartition("/")[2]] += 1
        if self.refuses:
            start_response("503 Slow Down", [("Content-Type", "text/plain")])
            return [b""]
        return self._app(environ, start_response)


@contextmanager
def s3():
    """A bucket; the environment names its server to whoever is started meanwhile."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    bucket = Bucket()
    before = dict(os.environ)
    os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": bucket.endpoint}
    try:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir(bucket.name)
        yield bucket
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        os.environ.clear()
        os.environ.update(before)
        bucket.stop()


class Failing:
    """A storage whose writes fail while `failing` says so, and after `left` of them."""

    def __init__(self, storage, left=float("inf")):
        self.storage, self.left, self.failing = storage, left, False
        self.written, self.read_names = [], []

    def write(self, name, content):
        if self.failing or self.left <= 0:
            raise OSError("503 Slow Down")
        self.left -= 1
        self.written.append(name)
        self.storage.write(name, content)

    def read(self, name):
        self.read_names.append(name)
        return self.storage.read(name)

    def __getattr__(self, name):
        return getattr(self.storage, name)
