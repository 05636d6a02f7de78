"""The Ray adapter of a training: what a worker runs for one trial.

Its folder, its share of a GPU, its reports to Ray, what the board says, and what becomes of an attempt that fails.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainables.balance import Ruler, judge
from trainables.errors import InvalidInput, Problem, one_line
from trainables.places import is_url
from trainables.state import DamagedCheckpoint, State
from tune_srgan.cluster import mps, nodes
from tune_srgan.run import attempts
from tune_srgan.run.attempts import DeviceLost, NoGpu
from tune_srgan.run.reporting import BoardReader, Reporter
from tune_srgan.run.trial import PAUSE, Stop, Terms, train_recorded
from tune_srgan.search.capping import cost_in, why_end
from tune_srgan.search.sharing import SharedPretraining, Snapshots, points_of
from tune_srgan.store.mirror import mirror_of, workers_copy
from tune_srgan.store.patience import PATIENCE_S, patiently
from tune_srgan.store.sender import Sender
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import Fault, Proposer, TrialFolder
from tune_srgan.study.settings import Study
from tune_srgan.tracking.marks import sweep_file
from tune_srgan.tracking.tracker import followed

CONTEXT_BYTES = 600_000_000  # what a process holds of a GPU besides its tensors, about


def run_trial(config: dict[str, Any]) -> None:
    """Train, in a worker, the trial in `trial`, a folder of the study in `folder`."""
    from ray import tune

    with _at_work(config["folder"], config["trial"]) as (folder, offer):
        _run(folder, config, tune.report, offer)


@contextlib.contextmanager
def _at_work(address: str, place: str) -> Iterator[tuple[StudyFolder, Callable[[], None]]]:
    """The folder in which a worker is at work on a trial, and what is called when there is something new in it.

    Of a study in an object store a copy of this attempt's own: one that was thought dead may still be at work.
    """
    if not is_url(address):
        yield StudyFolder(Path(address)), lambda: None
        return
    folder = StudyFolder(workers_copy(address))
    mirror, trial = mirror_of(folder.path), folder.named(place)
    assert mirror is not None
    for name in (folder.study_file, sweep_file(folder)):
        patiently(functools.partial(mirror.fetch_file, name.name), PATIENCE_S)
    folder.fetch(place, heavy=True, patience=PATIENCE_S)
    try:
        with Sender(mirror, place) as sender:
            yield folder, sender.offer
    finally:
        trial.checkpoint.unlink(missing_ok=True)  # the tracker may still read the rest


def _run(
    folder: StudyFolder, config: dict[str, Any], tell: Callable[[dict[str, Any]], None], offer: Callable[[], None]
) -> None:
    trial, study = folder.named(config["trial"]), study_in(folder)
    node, alive = nodes.whereabouts()
    if attempts.counted(folder, trial, config["run"], alive) > study.resources.max_failures:
        trial.end_failed()
        return
    trial.begin_attempt(config["run"], node)
    try:
        _take_share(study, trial)
        with Reporter(tell) as report, followed(trial, study):
            for reading in train_recorded(trial, _terms(study, folder, trial, config)):
                report(reading)
                offer()
    except Exception as error:
        cause, fault = _diagnosed(error, bool(study.resources.gpus) or torch.cuda.is_initialized())
        with contextlib.suppress(OSError):
            # Ray tries again, from the checkpoint; the cause stays with the trial
            trial.note_failure(cause, fault, _device() if fault is Fault.DEVICE else "")
        if isinstance(cause, DeviceLost) and config["elsewhere"]:
            nodes.close_this_node(str(cause))
        raise cause from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # a reused worker keeps its process


def _take_share(study: Study, trial: TrialFolder) -> None:
    """Keep to the share of a GPU that a trial was given; whoever was given one has one."""
    share = study.resources.gpus
    if 0 < share < 1:
        if study.resources.mps:
            mps.join()
        if torch.cuda.is_available():
            context = CONTEXT_BYTES / torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(max(share - context, share / 2))
    if not share or trial.configuration().Training.device == "cpu" or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        host, fix = socket.gethostname(), "Install torch with CUDA on every node."
        raise InvalidInput([Problem(host, "resources.gpus", "a torch without CUDA", "one that can use a GPU", fix)])
    by_mps = f", through the MPS daemon of {os.environ[mps.PIPES]}" if mps.PIPES in os.environ else ""
    raise NoGpu(f"this worker was given a GPU, but torch finds none{by_mps}")


def _terms(study: Study, folder: StudyFolder, trial: TrialFolder, config: dict[str, Any]) -> Terms:
    """A study's terms for one of its trials."""
    search, confirms = study.search, trial.confirms > 0
    board = BoardReader(config["board"])
    tracked = study.tracking.wandb.mode != "disabled"
    terms = Terms(math.inf if config["deadline"] is None else config["deadline"], board.now, confirms, tracked)
    if search.sharing.enabled:
        points = points_of(study)
        snapshots = Snapshots(folder.pretraining, 1e9 * search.sharing.disk_gb, trial.complain)
        terms = replace(terms, shared=lambda *parts: SharedPretraining.of(snapshots, points, *parts))
    if search.capping.enabled and not confirms:
        configuration = trial.configuration()
        ruler, pretraining = Ruler.of(configuration), configuration.Training.pretrain_steps
        stays = trial.header()["proposed_by"] == Proposer.TRY_FIRST

        def why_stop(state: State) -> Stop | None:
            verdict = judge(state.readings, ruler)
            # until the game the bound is what it was at the start; a baseline is seen through, until it is capped
            may_pause = not stays and state.step >= pretraining
            answer = board(verdict.earliest if may_pause else -math.inf)
            cost_of = cost_in(study, state.readings, pretraining)
            why = why_end(verdict, trial.number, answer.incumbent, search.capping, cost_of)
            if why is not None:
                return Stop(*why)
            return PAUSE if answer.pauses else None

        terms = replace(terms, why_stop=why_stop)
    return terms


def _diagnosed(error: Exception, on_gpu: bool) -> tuple[Exception, Fault]:
    """What an attempt failed by, and whose fault that is."""
    if isinstance(error, InvalidInput) and not isinstance(error, DamagedCheckpoint):
        return error, Fault.STUDY  # imagery that is gone is gone for every trial
    if not isinstance(error, NoGpu) and (not on_gpu or isinstance(error, torch.OutOfMemoryError) or device_computes()):
        return error, Fault.TRIAL
    if mps.gpu_answers():
        return error, Fault.DEVICE
    lost = f"the GPU of {_device()} answers nobody any more ({one_line(error)})"
    return DeviceLost(lost), Fault.NODE


def device_computes() -> bool:
    """Tell whether the GPU still computes for this process: after its fault no call does."""
    try:
        return float(torch.ones(1, device="cuda").add_(1).item()) == 2.0
    except RuntimeError:
        return False


def _device() -> str:
    """The device this worker was given; asking the device itself is no use after a fault."""
    return f"{socket.gethostname()}/{os.environ.get('CUDA_VISIBLE_DEVICES', '')}"
