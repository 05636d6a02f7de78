"""One driver a study: the second is refused with the first's name and age, and follows one that is gone."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from trainables.errors import InvalidInput
from tune_srgan.store import lease
from tune_srgan.store.objects import storage_at


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path):
    return storage_at(str(tmp_path) if request.param == "folder" else f"memory://lease{time.time_ns()}")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)


def held(storage, take_over=False, lost=lambda: None):
    return lease.hold(storage, "the study", lost, take_over)


def holder(storage, **changed):
    """What another driver has left: by default one of this machine, at work, whose process is gone."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    sign = lease._sign() | {"pid": int(gone.stdout), "released": False, "beat": 7, "time": time.time() - 100}
    storage.write(lease._name(3), json.dumps(sign | changed).encode())


def last(storage):
    return lease._last(storage)


def test_a_second_driver_is_refused_and_one_that_has_ended_is_followed(storage):
    with held(storage):
        refused = pytest.raises(InvalidInput, match=f"process {os.getpid()} of {socket.gethostname()} is running")
        with refused, held(storage):
            pytest.fail("two drivers")
        with refused, held(storage, take_over=True):
            pytest.fail("two drivers")
    assert last(storage)[1]["released"]
    with held(storage):
        assert last(storage)[0] == 2


def test_a_driver_of_this_machine_whose_process_is_gone_is_followed_at_once(storage):
    holder(storage)
    with held(storage):
        assert last(storage)[0] == 4


def test_a_process_of_the_same_number_that_began_later_is_another(storage):
    holder(storage, pid=os.getpid(), started="1")
    with held(storage):
        assert last(storage)[0] == 4


def test_another_machines_driver_is_followed_where_a_person_says_so_and_it_is_silent(storage):
    holder(storage, host="elsewhere")
    with (
        pytest.raises(InvalidInput, match="its last sign of life is 10. s old.*give the same command --take-over"),
        held(storage),
    ):
        pytest.fail("not asked for")
    with held(storage, take_over=True):
        assert last(storage)[0] == 4


@pytest.mark.parametrize("changed", [{"boot": "before the restart"}, {"processes": "pid:[1]"}])
def test_this_machine_before_its_restart_or_a_container_of_its_name_is_followed_where_it_is_silent(storage, changed):
    """Its process's number means nothing here."""
    holder(storage, **changed)
    with held(storage):
        assert last(storage)[0] == 4


@pytest.mark.parametrize("changed", [{"host": "elsewhere"}, {"processes": "pid:[1]"}])
def test_a_driver_that_is_alive_is_not_taken_over_whatever_its_clock_says(storage, changed):
    holder(storage, time=0.0, **changed)
    over, beats = threading.Event(), iter(range(8, 10_000))

    def live():
        while not over.wait(0.01):
            holder_beats = lease._last(storage)[1] | {"beat": next(beats)}
            storage.write(lease._name(3), json.dumps(holder_beats).encode())

    alive = threading.Thread(target=live)
    alive.start()
    try:
        with pytest.raises(InvalidInput, match="It is alive"), held(storage, take_over="host" in changed):
            pytest.fail("two drivers")
    finally:
        over.set()
        alive.join()


def test_a_driver_that_was_taken_over_is_told_and_leaves_the_lease_alone(storage):
    told = threading.Event()
    with held(storage, lost=told.set):
        storage.create(lease._name(2), json.dumps(lease._sign() | {"released": False}).encode())
        assert told.wait(10)
    assert not last(storage)[1]["released"]


def test_of_two_who_try_at_once_one_holds_it(storage, monkeypatch):
    holder(storage)
    both, found = threading.Barrier(2), []
    create = type(storage).create

    def together(self, name, content):
        both.wait(10)
        return create(self, name, content)

    monkeypatch.setattr(type(storage), "create", together)

    def drive():
        try:
            with held(storage):
                found.append("holds")
                time.sleep(0.3)
        except InvalidInput:
            found.append("refused")

    drivers = [threading.Thread(target=drive) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert sorted(found) == ["holds", "refused"]
