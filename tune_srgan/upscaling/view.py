"""What a person sees while images are super-resolved: how far it is, what is odd, what was written."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from tune_srgan.console import print_warnings
from tune_srgan.upscaling.files import Wishes, jobs, pick, unlike, upscale_file
from tune_srgan.upscaling.generator import checkerboard, load_generator
from tune_srgan.upscaling.source import size_of

SEEN = 0.01  # of the range: a checkerboard that is said


def upscale_shown(
    sources: list[Path], target: Path, weights: Path, config: Path | None, wishes: Wishes, out: Console, err: Console
) -> None:
    """Super-resolve files in turn, with a bar on a terminal; InvalidInput before anything starts."""
    pick(wishes.device)
    generator = load_generator(weights, config)
    found = jobs(sources, target, generator, wishes)
    print_warnings([said for job in found if (said := unlike(job, generator))], err)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        for job in found:
            task = progress.add_task(job.source.name, total=1.0)
            for share in upscale_file(job, generator, wishes):
                last = " (laying it out)" if share >= 1 and wishes.cog else ""
                progress.update(task, completed=share, description=job.source.name + last)
            progress.remove_task(task)
            width, height = size_of(job.target)
            out.print(Text(f"{job.target}: {width}×{height} px"), soft_wrap=True)
    pattern = checkerboard(generator)
    if pattern > SEEN:
        said = f"The generator draws a pattern of {generator.factor} × {generator.factor} pixels on flat ground: "
        out.print(Text(f"{said}{pattern:.1%} of the range."), soft_wrap=True)
