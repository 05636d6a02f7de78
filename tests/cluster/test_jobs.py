"""A command as a Ray job: whose job is followed, what a connection that breaks does. For real: test_cluster."""

from types import SimpleNamespace

import pytest

from trainables.errors import InvalidInput
from tune_srgan.cluster import jobs

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("ray.job_submission")
BEGINS = f"{jobs.BEGINS} x\n"


class Client:
    """Stands for Ray's: its jobs, and what their logs say at each connection."""

    def __init__(self, *logs):
        self.jobs, self.logs, self.ended = {}, list(logs), False

    def list_jobs(self):
        return [SimpleNamespace(submission_id=job, status=SimpleNamespace(value=s)) for job, s in self.jobs.items()]

    def submit_job(self, entrypoint, submission_id, runtime_env):
        self.jobs[submission_id] = "RUNNING"
        return submission_id

    async def tail_job_logs(self, job):
        for part in self.logs.pop(0):
            if isinstance(part, Exception):
                raise part
            yield part

    def get_job_info(self, job):
        return SimpleNamespace(status=SimpleNamespace(value="SUCCEEDED"), driver_exit_code=0, message="")


@pytest.fixture
def head(monkeypatch):
    monkeypatch.setattr(jobs, "PAUSE_S", 0.0)

    def made(*logs):
        found = object.__new__(jobs.Head)
        found._address, found._said, found._client = "http://127.0.0.1:8265", 0, Client(*logs)
        return found

    return made


def test_the_same_study_is_followed_and_no_other(head):
    one = head()
    first = one.start(["run", "/dev/stdin"], "run.srgan", "study: srgan\nstorage: /a")
    assert first.startswith("run.srgan-")
    assert one.start(["run", "/dev/stdin"], "run.srgan", "study: srgan\nstorage: /a") == first
    others = [
        one.start(["run", "/dev/stdin"], "run.srgan-big", "study: srgan-big\nstorage: /a"),
        one.start(["run", "/dev/stdin"], "run.srgan", "study: srgan\nstorage: /b"),
        one.start(["run", "/dev/stdin", "--take-over"], "run.srgan", "study: srgan\nstorage: /a"),
    ]
    assert len({first, *others}) == 4
    one._client.jobs[first] = "SUCCEEDED"
    assert one.start(["run", "/dev/stdin"], "run.srgan", "study: srgan\nstorage: /a") not in {first, *others}


def test_a_connection_that_breaks_is_taken_up_again_and_no_line_comes_twice(head):
    broken = aiohttp.ServerDisconnectedError()
    told = []
    one = head([f"Ray's own\n{BEGINS}first\n", broken], [f"Ray's own\n{BEGINS}first\nsecond\n"])
    assert one.follow("job", told.append) == 0
    assert "".join(told) == "first\nsecond\n"


def test_a_connection_that_stays_broken_is_one_error(head):
    with pytest.raises(InvalidInput, match="a connection that broke.*goes on") as lost:
        head(*[[OSError("refused")]] * 9).follow("run.x-1", print)
    assert "ray job stop run.x-1" in str(lost.value)
