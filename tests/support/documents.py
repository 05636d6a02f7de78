"""Parts of documents that tests make."""

from pathlib import Path

import pytest


def assert_part(request: pytest.FixtureRequest, document: Path, marks: tuple[str, str], made: str, accept: str) -> None:
    """What stands between two marks is what was made; with --accept it is written instead, and `accept` says how."""
    begin, end = marks
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    old, _, after = rest.partition(end)
    if request.config.getoption("accept"):
        document.write_text(before + begin + made + end + after, encoding="utf-8")
    assert old == made, f"the table in {document.name} is another; if it is meant: {accept}"
