"""A command done on the head of a cluster instead of here: what it is told, and how its job is followed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from trainables.configuration import PLACES
from trainables.dotted import value_at
from trainables.errors import InvalidInput, Problem
from trainables.places import is_url
from tune_srgan.cluster.jobs import Head
from tune_srgan.study.settings import Study

RUN = "run"  # the kind of job that trains, whatever command began it
GIVEN_STUDY = "/dev/stdin"  # where the head finds a study


def do_on_head(
    address: str, kind: str, name: str, arguments: list[str], err: Console, study: Study | None = None
) -> int:
    """Run a command on the head of the cluster whose dashboard is at `address`; returns its exit code.

    `study` is handed over with it. KeyboardInterrupt while it is followed: the job goes on.
    """
    head = Head(address)
    job = head.start(arguments, f"{kind}.{name}", study.dump() if study else "")
    if kind == RUN:
        err.print(f"Job {job}: it goes on when this shell is gone; the same command follows it again.", highlight=False)
    try:
        return head.follow(job)
    except KeyboardInterrupt:
        err.print(f"The job goes on; `ray job stop {job} --address {address}` ends it.", highlight=False)
        raise


def there(command: str, study: str, storage: str, *options: str) -> tuple[str, list[str]]:
    """Return a study's name, and what a command that knows only where it is kept takes on another machine."""
    if not is_url(study) and not Path(study).is_absolute():
        refuse_relative("--storage", storage)
        study = f"{storage}/{study}"
    return study.rstrip("/").rpartition("/")[2], [command, study, *options]


def refuse_relative(file: str, storage: str) -> None:
    """Refuse a storage that means another place on another machine: a job's working folder comes and goes."""
    if not is_url(storage) and not Path(storage).is_absolute():
        fix = "Give one with --storage: a folder that all nodes share, or an s3://… or gs://… URL."
        expected = "an absolute path or a URL, since the cluster has another working folder"
        raise InvalidInput([Problem(file, "storage", storage, expected, fix)])


def only_here(study: Study) -> list[str]:
    """Warn of paths that are on this machine, and so perhaps not on the cluster."""
    places = {key: str(value_at(study.training, key) or "sample") for key in PLACES}
    return [
        f"{key}: {place} is on this machine; give a path that every node sees, or a URL."
        for key, place in places.items()
        if place != "sample" and not is_url(place) and Path(place).exists()
    ]
