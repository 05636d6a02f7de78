"""What is wrong with what a person gave us: collected, all at once, each with its place and its mend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


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


def nearest(word: str, known: Sequence[str]) -> str:
    """A sentence that names the known word nearest to `word`, or all of them where none is near."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{lowered[close[0]]}'?"
    return "Known here: " + ", ".join(sorted(known)) + "."
