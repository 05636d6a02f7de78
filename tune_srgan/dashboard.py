"""optuna-dashboard over a study: each trial's page with its outcome, its images and where its record is."""

from __future__ import annotations

import socket

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from trainables.errors import InvalidInput, Problem
from tune_srgan.live import ending
from tune_srgan.records import UNFINISHED, StudyFolder
from tune_srgan.searcher import Searcher
from tune_srgan.study import Study
from tune_srgan.tracking import address_of


def serve(study: Study, folder: StudyFolder, port: int) -> None:
    """Serve on loopback until interrupted."""
    store = annotate(study, folder)
    from optuna_dashboard import run_server

    run_server(folder.optuna_url, host="127.0.0.1", port=port, artifact_store=store)


def check(port: int) -> None:
    """The library is there and the port is free; one clear error otherwise."""
    try:
        import optuna_dashboard  # noqa: F401
    except ImportError:
        fix = "Install it: pip install optuna-dashboard."
        raise InvalidInput([Problem("dashboard", "", "no optuna-dashboard", "the library", fix)]) from None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            found = f"port {port}, which cannot be used ({error.strerror})"
            raise InvalidInput([Problem("--port", "", found, "a free port", "Name another with --port.")]) from None


def annotate(study: Study, folder: StudyFolder) -> FileSystemArtifactStore:
    """Write every ended trial's note and image into the database; returns where the images are kept."""
    from optuna_dashboard import save_note

    records = folder.records(study)
    Searcher(study, records, folder.optuna_url, folder.optuna_name)  # the database says what the records say
    images = folder.path / "images"
    images.mkdir(exist_ok=True)
    store = FileSystemArtifactStore(str(images))
    kept = optuna.load_study(study_name=folder.optuna_name, storage=folder.optuna_url)
    known = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(kept)}
    for record in records:
        if record.end == UNFINISHED:
            continue
        trial, seen = folder.trial(record.number), kept.trials[record.number]
        lines = [f"**{ending(record)}**", "", f"Proposed by {record.proposed_by}. Record: `{trial.path}`."]
        if run := address_of(trial):
            lines.append(f"Weights & Biases: [{run}]({run})")
        if trial.samples.exists():
            name = f"trial-{trial.path.name}.png"
            if name not in known:  # a trial that has ended takes no files; its study does
                (images / name).write_bytes(trial.samples.read_bytes())
                known[name] = upload_artifact(artifact_store=store, file_path=str(images / name), study_or_trial=kept)
            lines += ["", f"![samples](/artifacts/{kept._study_id}/{known[name]})"]
        save_note(optuna.trial.Trial(kept, seen._trial_id), "\n".join(lines))
    return store
