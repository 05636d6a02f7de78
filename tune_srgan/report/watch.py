"""A study's report, printed once and written: once, or again and again while the study runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tune_srgan.report import files
from tune_srgan.report.best import write_best
from tune_srgan.report.data import report_data
from tune_srgan.report.files import Format
from tune_srgan.report.terminal import print_report
from tune_srgan.search.importance import importances
from tune_srgan.store.records import StudyRecords, read_records
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.settings import Study

WATCH_S = 10.0


def report(
    study: Study,
    folder: StudyFolder,
    records: StudyRecords,
    formats: Sequence[Format],
    out: Console,
    to: Path | None = None,
    watch: bool = False,
) -> None:
    """Print the summary and write report, best.yaml and best.pt; `watch`: until nobody drives the study any more."""
    printed = False
    while True:
        write_best(study, folder, records)
        data = report_data(study, folder, records, importances)
        if not printed:
            print_report(data, folder, out)
        for kind in formats:
            file = files.write_where_possible(data, folder, to, kind, watch)
            if not printed:
                out.print(Text(f"Report: {file}"), soft_wrap=True)
        printed = True
        if not (watch and data["running"]):
            return
        time.sleep(WATCH_S)
        folder.fetch()
        records = read_records(study, folder.every_trial())
