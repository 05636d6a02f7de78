"""What a study is worth to a reader, held whole: the report's data and the winner's configuration, file by file."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.service import ROOT
from tests.support.studies import confirm_all, made, records_in, small
from tune_srgan.report.best import write_best
from tune_srgan.report.data import report_data
from tune_srgan.report.files import Format, write

GOLDEN = Path(__file__).parent / "golden"
ACCEPT = "pytest -n 0 tests/report/test_golden.py --accept"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with every end, its two best confirmed on three further seeds."""
    ends = ["balanced", "exhausted", "capped", "failed", "diverged", None, "balanced", "lost"]
    study, folder = made(tmp_path_factory.mktemp("golden"), ends, small() | {"confirm": {"top": 2, "seeds": 3}})
    confirm_all(folder, study, n0=(80, None, 100), n6=(84, 84, 100))
    return study, folder, records_in(study, folder)


def steady(text: str, folder: Path) -> str:
    """The same text wherever and whenever it was written."""
    return text.replace(str(folder), "FOLDER").replace(str(ROOT), "ROOT")


def assert_golden(request: pytest.FixtureRequest, name: str, text: str) -> None:
    """The text is the golden file's to the letter; with --accept the file is written instead."""
    file = GOLDEN / name
    if request.config.getoption("accept"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text)
    if text == file.read_text():
        return
    import difflib

    lines = difflib.unified_diff(file.read_text().splitlines(), text.splitlines(), "golden", "now", lineterm="", n=2)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    pytest.fail(f"{file.relative_to(ROOT)} is another. Read the difference; if it is meant: {ACCEPT}", pytrace=False)


def test_the_reports_data(request, study, tmp_path):
    study, folder, records = study
    data = report_data(study, folder, records) | {"made": "WHEN"}
    file = write(data, tmp_path, Format.JSON)
    assert json.loads(file.read_text())["answer"]["number"] == 6  # its median over the further seeds is the lower one
    assert_golden(request, "report.json", steady(file.read_text(), folder.path))


def test_the_winners_configuration(request, study):
    study, folder, records = study
    assert write_best(study, folder, records).number == 6
    assert_golden(request, "best.yaml", steady(folder.best_configuration.read_text(), folder.path))
