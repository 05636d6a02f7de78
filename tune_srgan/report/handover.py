"""The winner handed over to opensr-srgan: a training's file in its units, and a checkpoint that it loads."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trainables.dotted import flatten
from trainables.errors import InvalidInput, Problem
from trainables.export import inexpressible, why_not, written
from trainables.opensr import tiles_of
from trainables.outcome import End
from trainables.yaml_files import write_yaml
from tune_srgan.console import print_warnings
from tune_srgan.store.objects import write_atomically
from tune_srgan.store.records import TrialRecord
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.study.settings import Study


def write_for_opensr(
    study: Study, folder: StudyFolder, best: TrialRecord, to: Path, out: Console, err: Console
) -> None:
    """Write the winner for opensr-srgan into a folder, a training's file and a checkpoint, named after the study.

    Says both, and what cannot be said there; without the winner's checkpoint it is the file alone. InvalidInput where
    that project has no such network.
    """
    import torch

    from trainables import lightning
    from trainables.state import State

    configuration = best.trial.configuration()
    flat = flatten(configuration.model_dump())
    tiles = tiles_of(flat, Path())
    epoch = math.ceil(tiles / configuration.Data.train_batch_size) if tiles else None
    said = inexpressible(configuration)
    note = f"# The winner of study '{study.study}': trial {best.number}, for opensr-srgan.\n"
    note += "".join(f"# {sentence}\n" for sentence in said)
    file, checkpoint = (to / f"{study.study}-opensr-srgan.{suffix}" for suffix in ("yaml", "ckpt"))
    if why := why_not(configuration.Generator) or why_not(configuration.Discriminator):
        fix = "Train the study with networks that both projects have."
        raise InvalidInput([Problem(study.study, "--for", why, "a network of opensr-srgan", fix)])
    write_atomically(file, note + write_yaml(written(configuration, study.original, epoch)))
    folder.fetch(best.trial.place, heavy=True)
    files = [file]
    if best.end is End.RUINED:
        said.append("No image is left in what this trial trained: its checkpoint is not handed out.")
    elif best.trial.checkpoint.exists():
        state = State.load(best.trial.checkpoint, configuration, torch.device("cpu"))
        lightning.write(state, checkpoint, state.step // epoch if epoch else 0)
        files.append(checkpoint)
    else:
        said.append("The winner's checkpoint is not kept any more.")
    print_warnings(said, err)
    out.print(Text("Written: " + ", ".join(map(str, files)) + "."), soft_wrap=True)
