"""Which study is in a folder: read, kept, and found by what a person calls it."""

from __future__ import annotations

from pathlib import Path

from trainables.errors import InvalidInput, Problem
from trainables.places import is_url
from tune_srgan.store.layout import StudyFiles
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.study_folder import StudyFolder, study_at
from tune_srgan.study.loading import load_study
from tune_srgan.study.settings import Study

RUNS = "runs"  # the storage where nobody names one


def study_in(folder: StudyFolder) -> Study:
    """Read the study as it was started."""
    return load_study(folder.study_file)[0]


def refuse_another_search(study: Study, folder: StudyFolder) -> None:
    """Raise one clear error where a study with another search is kept under the same name."""
    if folder.study_file.exists() and not study.holds(study_in(folder)):
        fix = "Give the study another name, or another --storage; `resume` goes on with the old one."
        expected = "the same training and objective, and ranges that hold the old ones"
        raise InvalidInput(
            [Problem(str(folder.study_file), "study", f"'{study.study}' with another search", expected, fix)]
        )


def keep_study(study: Study, folder: StudyFolder) -> None:
    """Write the study down, for the one who holds its lease: another driver's trials obey what is kept."""
    refuse_another_search(study, folder)
    write_atomically(folder.study_file, study.dump())
    folder.send()


def find_study(name: str, storage: str | None = None) -> StudyFolder:
    """Find the study a person means: a folder, a URL, a study file, or a name below the storage.

    A storage that a person named goes before the one in a study file; `runs` where nobody names one.
    """
    below = storage or RUNS
    if is_url(name):
        addresses = [name]
    elif name.endswith((".yaml", ".yml")) and Path(name).is_file():
        study, _ = load_study(Path(name))
        addresses = [f"{storage or study.storage}/{study.study}"]
    else:
        addresses = [name, f"{below}/{name}"]
    for address in addresses:
        folder = study_at(address)
        try:
            folder.fetch()
        except OSError as error:
            found = f"a store that cannot be read ({str(error)[:160]})"
            fix = "Look at the URL, the credentials and the network."
            raise InvalidInput([Problem(address, "storage", found, "a store that answers", fix)]) from None
        if folder.study_file.is_file():
            return folder
    known = sorted(path.parent.name for path in Path(below).expanduser().glob(f"*/{StudyFiles.STUDY.name}"))
    fix = f"Studies in {below}/: {', '.join(known)}." if known else f"There is no study in {below}/; `run` starts one."
    raise InvalidInput([Problem(name, "", "no study", "a study's folder, URL, file or name", fix)])
