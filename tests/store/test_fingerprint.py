"""A study's imagery is what it was, or that is said: by file, before anything starts."""

import json
import os
import shutil

import pytest

from trainables.errors import InvalidInput
from tune_srgan.store import fingerprint
from tune_srgan.store.fingerprint import changes_of, hold_imagery
from tune_srgan.store.study_folder import StudyFolder


@pytest.fixture
def study(tmp_path):
    folder = StudyFolder(tmp_path / "runs" / "small")
    folder.path.mkdir(parents=True)
    files = {name: tmp_path / name for name in ("a.tif", "b.tif")}
    for name, file in files.items():
        file.write_bytes(name.encode() * 1000)
    return folder, files


def hold(study, trials=3, accept=False):
    folder, files = study
    return hold_imagery(folder, "Data.path", files, trials, accept)


def test_what_is_as_it_was_is_held_and_read_once(study, monkeypatch):
    assert hold(study, 0) == ""
    monkeypatch.setattr(fingerprint, "_sum", None)  # nothing is read again
    assert hold(study) == "" and changes_of(study[0]) == []


def test_the_same_content_written_anew_is_the_same(study, tmp_path):
    hold(study, 0)
    os.utime(study[1]["a.tif"])
    assert hold(study) == ""
    elsewhere = {name: shutil.copy(file, tmp_path / f"copy_{name}") for name, file in study[1].items()}
    assert hold((study[0], elsewhere)) == ""  # another machine has it in another place


def test_each_file_that_changed_is_named_and_nothing_is_written(study):
    folder, files = study
    hold(study, 0)
    before = folder.imagery_file.read_bytes()
    files["a.tif"].write_bytes(b"other" * 1000)
    new = files["b.tif"].with_name("c.tif")
    new.write_bytes(b"new")
    with pytest.raises(InvalidInput) as caught:
        hold((folder, {"a.tif": files["a.tif"], "c.tif": new}))
    found = [(problem.file, problem.key, problem.found) for problem in caught.value.problems]
    assert found == [
        (str(files["a.tif"]), "Data.path", "other content"),
        ("b.tif", "Data.path", "no such file any more"),
        (str(new), "Data.path", "a file that was not there"),
    ]
    assert "--accept-imagery" in caught.value.problems[0].fix
    assert folder.imagery_file.read_bytes() == before


def test_what_is_accepted_is_said_from_then_on(study):
    folder, files = study
    hold(study, 0)
    files["a.tif"].write_bytes(b"other" * 1000)
    said = hold(study, trials=5, accept=True)
    assert said.startswith("From trial 5 on the imagery is another (a.tif)")
    assert hold(study) == "" and changes_of(folder) == [said]
    assert [entry["from"] for entry in json.loads(folder.imagery_file.read_text())["since"]] == [0, 5]


def test_a_pixel_within_a_large_file_counts(study, monkeypatch):
    monkeypatch.setattr(fingerprint, "PIECE", 16)
    monkeypatch.setattr(fingerprint, "PIECES", 4)
    folder, files = study
    hold(study, 0)
    content = bytearray(files["a.tif"].read_bytes())
    content[-1] ^= 1
    files["a.tif"].write_bytes(content)
    with pytest.raises(InvalidInput):
        hold(study)
