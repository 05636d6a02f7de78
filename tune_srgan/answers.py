"""How a command answers: where it prints, its exit codes, and one clear error where something is wrong."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from rich.console import Console

from trainables.errors import InvalidInput, Problem, one_line
from tune_srgan.console import print_problems

FAILED, INVALID, INTERRUPTED = 1, 2, 130  # exit codes
PLAIN_WIDTH = 120  # where there is no terminal to ask
out = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else PLAIN_WIDTH)
F = TypeVar("F", bound=Callable[..., Any])


def answers_problems(command: F) -> F:
    """Answer invalid input, and a file or store that fails, on stderr: exit code 2, no traceback."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except InvalidInput as error:
            print_problems(error, err)
        except BrokenPipeError:
            raise  # whoever read our output has read enough
        except OSError as error:
            found = f"a file, folder or store that fails ({one_line(error)})"
            place = str(error.filename or "storage")
            print_problems(InvalidInput([Problem(place, "", found, "one that can be read and written")]), err)
        raise typer.Exit(INVALID)

    return wrapped  # type: ignore[return-value]  # same signature
