"""A study in an object store and its working copies: what one side writes the other has, in any order of failures."""

import json
import os
import shutil
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.object_store import Failing, s3
from tune_srgan.store.layout import PARTS
from tune_srgan.store.mirror import FORGOTTEN_S, Mirror, workers_copy, working_copy
from tune_srgan.store.objects import Entry, storage_at
from tune_srgan.store.sender import Sender

PLACE = "trials/00003"


@pytest.fixture(scope="module")
def bucket():
    with s3() as made:
        yield made.url


@pytest.fixture(params=["memory", "s3"])
def url(request):
    root = request.getfixturevalue("bucket") if request.param == "s3" else "memory://studies"
    return f"{root}/{uuid.uuid4().hex}"


def copy(url, root, storage=None):
    return Mirror(storage or storage_at(url), working_copy(url, root))


def add(mirror, *steps, file="readings.jsonl"):
    path = mirror.folder / PLACE / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        for step in steps:
            lines.write(json.dumps({"step": step}) + "\n")


def put(mirror, name, content):
    path = mirror.folder / PLACE / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def steps(mirror):
    path = mirror.folder / PLACE / "readings.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


OUTSIDE = ("../escaped.txt", "/escaped.txt", "trials/../../escaped.txt", "trials/00003/../../../escaped.txt")


@pytest.mark.parametrize("name", [*OUTSIDE, "trials//{}/escaped.txt", "trials/00003//{}/escaped.txt", "a\\escaped.txt"])
def test_no_name_leads_out_of_the_copy(tmp_path, name):
    """Whatever a store's objects are called: an object `a//etc/x` would be written to /etc/x."""
    name = name.format(str(tmp_path).lstrip("/"))

    class Evil:
        def entries(self, below=""):
            return [Entry(one, 1, 0.0, "1") for one in (name, f"{name}{PARTS}00000001-a", "trials/00003/outcome.json")]

        def read(self, name):
            return b"{}"

    copy("memory://evil", tmp_path / "copies", Evil()).fetch()
    assert [path.name for path in tmp_path.rglob("*escaped*")] == []
    assert len(list(tmp_path.rglob("outcome.json"))) == 1


def test_a_key_with_an_empty_part_in_a_real_store_is_left_there(bucket, tmp_path):
    import fsspec

    url = f"{bucket}/{uuid.uuid4().hex}"
    storage_at(url).write("trials/00003/outcome.json", b"{}")
    evil = f"{url}//{str(tmp_path).lstrip('/')}/escaped.txt"
    fsspec.filesystem("s3").call_s3("put_object", Bucket=evil.split("/")[2], Key=evil.split("/", 3)[3], Body=b"escaped")
    assert any("escaped" in entry.name for entry in storage_at(url).entries())
    copy(url, tmp_path / "copies").fetch()
    assert list(tmp_path.rglob("escaped.txt")) == []
    assert len(list(tmp_path.rglob("outcome.json"))) == 1


def test_what_others_remove_while_a_folder_is_listed_is_no_error(tmp_path):
    (tmp_path / PLACE).mkdir(parents=True)
    (tmp_path / PLACE / "outcome.json").write_text("{}")
    ended = threading.Event()

    def a_tracker():
        while not ended.is_set():
            (tmp_path / PLACE / "tracker/wandb/files").mkdir(parents=True)
            shutil.rmtree(tmp_path / PLACE / "tracker")

    with ThreadPoolExecutor(1) as threads:
        at_work = threads.submit(a_tracker)
        try:
            names = [[entry.name for entry in storage_at(str(tmp_path)).entries("trials")] for _ in range(2000)]
        finally:
            ended.set()
        at_work.result()
    assert names == [[f"{PLACE}/outcome.json"]] * 2000


def test_a_workers_copy_goes_when_nobody_has_written_to_it_for_long(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNE_SRGAN_CACHE", str(tmp_path))
    long_ago = time.time() - 2 * FORGOTTEN_S
    old, live = workers_copy("memory://studies/a"), workers_copy("memory://studies/a")
    for made in (old, live):
        (made / PLACE).mkdir(parents=True)
        (made / PLACE / "readings.jsonl").touch()
        for path in (made.parent.parent, *made.parent.parent.rglob("*")):
            os.utime(path, (long_ago, long_ago))
    (live / PLACE / "readings.jsonl").write_text("{}")  # its training goes on
    assert workers_copy("memory://studies/a").exists()
    assert (old.exists(), live.exists()) == (False, True)


def test_what_a_worker_sends_the_driver_has_and_nothing_is_fetched_twice(url, tmp_path):
    worker, store = copy(url, tmp_path / "worker"), Failing(storage_at(url))
    driver = copy(url, tmp_path / "driver", store)
    add(worker, 1, 2)
    put(worker, "checkpoint.pt", "weights")
    put(worker, "samples.png", "an image")
    worker.send(PLACE)
    driver.fetch()
    assert steps(driver) == [1, 2]
    assert (driver.folder / PLACE / "samples.png").read_text() == "an image"
    assert not (driver.folder / PLACE / "checkpoint.pt").exists()
    add(worker, 3)
    put(worker, "samples.png", "an image!")
    worker.send(PLACE)
    store.read_names.clear()
    driver.fetch(PLACE)
    assert steps(driver) == [1, 2, 3]
    assert sorted(store.read_names) == [
        f"{PLACE}/readings.jsonl{PARTS}00000002-{worker._writer}",
        f"{PLACE}/samples.png",
    ]
    driver.fetch(PLACE, heavy=True)
    assert (driver.folder / PLACE / "checkpoint.pt").read_text() == "weights"
    store.read_names.clear()
    driver.send(PLACE)
    assert store.written == []
    again = copy(url, tmp_path / "driver", store)  # another process: it knows what is here
    again.fetch()
    assert store.read_names == []
    (again.folder / "study.yaml").write_text("a study")
    again.send_top()
    again.send_top()
    assert store.written == ["study.yaml"]


def test_what_was_written_here_and_not_sent_yet_stays_and_is_sent(url, tmp_path):
    one, other = copy(url, tmp_path / "one"), copy(url, tmp_path / "other")
    (one.folder / "clock.json").write_text("1")
    one.send_top()
    other.fetch()
    (other.folder / "clock.json").write_text("2 hours")
    other.send_top()
    (one.folder / "clock.json").write_text("3")  # while the store was away
    one.fetch()
    assert (one.folder / "clock.json").read_text() == "3"
    one.send_top()
    other.fetch()
    assert (other.folder / "clock.json").read_text() == "3"


def test_what_a_tracker_keeps_is_its_own_to_send_and_replaces_what_it_kept_before(url, tmp_path):
    worker, driver = copy(url, tmp_path / "worker"), copy(url, tmp_path / "driver")
    put(worker, "tracker/run-1", "a run")
    add(worker, 1)
    worker.send(PLACE)
    driver.fetch()
    assert not (driver.folder / PLACE / "tracker").exists()
    worker.replace(f"{PLACE}/tracker")
    driver.fetch(PLACE)
    assert (driver.folder / PLACE / "tracker/run-1").exists()
    (worker.folder / PLACE / "tracker/run-1").unlink()
    put(worker, "tracker/run-2", "the run again")
    worker.replace(f"{PLACE}/tracker")
    driver.fetch(f"{PLACE}/tracker")
    assert [path.name for path in (driver.folder / PLACE / "tracker").iterdir()] == ["run-2"]
    assert steps(driver) == [1]


def test_what_a_place_has_no_more_is_no_other_places(url, tmp_path):
    driver = copy(url, tmp_path / "driver")
    for name in ("confirm/00003-1/trial.json", "confirm/00003-10/trial.json"):
        storage_at(url).write(name, b"{}")
    driver.fetch()
    storage_at(url).delete("confirm/00003-1/trial.json")
    driver.fetch("confirm/00003-1")
    assert [path.parent.name for path in driver.folder.rglob("trial.json")] == ["00003-10"]


def test_a_half_written_line_waits(url, tmp_path):
    worker, driver = copy(url, tmp_path / "worker"), copy(url, tmp_path / "driver")
    add(worker, 1)
    with (worker.folder / PLACE / "readings.jsonl").open("a") as lines:
        lines.write('{"step": ')
    worker.send(PLACE)
    driver.fetch()
    assert steps(driver) == [1]


def test_a_reading_counts_once_whoever_sent_it(url, tmp_path):
    """One worker was thought dead, and sends on while another has taken over."""
    zombie, worker, driver = (copy(url, tmp_path / name) for name in ("zombie", "worker", "driver"))
    add(zombie, 1, 2)
    zombie.send(PLACE)
    worker.fetch(PLACE, heavy=True)
    assert steps(worker) == [1, 2]
    add(zombie, 3)
    add(worker, 3, 4)
    zombie.send(PLACE)
    worker.send(PLACE)
    driver.fetch()
    assert steps(driver) == [1, 2, 3, 4]
    add(zombie, 4, 5)
    zombie.send(PLACE)
    driver.fetch()
    assert steps(driver) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("left", range(7))
def test_whatever_is_lost_no_checkpoint_is_ahead_and_an_outcome_comes_last(left, tmp_path):
    """A worker is lost after so many writes; the next one has a record that fits together."""
    url = f"memory://studies/{uuid.uuid4().hex}"
    worker = copy(url, tmp_path / "worker", Failing(storage_at(url), left))
    try:
        for step in (1, 2):
            add(worker, step)
            put(worker, "checkpoint.pt", str(step))
            if step == 2:
                put(worker, "samples.png", "an image")
                put(worker, "outcome.json", "{}")
            worker.send(PLACE)
    except OSError:
        pass
    successor = copy(url, tmp_path / "successor")
    successor.fetch(PLACE, heavy=True)
    checkpoint, folder = successor.folder / PLACE / "checkpoint.pt", successor.folder / PLACE
    if checkpoint.exists():
        assert int(checkpoint.read_text()) in steps(successor)
    if (folder / "outcome.json").exists():
        assert steps(successor) == [1, 2]
        assert checkpoint.read_text() == "2"
        assert (folder / "samples.png").exists()
    assert (folder / "outcome.json").exists() == (left >= 6)


def test_a_store_that_fails_for_a_while_holds_nothing_up_and_has_everything_in_the_end(url, tmp_path):
    store = Failing(storage_at(url))
    worker, driver = copy(url, tmp_path / "worker", store), copy(url, tmp_path / "driver")
    store.failing = True
    threading.Timer(1.2, lambda: setattr(store, "failing", False)).start()
    with Sender(worker, PLACE) as sender:
        began = time.perf_counter()
        for step in range(1, 50):
            add(worker, step)
            sender.offer()
        assert time.perf_counter() - began < 1
        put(worker, "outcome.json", "{}")
    driver.fetch()
    assert steps(driver) == list(range(1, 50))
    assert (driver.folder / PLACE / "outcome.json").exists()


def test_a_store_that_stays_silent_is_said(tmp_path):
    url = f"memory://studies/{uuid.uuid4().hex}"
    worker = copy(url, tmp_path, Failing(storage_at(url), 0))
    add(worker, 1)
    with pytest.raises(OSError, match="503"), Sender(worker, PLACE, patience=0.1):
        pass


def test_what_has_ended_is_one_part(url, tmp_path):
    worker, driver, late = (copy(url, tmp_path / name) for name in ("worker", "driver", "late"))
    with Sender(worker, PLACE) as sender:
        for step in range(1, 6):
            add(worker, step)
            sender.offer()
            driver.fetch()
            time.sleep(0.05)
        put(worker, "outcome.json", "{}")
    names = [entry.name for entry in storage_at(url).entries(PLACE)]
    assert len([name for name in names if PARTS in name]) == 1
    for reader in (driver, late):
        reader.fetch()
        assert steps(reader) == [1, 2, 3, 4, 5]


def test_of_many_who_create_an_object_one_does(url):
    storage, won = storage_at(url), []

    def attempt(number):
        if storage.create("lease/00000001", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("lease/00000001") == str(won[0]).encode()
