"""What a worker does for a trial besides training it: reports, the board, the GPU, and what it notes of a failure."""

import math
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from tests.support.studies import VALUES, causes, loaded, open_study, reading, small, start
from trainables.errors import InvalidInput
from tune_srgan.run.attempts import DeviceLost
from tune_srgan.search.board import Answer
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import Fault

pytest.importorskip("ray")
from tune_srgan.run import worker as module
from tune_srgan.run.trial import PAUSE

TOLD = {"trial": "trials/00000", "deadline": None, "run": "run-1", "board": "none", "elsewhere": True}


def test_a_training_does_not_wait_for_a_driver_and_the_last_reading_arrives():
    go, told = threading.Event(), []

    def report(reading):
        told.append(reading["step"])
        go.wait(10)

    with module.Reporter(report) as reporter:
        for step in range(100):  # the driver takes nothing but the first
            reporter({"step": step})
        go.set()
    assert told[0] in range(100)
    assert told[-1] == 99
    assert len(told) <= 3


def test_ray_ends_a_training_through_its_report():
    def report(reading):
        raise SystemExit

    with pytest.raises(SystemExit), module.Reporter(report) as reporter:
        for step in range(10_000):
            reporter({"step": step})
            time.sleep(0.001)
    assert step < 9_999


def test_a_trial_pauses_in_its_game_by_what_it_may_still_reach(tmp_path, monkeypatch):
    study = loaded(tmp_path)
    folder = StudyFolder(tmp_path / "runs" / "small")
    open_study(folder, study)
    start(folder, study, 0, VALUES)
    asked = []

    class Reader:
        def __init__(self, name):
            self.now = None

        def __call__(self, earliest):
            asked.append(earliest)
            return Answer(None, earliest > 0)

    monkeypatch.setattr(module, "BoardReader", Reader)
    terms = module._terms(study, folder, folder.trial(0), {"deadline": None, "board": "its name"})

    def why_stop(step, rank):
        readings = [reading(at, rank) for at in range(4, step + 1, 4)]
        return terms.why_stop(SimpleNamespace(step=step, readings=readings))

    assert why_stop(16, 0.5) is None  # pretraining: the bound is what it was when it started
    assert why_stop(60, 0.5) == PAUSE  # balanced since the ramp ended at 40: another may be sooner still
    assert why_stop(60, 0.875) == PAUSE
    assert asked == [-math.inf, 40, 64]  # the next reading may be the first that holds
    start(folder, study, 1, VALUES, "try_first")
    terms = module._terms(study, folder, folder.trial(1), {"deadline": None, "board": "its name"})
    assert why_stop(60, 0.875) is None  # a baseline is seen, until it is capped


@pytest.fixture
def folder(tmp_path):
    """A study whose trials share a GPU, and its first trial."""
    document = small()
    document["resources"] = {"gpus": 0.25, "mps": False}
    document["tracking"] = {"wandb": {"mode": "disabled"}}
    study = loaded(tmp_path, document)
    made = StudyFolder(tmp_path / "runs" / study.study)
    open_study(made, study)
    start(made, study, 0, VALUES)
    return made


@pytest.fixture
def closed(monkeypatch):
    """Why nodes were closed; the device is for the test to choose."""
    found = []
    monkeypatch.setattr(module.nodes, "close_this_node", found.append)
    return found


def run(folder, **told):
    module.run_trial(TOLD | {"folder": str(folder.path)} | told)


def without_gpu(monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)


def test_a_worker_that_was_given_a_gpu_does_not_train_without(folder, closed, monkeypatch):
    without_gpu(monkeypatch, "13.0")
    monkeypatch.setattr(module.mps, "gpu_answers", lambda: True)
    with pytest.raises(RuntimeError, match="given a GPU, but torch finds none"):
        run(folder)
    assert folder.trial(0).readings() == closed == []
    assert "torch finds none" in causes(folder.trial(0))[0]


def test_a_torch_that_was_built_without_cuda_is_no_trials_fault(folder, closed, monkeypatch):
    without_gpu(monkeypatch, None)
    with pytest.raises(InvalidInput, match="a torch without CUDA"):
        run(folder)
    assert closed == []


def test_an_error_beside_which_the_device_computes_on_is_the_trials_own(folder, monkeypatch):
    def falls(*_):
        raise RuntimeError("CUDA error: invalid configuration argument")  # of a launch; the device is well
        yield

    monkeypatch.setattr(module, "_take_share", lambda *_: None)
    monkeypatch.setattr(module, "train_recorded", falls)
    monkeypatch.setattr(module.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(module, "device_computes", lambda: True)
    with pytest.raises(RuntimeError, match="invalid configuration"):
        run(folder)
    assert folder.trial(0).attempts()[0].failure.fault is Fault.TRIAL


def test_an_error_of_a_trial_on_the_cpu_asks_no_gpu(folder, closed, monkeypatch):
    def falls(*_):
        raise RuntimeError("a shape that does not fit")
        yield

    asked, study = [], study_in(folder)
    monkeypatch.setattr(module, "study_in", lambda _: study.model_copy(update={"resources": type(study.resources)()}))
    monkeypatch.setattr(module, "train_recorded", falls)
    monkeypatch.setattr(module, "device_computes", lambda: bool(asked.append("device")))
    monkeypatch.setattr(module.mps, "gpu_answers", lambda: bool(asked.append("GPU")))
    with pytest.raises(RuntimeError, match="a shape that does not fit"):
        run(folder)
    assert folder.trial(0).attempts()[0].failure.fault is Fault.TRIAL
    assert (asked, closed) == ([], [])


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_gpu_that_answers_nobody_any_more_closes_its_node_where_there_is_another(
    folder, closed, monkeypatch, elsewhere
):
    def falls(*_):
        raise RuntimeError("unspecified launch failure")
        yield

    monkeypatch.setattr(module, "_take_share", lambda *_: None)
    monkeypatch.setattr(module, "train_recorded", falls)
    monkeypatch.setattr(module.mps, "gpu_answers", lambda: False)
    monkeypatch.setattr(module.torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(module, "device_computes", lambda: False)
    with pytest.raises(DeviceLost, match="answers nobody any more"):
        run(folder, elsewhere=elsewhere)
    [failure] = [attempt.failure for attempt in folder.trial(0).attempts()]
    assert failure.cause.startswith("DeviceLost: the GPU of ")
    assert failure.fault is Fault.NODE
    assert len(closed) == elsewhere
    monkeypatch.setattr(module.mps, "gpu_answers", lambda: True)  # the program was at fault, or the process is
    with pytest.raises(RuntimeError, match="unspecified launch failure") as failed:
        run(folder)
    assert not isinstance(failed.value, DeviceLost)
    assert len(closed) == elsewhere
    failure = folder.trial(0).attempts()[-1].failure
    assert (failure.fault, bool(failure.device)) == (Fault.DEVICE, True)


def test_a_deadline_is_by_the_drivers_clock(folder, monkeypatch):
    """A worker's own may be an hour ahead, or jump."""
    clock = [100.0]
    monkeypatch.setattr(module.BoardReader, "_ask", lambda self, method, *_: clock[0] if method == "now" else None)
    monkeypatch.setattr(time, "time", lambda: 1e12)
    terms = module._terms(study_in(folder), folder, folder.trial(0), TOLD | {"deadline": 200.0})
    assert terms.deadline == 200.0
    assert terms.now() == 100.0
    clock[0] = None  # nobody answers: the trial goes on
    assert terms.now() == -math.inf
