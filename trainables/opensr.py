"""opensr-srgan's training files, read as they are meant there: aliases, fallbacks, interpolation, its units.

`translated` brings a file's sections into this project's keys and units, once. `filled` adds the defaults that depend
on other keys, of every training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from trainables.data_settings import DataSettings
from trainables.dotted import copied, drop, flatten, value_at, with_values
from trainables.errors import Problem, nearest
from trainables.kinds import EXAMPLE_FILES, EXAMPLES, HELD_OUT_EXAMPLES, Kind, spelled
from trainables.places import is_url, resolve_path
from trainables.schema import Configuration
from trainables.taco import count_of_pairs, trained_within

EPOCHS = "Training.max_epochs"  # required there, null in this project's files: whoever states it counts as they do
MOVED = {  # a key there, and what it is here; the one here counts where both stand
    "Data.dataset_root": ("Data.root_dir",),
    "Data.batch_size": ("Data.train_batch_size", "Data.val_batch_size"),
    "Training.g_warmup_steps": ("Schedulers.g_warmup_steps",),  # as the guide once writes it
    "Training.perceptual_loss_weight": ("Training.Losses.perceptual_weight",),
    "Schedulers.metric": ("Schedulers.metric_g", "Schedulers.metric_d"),
    "Schedulers.gradient_clip_val": ("Optimizers.gradient_clip_val",),
}
WITHOUT_MEANING = {  # keys there that do nothing here, and why
    "Training.find_unused_parameters": "a training here is of one GPU",
    "Training.EMA.device": "the average is where the training is",
    "Training.Losses.content_loss_weight": "there it is printed and no more",
    "Training.Losses.perceptual_loss_weight": "there it is printed and no more",
    "Schedulers.verbose": "nothing reads it there either",
    "Logging.output_dir": "`--out` names the folder of a training here",
}


def _named(**aliases: str) -> dict[str, str]:
    """Every alias, without case, blanks, hyphens and underscores, with the name it stands for."""
    return {alias: name for name, of in aliases.items() for alias in (name, *of.split())}


BLOCKS = _named(
    standard="srresnet vanilla classic default basic",
    res="residual resblocks",
    rcab="attention channelattention",
    rrdb="dense residualinresidual",
    lka="largekernel",
    plain="",
)
NETWORKS = _named(
    srresnet="", esrgan="rrdbnet", stochasticgan="stochastic cgan conditionalcgan conditionalgan"
)  # and a block's name: an SRResNet of such blocks
NAMES: dict[str, dict[str, str]] = {  # of keys whose values are names
    "Generator.block_type": BLOCKS,
    "Discriminator.model_type": _named(standard="", patchgan="", esrgan=""),
    "Training.Losses.adv_loss_type": _named(bce="", wasserstein=""),
    "Training.Losses.adv_loss_schedule": _named(linear="", cosine=""),
    "Training.Losses.perceptual_metric": _named(vgg="", lpips="", laplacian=""),
    "Training.device": _named(auto="", cuda="gpu", cpu=""),
}
OFF = {"Model.continue_training", "Model.load_checkpoint"}  # null, "" and false are one
BY_KIND = {  # a key's default by another key's value
    "Generator.n_blocks": ("Generator.model_type", {"esrgan": 23}),
    "Discriminator.n_blocks": ("Discriminator.model_type", {"patchgan": 3}),
}
FOLLOWS = {  # a key's default is another key's value
    "Schedulers.patience_d": "Schedulers.patience_g",
    "Schedulers.factor_d": "Schedulers.factor_g",
}
LEAST_RATE = 1e-6  # of D, where the file is silent: half of G's rate, and no less


@dataclass
class Translated:
    """A file's sections in this project's keys and units; what a person should know of it, and what is wrong."""

    nested: dict[str, Any]
    said: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def counts_as_there(document: Mapping[str, Any]) -> bool:
    """Tell whether a file is in opensr-srgan's units: it states epochs, as that project requires."""
    epochs = value_at(document, EPOCHS)
    return isinstance(epochs, int | float) and not isinstance(epochs, bool)


def translated(
    document: Mapping[str, Any], file: str, folder: Path, decided: Mapping[str, str] | None = None
) -> Translated:
    """Translate a training file's sections; those that are this project's already stay as they are.

    `decided`: keys of this project that a study decides, and what it says of each.
    """
    found = Translated(copied(document))
    theirs = counts_as_there(found.nested)
    _interpolate(found, file)
    _move(found, file)
    _take_names(found)
    _take_out(found)
    _refuse_older(found, file)
    _refuse_kinds(found, file)
    if theirs:
        _convert(found, folder, decided or {})
    return found


def filled(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return sections with the defaults that depend on other keys, as opensr-srgan has them."""
    missing: dict[str, Any] = {}
    for key, (decider, defaults) in BY_KIND.items():
        chosen = value_at(nested, decider)
        if value_at(nested, key) is None and isinstance(chosen, str) and chosen in defaults:
            missing[key] = defaults[chosen]
    for key, other in FOLLOWS.items():
        if value_at(nested, key) is None and (value := value_at(nested, other)) is not None:
            missing[key] = value
    rate = value_at(nested, "Optimizers.optim_g_lr")
    if value_at(nested, "Optimizers.optim_d_lr") is None and isinstance(rate, float | int):
        missing["Optimizers.optim_d_lr"] = max(rate / 2, LEAST_RATE)
    whole = with_values(nested, {key: value for key, value in missing.items() if _section(nested, key)})
    flat = flatten(whole)
    for key in BY_KIND:  # a null is the schema's default where no kind has its own
        if key in flat and flat[key] is None:
            drop(whole, key)
    return whole


def _section(nested: Mapping[str, Any], key: str) -> bool:
    """Whether a key can be put in: its section is one, or is not there."""
    return isinstance(nested.get(key.partition(".")[0], {}), Mapping)


def _interpolate(found: Translated, file: str) -> None:
    """Put in what `${Generator.n_channels}` names, as OmegaConf does."""
    flat = flatten(found.nested)

    def value_of(key: str, text: str, seen: tuple[str, ...]) -> Any:
        if whole := re.fullmatch(r"\$\{([^${}]+)\}", text.strip()):
            return looked_up(key, whole[1].strip(), seen)
        return re.sub(r"\$\{([^${}]+)\}", lambda match: str(looked_up(key, match[1].strip(), seen)), text)

    def looked_up(key: str, name: str, seen: tuple[str, ...]) -> Any:
        dots = len(name) - len(name.lstrip("."))
        sections = key.split(".")
        target = ".".join([*sections[: len(sections) - dots], name.lstrip(".")]) if dots else name
        if target in seen or target not in flat:
            raise LookupError(f"${{{name}}}")
        value = flat[target]
        return value_of(target, value, (*seen, target)) if isinstance(value, str) and "${" in value else value

    for key, value in flat.items():
        if isinstance(value, str) and "${" in value:
            try:
                found.nested = with_values(found.nested, {key: value_of(key, value, (key,))})
            except LookupError as error:
                asked = str(error.args[0])
                fix = nearest(asked.strip("${}"), list(flat))
                found.problems.append(Problem(file, key, f"{asked}, which names no value", "the name of a key", fix))
                drop(found.nested, key)


def _move(found: Translated, file: str) -> None:
    """Bring values to their keys of this project."""
    for key, targets in MOVED.items():
        section, _, name = key.rpartition(".")
        holder = value_at(found.nested, section)
        if not (isinstance(holder, dict) and name in holder):
            continue
        flat = flatten(found.nested)
        value = flat[key]
        drop(found.nested, key)
        for target in targets:
            if value is None or not _section(found.nested, target):
                continue
            if key == "Training.g_warmup_steps" and flat.get(target, value) != value:
                said = f"{value}, and {target} is {flat[target]}"
                found.problems.append(Problem(file, key, said, "one value", f"Keep {target}."))
            elif flat.get(target) is None:
                found.nested = with_values(found.nested, {target: value})


def _take_names(found: Translated) -> None:
    """Values that are names, in this project's spelling; what is none stays, for the schema to refuse."""
    changed: dict[str, Any] = {}
    network = value_at(found.nested, "Generator.model_type")
    if isinstance(network, str):
        name = _plain(network)
        if name not in NETWORKS and name in BLOCKS:
            changed |= {"Generator.model_type": "srresnet", "Generator.block_type": BLOCKS[name]}
        else:
            changed["Generator.model_type"] = NETWORKS.get(name, network)
    for key, names in NAMES.items():
        value = value_at(found.nested, key)
        if isinstance(value, str) and key not in changed:
            changed[key] = names.get(_plain(value), value)
    if value_at(found.nested, "Training.device") == "":
        changed["Training.device"] = "auto"
    curve = value_at(found.nested, "Schedulers.g_warmup_type")
    if isinstance(curve, str):
        changed["Schedulers.g_warmup_type"] = _plain(curve) if _plain(curve) in {"linear", "cosine"} else "none"
        if changed["Schedulers.g_warmup_type"] == "none" and _plain(curve) != "none":
            found.said.append(f"Schedulers.g_warmup_type: '{curve}' is no curve, so there is no warm-up, as there.")
    flat = flatten(found.nested)
    changed |= {key: False for key in OFF if key in flat and flat[key] in (None, "")}
    if "Generator.block_type" in flat and flat["Generator.block_type"] is None:
        drop(found.nested, "Generator.block_type")
    if "Training.seed" in flat and flat["Training.seed"] is None:
        changed["Training.seed"] = 0
        found.said.append("Training.seed: null draws anew every time there; here the seed is 0.")
    ramp = flat.get("Training.adv_loss_ramp_steps")
    if isinstance(ramp, int) and ramp < 0:
        changed["Training.adv_loss_ramp_steps"] = 0
    found.nested = with_values(found.nested, changed)


def _take_out(found: Translated) -> None:
    """Keys that have no meaning here, each with a word."""
    flat = flatten(found.nested)
    for key, why in WITHOUT_MEANING.items():
        if key in flat:
            drop(found.nested, key)
            found.said.append(f"{key}: {flat[key]} does nothing here: {why}.")
    out, bands = flat.get("Generator.out_channels"), flat.get("Model.in_bands")
    if out is not None and out == bands:  # any other number is left for the schema to refuse
        drop(found.nested, "Generator.out_channels")


def _refuse_older(found: Translated, file: str) -> None:
    """This project's files of before 2026-11-27 meant networks that have names now."""
    of_d = found.nested.get("Discriminator")
    if isinstance(of_d, dict) and "input_range" in of_d and "norm" not in of_d:
        fix = (
            "An older file means Discriminator.norm: false, per_patch: false, Generator.block_type: plain and, "
            "for esrgan, inner_residual: true: add them, or take input_range out."
        )
        found.problems.append(Problem(file, "Discriminator.norm", "nothing beside input_range", "true or false", fix))


def _refuse_kinds(found: Translated, file: str) -> None:
    """Data sets that opensr-srgan's files name and nobody has built, with what to do instead."""
    kind = value_at(found.nested, "Data.dataset_type")
    if isinstance(kind, str) and spelled(kind) not in get_args(Kind):
        fix = "Put tiles into {train,val}/{LR,HR} and use LRHRFolderDataset, or name scenes in Data.path (`scenes`)."
        expected = "one of " + ", ".join(get_args(Kind))
        found.problems.append(Problem(file, "Data.dataset_type", f"'{kind}'", expected, fix))
        drop(found.nested, "Data.dataset_type")


def _convert(found: Translated, folder: Path, decided: Mapping[str, str]) -> None:
    """Lengths in this project's units: steps, each one update of G."""
    flat = flatten(found.nested)
    changed: dict[str, Any] = {EPOCHS: None}
    if flat.get("Training.device") == "cuda":
        changed["Training.device"] = "auto"
        device = decided.get("Training.device")
        takes = f"does nothing, since {device}" if device else "takes a GPU where there is one, and the CPU elsewhere"
        found.said.append(f"Training.device: cuda {takes}.")
    pretraining = flat.get("Training.g_pretrain_steps", 0) if flat.get("Training.pretrain_g_only") else 0

    def halved(key: str, before: int, why: str) -> None:
        value = flat.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > before:
            changed[key] = before + math.ceil((value - before) / 2)
            found.said.append(f"{key}: {value} there, {why}, are {changed[key]} steps here.")

    halved("Training.adv_loss_ramp_steps", 0, "where each batch of the game counts two")
    if isinstance(pretraining, int) and pretraining >= 0:
        halved("Training.EMA.update_after_step", pretraining, "where each batch of the game counts two")
    label = flat.get("Training.label_smoothing")
    if label is not None and not isinstance(label, bool):
        changed["Training.label_smoothing"] = bool(label)
        found.said.append(f"Training.label_smoothing: {label} labels real images {0.9 if label else 1.0}, as there.")
    changed |= _lengths(flat, found, folder, decided)
    kept = {key for key in ("Training.val_check_interval", "Training.limit_val_batches") if key in flat}
    found.nested = with_values(found.nested, changed | dict.fromkeys(kept))


def _lengths(flat: Mapping[str, Any], found: Translated, folder: Path, decided: Mapping[str, str]) -> dict[str, Any]:
    """Epochs and their shares as steps, where it is known how many tiles there are."""
    epochs, interval = flat[EPOCHS], flat.get("Training.val_check_interval")
    tiles, size = tiles_of(flat, folder), flat.get("Data.train_batch_size", 8)
    changed: dict[str, Any] = {}
    batches = math.ceil(tiles / size) if tiles and isinstance(size, int) and size > 0 else None
    told: list[tuple[str, object, str, Callable[[], int]]] = [
        (EPOCHS, epochs, "Training.max_steps", lambda: int(epochs) * (batches or 0)),
        ("Training.val_check_interval", interval, "Training.validate_every", lambda: _share(interval, batches or 0)),
    ]
    for key, value, target, steps in told:
        if value is None or not isinstance(value, int | float):
            continue
        if target in decided or flat.get(target) is not None:
            said = f"does nothing, since {decided.get(target, f'{target} is {flat.get(target)}')}"
        elif batches or (key != EPOCHS and isinstance(value, int)):
            changed[target] = max(1, steps())
            of = f" of {batches} batches ({tiles} tiles)" if batches else ""
            said = f"{of} are {changed[target]} steps ({target})".strip()
        else:
            default = Configuration.model_fields["Training"].default.model_dump()[target.partition(".")[2]]
            why = "crops are cut from scenes at random"
            if spelled(flat.get("Data.dataset_type", "scenes")) != "scenes":
                why = "how many tiles there are is not known before they are read"
            said = f"says nothing here, since {why}: set {target}, or it is {default}"
        found.said.append(f"{key}: {value} {said}.")
    limit = flat.get("Training.limit_val_batches")
    if limit is not None:
        judged = "Nash.validation_pairs says how many images are judged"
        found.said.append(f"Training.limit_val_batches: {limit} does nothing here: {judged}.")
    return changed


def _share(interval: object, batches: int) -> int:
    """Lightning's `val_check_interval`: whole batches, or a share of an epoch."""
    if isinstance(interval, int):
        return interval
    assert isinstance(interval, float)
    return int(interval * batches)


def tiles_of(flat: Mapping[str, Any], folder: Path) -> int | None:
    """Count the pairs that are trained on, of a data set of tiles; None where a look at its folder does not tell."""
    kind = spelled(flat.get("Data.dataset_type"))
    place = flat.get("Data.sen2naip_taco_file" if kind == "SEN2NAIP" else "Data.root_dir")
    if kind == "ExampleDataset":
        place = place or EXAMPLES
    if not isinstance(place, str) or is_url(place):
        return None
    try:
        root = Path(resolve_path(place, folder))
        if kind == "LRHRFolderDataset":
            return sum(file.is_file() for file in (root / "train" / "LR").iterdir())
        if kind == "ExampleDataset":
            return max(0, len(list(root.glob(EXAMPLE_FILES))) - HELD_OUT_EXAMPLES)
        if kind == "SEN2NAIP" and (pairs := count_of_pairs(root)):
            share = flat.get("Data.sen2naip_val_fraction", DataSettings().sen2naip_val_fraction)
            return trained_within(pairs, share) if isinstance(share, float) else None
    except (OSError, ValueError):
        return None
    return None


def _plain(value: str) -> str:
    """A name without case, blanks, hyphens and underscores, by which it is matched."""
    return re.sub(r"[ _-]", "", value.strip().lower())
