"""All that is said of a study or a training before anything starts: its imagery, its sampler, what it may take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from trainables.errors import InvalidInput, Problem, located
from trainables.export import inexpressible
from trainables.merits import QUALITY
from trainables.places import is_url
from trainables.schema import Configuration
from trainables.yaml_files import read_yaml
from tune_srgan.cluster.addresses import refuse_dead
from tune_srgan.console import duration, print_warnings
from tune_srgan.store.objects import storage_at
from tune_srgan.store.studies import find_study
from tune_srgan.study.loading import Kind, kind_of, load_study
from tune_srgan.study.settings import Study
from tune_srgan.study.space import corners

if TYPE_CHECKING:
    from trainables.imagery import Imagery

FEW = 1 / 20  # of the trials: if fewer can share a pretraining, the space is probably not what was meant


def check_parts(study: Study, file: str, storage: str) -> Imagery:
    """Check what only the libraries can tell: storage, sampler, earlier studies, weights, imagery; returns the last."""
    import torch

    from trainables.imagery import load_imagery
    from tune_srgan.search.samplers import check_sampler

    with located(file):
        storage_at(study.storage)
    check_sampler(study, file)
    for name in study.search.learn_from:
        with located(file, key="search.learn_from", found=name):
            find_study(name, storage)
    with located(file):
        _check_weights(study)
    _check_figures(study, file)
    imagery = load_imagery(study.lowest(), torch.device("cpu"))
    imagery.check_test()
    return imagery


def _check_weights(study: Study) -> None:
    """Refuse perceptual metrics without their weights, and networks that the weights trials begin from are not of."""
    import torch

    from trainables.checkpoints import open_checkpoint
    from trainables.perceptual import perceptual_of

    for configuration in study.metrics():
        perceptual_of(configuration, torch.device("cpu"))
    if study.lowest().Model.begins_from is None:
        return
    configurations = [study.configuration(values) for values in corners(study.space)]
    for configuration in {(one.Generator, one.Discriminator): one for one in configurations}.values():
        open_checkpoint(configuration)


def _check_figures(study: Study, file: str) -> None:
    """Refuse figures of merit that the study is about and that no training measures."""
    import torch

    from trainables.learned import FILES, KEY, learned_of

    with located(file):
        missing = FILES.keys() - learned_of(study.lowest(), torch.device("cpu")).keys()
    objective = study.objective
    wanted = {f"objective.at_least.{figure}": figure for figure in objective.at_least}
    wanted |= {} if objective.also is None else {"objective.also": objective.also}
    problems = [
        Problem(
            file,
            key,
            figure,
            f"a figure that trainings measure; its weights are in no {KEY}",
            f"Put {' and '.join(FILES[name])} into a folder, and name it in the training's {KEY}.",
        )
        for key, figure in wanted.items()
        if (name := figure.removeprefix(QUALITY)) in missing
    ]
    if problems:
        raise InvalidInput(problems)


def check_file(file: Path, storage: str | None, gpu: bool, address: str | None, out: Console, err: Console) -> None:
    """Validate what a file describes, a study or a training, and say which of the two that is."""
    if kind_of(read_yaml(file)) is Kind.TRAINING:
        check_training(file, gpu, out, err)
    else:
        check_study(file, storage, gpu, address, out, err)


def check_training(file: Path, gpu: bool, out: Console, err: Console) -> None:
    """Validate a training and its imagery, and say what it is."""
    from trainables.checkpoints import describe
    from tune_srgan.run.single import describe_training, open_training

    configuration, imagery, warnings = open_training(file)
    weights = describe(configuration)
    if gpu:
        _refuse_without_gpu()
    print_warnings(warnings, err)
    out.print(Text(f"{file} is a valid training.", style="green"))
    out.print(f"Imagery: {imagery.describe()}", highlight=False)
    if weights:
        out.print(Text(f"Weights: {weights}"), soft_wrap=True)
    steps, every = configuration.Training.max_steps, configuration.Training.validate_every
    described = f"{describe_training(configuration)}; {steps} steps, a reading every {every}"
    out.print(f"Training: {described}.", highlight=False)
    if gpu:
        _rehearse(configuration, str(file), "", out)


def check_study(file: Path, storage: str | None, gpu: bool, address: str | None, out: Console, err: Console) -> None:
    """Validate a study and its imagery, and say what it may take. Starts no trial."""
    study, warnings = load_study(file)
    study = study.changed(None, None, storage)
    if address:
        refuse_dead(address)
    imagery = check_parts(study, str(file), study.storage)
    if gpu:
        _refuse_without_gpu()
    if study.resources.gpus and not gpu and not address and not _has_gpu():
        warnings.append("resources.gpus: trials want a GPU, and torch finds none here. With 0 they train on CPUs.")
    print_warnings([*warnings, *imagery.cautions()], err)
    search, resources = study.search, study.resources
    limits = search.budget.model_dump(exclude_none=True)
    lines = [
        f"Imagery: {imagery.describe()}",
        f"{search.trials} trials of at most {study.max_steps} steps ({search.trials * study.max_steps} in all), each "
        f"on {resources.cpus:g} CPU(s) and {resources.gpus:g} GPU(s); sampler {search.sampler}, fitted after "
        f"{search.startup} trials.",
        *(["Budget: " + ", ".join(f"{value:g} {key}" for key, value in limits.items()) + "."] if limits else []),
        f"The earliest step from which a balance can be kept: {study.earliest_balance()}.",
    ]
    out.print(Text(f"{file} is a valid study.", style="green"))
    for line in lines:
        out.print(line, highlight=False)
    if study.original is not None:
        print_warnings([f"Back in opensr-srgan: {said}" for said in inexpressible(study.lowest())], err)
    _say_what_is_shared(study, out, err)
    if gpu:
        _rehearse(study.highest(), str(file), ", at the high end of every range", out)
    if address:
        from tune_srgan.cluster import connection
        from tune_srgan.cluster.look import look_around

        connection.connect(address)
        for seen in look_around(study, study.storage if is_url(study.storage) else str(Path(study.storage).resolve())):
            out.print(Text(f"Node {seen}"), soft_wrap=True)


def _say_what_is_shared(study: Study, out: Console, err: Console) -> None:
    """How many trials may start from another's pretraining, and what that may save."""
    from tune_srgan.search.sharing import expected_savings, points_of

    if not study.search.sharing.enabled or not points_of(study):
        return
    trials = study.search.trials
    sharing, saved, total = expected_savings(study, trials)
    out.print(
        f"Of {trials} trials drawn at random, about {sharing:.0f} can start from another's pretraining and save "
        f"{saved:.0f} of {total:.0f} steps of it ({saved / max(total, 1):.0%}).",
        highlight=False,
    )
    if sharing < FEW * trials:
        warning = "search.sharing: values that act from the start hardly ever repeat: give them a step, or fix them."
        print_warnings([warning], err)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _refuse_without_gpu() -> None:
    if not _has_gpu():
        fix = "Leave --gpu out, or run it where the trials will run."
        raise InvalidInput([Problem("--gpu", "", "no GPU that torch can use", "one on this machine", fix)])


def _rehearse(configuration: Configuration, file: str, which: str, out: Console) -> None:
    """What a training takes of this machine's GPU."""
    import torch

    from trainables.imagery import load_imagery
    from trainables.rehearsal import rehearse
    from tune_srgan.run.trial import out_of_memory
    from tune_srgan.run.worker import CONTEXT_BYTES

    device = torch.device("cuda")
    try:
        took = rehearse(configuration, load_imagery(configuration, device), device)
    except torch.OutOfMemoryError as error:
        raise InvalidInput(
            [Problem(file, "Data.train_batch_size", out_of_memory(configuration, error), "a trial that fits")]
        ) from None
    total = torch.cuda.get_device_properties(device).total_memory
    assert took.peak_bytes is not None
    share = (took.peak_bytes + CONTEXT_BYTES) / total
    training = configuration.Training
    seconds = training.pretrain_steps * took.pretraining_step_s
    seconds += (training.max_steps - training.pretrain_steps) * took.game_step_s
    seconds += training.max_steps / training.validate_every * took.validation_s
    out.print(
        f"On one {torch.cuda.get_device_name(device)} ({total / 1e9:.0f} GB){which}: a training "
        f"holds {took.peak_bytes / 1e9:.1f} GB at its peak, so resources.gpus of at least {share:.2f}.\n"
        f"A step of pretraining takes {took.pretraining_step_s * 1e3:.1f} ms, one of the game "
        f"{took.game_step_s * 1e3:.1f} ms, a validation {took.validation_s:.2f} s; "
        f"{training.max_steps} steps about {duration(seconds)}, alone on the GPU.",
        highlight=False,
    )
