"""What is wrong with what a person gave us: collected, all at once, each with its place and its mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: where, what was found, what is expected, what to do."""

    file: str
    key: str
    found: str
    expected: str
    fix: str = ""

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        text = f"{where}: found {self.found}; expected {self.expected}"
        return f"{text}. {self.fix}" if self.fix else text


class InvalidInput(Exception):
    """Raised before anything starts; carries every problem that was found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[list[Problem]]]:
        return (InvalidInput, (self.problems,))  # an exception that crosses processes keeps its parts


class Refused(Exception):
    """Raised for a whole image whose values are none to train on: what it is, and what to do."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found}. {fix}")
        self.found, self.fix = found, fix


@contextlib.contextmanager
def located(file: str, **known: str) -> Iterator[None]:
    """Say of problems that are found in this context which file they come from, and which `key` or what `found`."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput([replace(problem, file=file, **known) for problem in error.problems]) from None


def one_line(error: BaseException, most: int = 200) -> str:
    """Return what an error says in one line of at most so many characters."""
    return " ".join(str(error).split())[:most]


def nearest(word: str, known: Sequence[str]) -> str:
    """Return a sentence that names the known word nearest to `word`, or all of them where none is near."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{lowered[close[0]]}'?"
    return "Known here: " + ", ".join(sorted(known)) + "."


def explain(error: ValidationError, model: type[BaseModel], file: str) -> list[Problem]:
    """Turn what pydantic found wrong with a model's input into problems, each at its dotted key."""
    problems: list[Problem] = []
    for entry in error.errors():
        path = _key_path(model, entry["loc"])
        if problems and problems[-1].key == ".".join(path):
            continue  # one wrong value, tried against each type of a union
        if entry["type"] == "extra_forbidden":
            owner = _model_at(model, path[:-1])
            names = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
            fix = nearest(path[-1], names) if names else ""
            problems.append(Problem(file, ".".join(path), "an unknown key", "a known one", fix))
        elif entry["type"] == "missing":
            problems.append(Problem(file, ".".join(path), "nothing", "a value", "The key is required."))
        else:
            found = repr(entry["input"])
            found = found if len(found) < 80 else found[:77] + "..."
            expected = entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            problems.append(Problem(file, ".".join(path), f"{found} ({type(entry['input']).__name__})", expected))
    return problems


def _key_path(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys a person wrote: pydantic goes on with the types and indices it tried inside a value."""
    path: list[str] = []
    for part in map(str, location):
        path.append(part)
        inner = _model_at(model, path)
        if inner is None and not (path[0] == "space" and len(path) < 3):
            break
    return path


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    for index, part in enumerate(path):
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        if get_origin(annotation) is dict and len(path) == index + 2:
            annotation = get_args(annotation)[1]  # a mapping of models: what stands at any key of it
            return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model
