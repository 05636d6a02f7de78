"""An S3 on loopback, and stores that fail on purpose."""

import logging
import os
import uuid
from contextlib import contextmanager

import pytest

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def s3():
    """Yields the URL of a bucket; the environment names the server to whoever is started meanwhile."""
    moto = pytest.importorskip("moto.server")
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    try:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        bucket = f"studies-{uuid.uuid4().hex[:8]}"  # the servers of one process keep theirs together
        fsspec.filesystem("s3").mkdir(bucket)
        yield f"s3://{bucket}"
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        os.environ.clear()
        os.environ.update(before)
        server.stop()


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
