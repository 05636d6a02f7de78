"""A command on the head of a Ray cluster, as a Ray job: it outlives the connection and the machine that asked."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from trainables.errors import InvalidInput, Problem, one_line
from tune_srgan.cluster.addresses import TOKEN, is_dashboard, why_no_dashboard

GIVEN, PART_BYTES = "TUNE_SRGAN_GIVEN", 100_000
OTHERS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")  # Ray's client asks these before the address that it is given
COMMAND = "python -m tune_srgan"  # with the Python of the cluster's nodes
OVER = {"SUCCEEDED", "STOPPED", "FAILED"}
LOST = 3  # times in a row that following is taken up again where the connection breaks
BEGINS = "Running entrypoint for job"  # Ray's last line before the command's own
READY_S = 60.0  # that a head which is starting may take
PAUSE_S = 2.0


def _parts(given: str) -> dict[str, str]:
    """A text as environment variables, in order: the system takes no more than 128 KiB of one."""
    letters = PART_BYTES // 4  # a letter takes four bytes at most
    return {f"{GIVEN}_{begin // letters}": given[begin : begin + letters] for begin in range(0, len(given), letters)}


def _without(names: Sequence[str], work: Callable[[], Any]) -> Any:
    """Do something without these variables in the environment."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        return work()
    finally:
        os.environ.update(kept)


def _say_now(text: str) -> None:
    """Where the output is a file or a pipe, too, it is followed as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Head:
    """The head of the cluster whose dashboard is at an address; one clear error where none answers."""

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient

        self._address, self._said = address, 0
        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
        why = why_no_dashboard(address) if is_dashboard(address) else "not of the form http://host:port"
        try:
            if not why:
                self._client = _without(OTHERS, lambda: JobSubmissionClient(address))
        except Exception as error:  # version and authentication errors have no class in common
            why = one_line(error)
        if why:
            found = f"no cluster's dashboard that answers ({why})"
            fix = f"Forward its port first: `ray dashboard ray_cluster.yaml`. {TOKEN}"
            raise InvalidInput([Problem(address, "--address", found, "like http://127.0.0.1:8265", fix)])

    def start(self, arguments: Sequence[str], name: str, given: str = "") -> str:
        """Start a command that is given a text on its standard input; the job's id.

        Where the same is at work already, it is that job: two shells follow one study.
        """
        entrypoint = f"{COMMAND} {shlex.join(arguments)}"
        same = f"{name}-{hashlib.sha256(f'{entrypoint} {given}'.encode()).hexdigest()[:8]}-"
        for job in self._client.list_jobs():
            if job.submission_id and job.submission_id.startswith(same) and job.status.value not in OVER:
                return str(job.submission_id)
        # not by a working folder: Ray deletes it while the job still works in it
        parts = _parts(given)
        handed = {"env_vars": parts} if parts else None
        quoted = " ".join(f'"${name}"' for name in parts)
        told = f"printf %s {quoted} | {entrypoint}" if parts else entrypoint
        until = time.monotonic() + READY_S
        while True:
            job = f"{same}{time.time_ns():x}"
            try:
                return str(self._client.submit_job(entrypoint=told, submission_id=job, runtime_env=handed))
            except RuntimeError as error:  # a head that has just started has no agent yet
                if time.monotonic() > until:
                    found = f"a head that takes no job ({one_line(error)})"
                    raise InvalidInput([Problem(self._address, "--address", found, "a head that is up")]) from None
                time.sleep(PAUSE_S)

    def follow(self, job: str, say: Callable[[str], object] = _say_now) -> int:
        """Pass its log on until it has ended; its exit code. A connection that breaks is taken up again."""
        import aiohttp  # Ray's client speaks through it

        broken, self._said = 0, 0
        while True:
            try:
                asyncio.run(self._pass_on(job, say))
                info = self._client.get_job_info(job)
                broken = 0
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                broken += 1
                if broken > LOST:
                    raise InvalidInput([self._lost(job, error)]) from None
                time.sleep(PAUSE_S)
                continue
            if info.status.value in OVER:
                if not self._said and info.message:
                    say(f"{info.message}\n")  # it never came to the command
                code = info.driver_exit_code
                return int(code) if code is not None else int(info.status.value != "SUCCEEDED")
            time.sleep(PAUSE_S)

    async def _pass_on(self, job: str, say: Callable[[str], object]) -> None:
        """What the log, which is always sent from its beginning, has beyond what was said; not what Ray says first."""
        text, begin = "", 0
        stream: Any = self._client.tail_job_logs(job)
        async for lines in stream:
            text += lines
            if not begin and BEGINS in text:
                begin = text.find("\n", text.index(BEGINS)) + 1
            if begin and len(text) > max(begin, self._said):
                say(text[max(begin, self._said) :])
                self._said = len(text)

    def _lost(self, job: str, error: Exception) -> Problem:
        found = f"a connection that broke ({one_line(error)})"
        fix = f"The job {job} goes on: the same command follows it again; `ray job stop {job}` ends it."
        return Problem(self._address, "--address", found, "one that lasts", fix)
