"""No key is accepted and does nothing without a word: what a warning names changes nothing, everything else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.images import tiff
from tests.support.perceptual import write_published
from tests.support.studies import loaded, small, write
from tests.support.tiny import BASE, begun, everything, textured, tiny
from trainables.configuration import PLACES, build_configuration
from trainables.dotted import flatten, with_values
from trainables.errors import InvalidInput
from trainables.schema import Configuration, roles_of
from trainables.sections import MACHINE, UNREAD
from trainables.trainer import train
from trainables.unread import READ_IF, READ_WHEN, unread
from tune_srgan.study.loading import load_study

KEYS = list(flatten(Configuration().model_dump()))
STEPS = 24
# with a network that sees three bands, its weights drawn at random: with VGG19 to its second convolution
SEEN = {"Training.Losses.perceptual_weight": 0.5, "Training.Losses.perceptual_weights": "weights"}
SEEN |= {"TruncatedVGG.i": 1, "TruncatedVGG.j": 2}
FIVE = {"Model.in_bands": 5, "Data.path": "five.npy"}
# Of each key that is searched or fixed: another value, and what else must be set for it to be read.
OTHER: dict[str, tuple[object, dict[str, object]]] = {
    "Data.dataset_type": ("LRHRFolderDataset", {"Data.root_dir": "pairs"}),
    "Data.path": ("other.npy", {}),
    "Data.root_dir": ("others", {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "pairs"}),
    "Data.bands": (["c", "b", "a"], {"Data.path": "bands", "Data.bands": ["a", "b", "c"]}),
    "Data.hr_names": ("turned/{}", {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "pairs"}),
    "Data.lr_names": ("low/{}", {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "pairs"}),
    "Data.include": (["other.npy"], {"Data.path": "many"}),
    "Data.exclude": (["other.npy"], {"Data.path": "many"}),
    "Data.lr_scale": ([0.0, 0.5], {"Data.dataset_type": "LRHRFolderDataset", "Data.root_dir": "pairs"}),
    "Data.normalization": ("identity", {}),
    "Data.percentiles": ([1.0, 99.0], {}),
    "Data.scale": ([0.1, 0.9], {"Data.normalization": "scale", "Data.scale": [0.0, 1.0]}),
    "Data.nodata": (0.0, {"Data.path": "zeros.npy"}),
    "Data.crop_size": (24, {}),
    "Data.val_fraction": (0.4, {}),
    "Data.val_side": ("left", {}),
    "Data.train_batch_size": (3, {}),
    "Data.val_batch_size": (5, {}),
    "Model.in_bands": (1, {}),
    "Model.load_checkpoint": ("training.pt", {}),
    "Model.continue_training": ("training.pt", {}),
    "Training.max_steps": (120, {}),
    "Training.validate_every": (1, {}),
    "Training.pretrain_g_only": (False, {}),
    "Training.g_pretrain_steps": (6, {}),
    "Training.adv_loss_ramp_steps": (8, {}),
    "Training.label_smoothing": (False, {}),
    "Training.seed": (1, {}),
    "Training.EMA.enabled": (True, {}),
    "Training.EMA.decay": (0.5, {"Training.EMA.enabled": True, "Training.EMA.use_num_updates": False}),
    "Training.EMA.update_after_step": (6, {"Training.EMA.enabled": True}),
    "Training.EMA.use_num_updates": (False, {"Training.EMA.enabled": True}),
    "Training.Losses.adv_loss_beta": (0.5, {}),
    "Training.Losses.adv_loss_schedule": ("linear", {}),
    "Training.Losses.l1_weight": (2.0, {}),
    "Training.Losses.sam_weight": (0.5, {}),
    "Training.Losses.tv_weight": (0.5, {}),
    "Training.Losses.perceptual_weight": (0.5, {"Training.Losses.perceptual_metric": "laplacian"}),
    "Training.Losses.perceptual_metric": ("laplacian", SEEN),
    "Training.Losses.perceptual_weights": ("other weights", SEEN),
    "Training.Losses.fixed_idx": ([3, 0, 3], SEEN | FIVE),
    "TruncatedVGG.i": (2, SEEN),
    "TruncatedVGG.j": (1, SEEN),
    "Training.Losses.max_val": (2.0, {}),
    "Training.Losses.ssim_win": (7, {}),
    "Generator.model_type": ("esrgan", {}),
    "Generator.large_kernel_size": (5, {}),
    "Generator.small_kernel_size": (5, {}),
    "Generator.n_channels": (6, {}),
    "Generator.n_blocks": (2, {}),
    "Generator.scaling_factor": (2, {}),
    "Generator.growth_channels": (3, {"Generator.model_type": "esrgan"}),
    "Generator.res_scale": (0.5, {"Generator.model_type": "esrgan"}),
    "Generator.use_icnr": (True, {}),
    "Generator.block_type": ("res", {}),
    "Generator.noise_dim": (7, {"Generator.model_type": "stochasticgan"}),
    "Generator.inner_residual": (True, {"Generator.model_type": "esrgan", "Generator.growth_channels": 3}),
    "Discriminator.norm": (True, {}),
    "Discriminator.per_patch": (True, {}),
    "Training.Losses.adv_loss_type": ("wasserstein", {"Training.label_smoothing": False}),
    "Training.Losses.relativistic_average_d": (True, {}),
    "Training.Losses.r1_gamma": (3.0, {}),
    "Generator.bicubic_skip": (False, {}),
    "Discriminator.model_type": ("standard", {}),
    "Discriminator.n_blocks": (1, {}),
    "Discriminator.use_spectral_norm": (False, {}),
    "Discriminator.base_channels": (6, {}),
    "Discriminator.linear_size": (16, {"Discriminator.model_type": "standard"}),
    "Discriminator.input_range": (2.0, {}),
    "Optimizers.optim_g_lr": (2e-3, {}),
    "Optimizers.optim_d_lr": (2e-3, {}),
    "Optimizers.gradient_clip_val": (0.01, {}),
    "Optimizers.betas": ([0.0, 0.9], {}),
    "Optimizers.eps": (1e-3, {}),
    "Optimizers.weight_decay_g": (0.1, {}),
    "Optimizers.weight_decay_d": (0.1, {}),
    "Schedulers.g_warmup_steps": (4, {"Schedulers.g_warmup_type": "linear"}),
    "Schedulers.g_warmup_type": ("linear", {"Schedulers.g_warmup_steps": 4}),
    "Schedulers.metric_g": ("val_metrics/psnr", {"Schedulers.patience_g": 0}),
    "Schedulers.metric_d": ("nash/rank", {"Schedulers.patience_d": 0}),
    "Schedulers.patience_g": (0, {"Schedulers.threshold": 0.9}),
    "Schedulers.patience_d": (0, {"Schedulers.threshold": 0.9}),
    "Schedulers.factor_g": (0.1, {"Schedulers.patience_g": 0, "Schedulers.threshold": 0.9}),
    "Schedulers.factor_d": (0.1, {"Schedulers.patience_d": 0, "Schedulers.threshold": 0.9}),
    "Schedulers.threshold": (0.9, {"Schedulers.patience_d": 0, "Schedulers.patience_g": 0}),
    "Schedulers.cooldown": (3, {"Schedulers.patience_d": 0, "Schedulers.threshold": 0.9}),
    "Schedulers.min_lr": (9e-4, {"Schedulers.patience_d": 0, "Schedulers.threshold": 0.9}),
    "Schedulers.cut": ("both", {"Schedulers.patience_d": 0, "Schedulers.threshold": 0.9}),
    "Schedulers.armed": ("game", {"Schedulers.patience_d": 0, "Schedulers.threshold": 0.9}),
    "Nash.validation_pairs": (65, {}),
    "Nash.probability_tolerance": (0.001, {}),
    "Nash.rank_tolerance": (0.001, {}),
    "Nash.control_auc": (0.999, {}),
    "Nash.d_lr_floor": (1.0, {"Schedulers.patience_d": 0, "Schedulers.threshold": 0.9}),
    "Nash.psnr_slack_db": (0.001, {}),
}
BY_A_READER = {"Data.sen2naip_taco_file", "Data.sen2naip_val_fraction"}  # that is no part of this: test_imagery.py
OF_TEST = {"Data.test_path"}  # of imagery that no training sees: test_imagery.py
OF_MANY = ("window", "required", "kept", "latest", "last", "last_required", "pace", "exploitability")
JUDGED_LATER = {f"Nash.{key}" for key in OF_MANY}  # of many readings: test_balance.py
OF_MEMORY = {"Data.resident", "Data.prefetch_factor"}  # what is computed at once, and where


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder with scenes, and with pairs of low and high resolution."""
    folder = tmp_path_factory.mktemp("scenes")
    image = textured(height=128)
    np.save(folder / "scene.npy", image)
    np.save(folder / "other.npy", image[:, ::-1])
    (folder / "many").mkdir()
    np.save(folder / "many" / "scene.npy", image)
    np.save(folder / "many" / "other.npy", image[:, ::-1])
    np.save(folder / "gray.npy", image[:1])
    np.save(folder / "five.npy", textured(5, 128))
    write_published(folder / "weights")
    write_published(folder / "other weights", seed=1)
    holed = image.copy()
    holed[:, :40, :40] = 0.0
    np.save(folder / "zeros.npy", holed)
    (folder / "bands").mkdir()
    for name, band in zip("abc", image, strict=True):
        (folder / "bands" / f"scene_{name}.tif").write_bytes(tiff(band[None]))
    (folder / "examples").mkdir()
    for index in range(22):
        shown = textured(height=48, width=48, seed=index).transpose(1, 2, 0)
        np.savez(folder / "examples" / f"hr_{index}.npz", hr=shown)
    for pairs, low in (("pairs", image), ("others", image[::-1])):
        for part in ("train", "val"):
            turned = {"turned": image[:, ::-1], "low": low[:, ::-4, ::4]}
            for side, content in {"HR": image, "LR": low[:, ::4, ::4], **turned}.items():
                (folder / pairs / part / side).mkdir(parents=True)
                shown = content[..., ::-1] if part == "val" else content  # other pixels than are trained on
                np.save(folder / pairs / part / side / "a.npy", np.ascontiguousarray(shown))
    begun(**{"Training.seed": 5})[0].save(folder / "training.pt")
    return folder


# many keys are tried beside the same others
OUTCOMES: dict[str, tuple[dict[str, object], list[dict[str, float]]]] = {}


def outcome_of(folder: Path, settings: dict[str, object]) -> tuple[dict[str, object], list[dict[str, float]]]:
    """All that a short training learns and says."""
    asked = repr((folder, sorted(settings.items())))
    if asked not in OUTCOMES:
        OUTCOMES[asked] = trained(folder, settings)
    return OUTCOMES[asked]


def trained(folder: Path, settings: dict[str, object]) -> tuple[dict[str, object], list[dict[str, float]]]:
    placed = {"Data.path": "gray.npy" if settings.get("Model.in_bands") == 1 else "scene.npy"} | settings
    for key in PLACES:
        if key in placed:
            placed[key] = str(folder / str(placed[key]))
    state, imagery = begun(**placed)
    readings = []
    for reading in train(state, imagery):
        readings.append({key: value for key, value in reading.items() if not key.startswith("time/")})
        if state.step >= STEPS:
            break
    return everything(state), readings


def equal(one, other) -> bool:
    learnt = one[0].keys() == other[0].keys() and all(
        np.array_equal(np.asarray(value), np.asarray(other[0][key])) for key, value in one[0].items()
    )
    return learnt and one[1] == other[1]


def test_every_key_is_tried_or_known_for_what_it_is():
    machine = {key for key in KEYS if roles_of(key) & {MACHINE, UNREAD}}
    known = OTHER.keys() | machine | JUDGED_LATER | OF_MEMORY | BY_A_READER | OF_TEST
    assert sorted(set(KEYS) - known) == []
    assert sorted(known - set(KEYS)) == []


@pytest.mark.parametrize("key", OTHER)
def test_a_key_that_is_read_changes_what_is_trained_or_what_is_said_of_it(scenes, key):
    value, beside = OTHER[key]
    placed = with_values(BASE, beside | {key: value})
    assert key not in unread(build_configuration(placed, "test", scenes))
    if key == "Training.max_steps":  # how far it goes, not what it does
        return
    assert not equal(outcome_of(scenes, beside), outcome_of(scenes, beside | {key: value}))


EXAMPLES = {"Data.dataset_type": "ExampleDataset", "Data.root_dir": "examples"}
CRITIC: dict[str, object] = {"Training.Losses.adv_loss_type": "wasserstein"}
IDLE: dict[str, tuple[object, dict[str, object]]] = {  # the same, where another key leaves them unread
    "Data.percentiles": ([1.0, 99.0], {"Data.normalization": "identity"}),
    "Data.scale": ([0.1, 0.9], {}),
    "Data.root_dir": ("others", {}),
    "Data.bands": (["a", "b", "c"], EXAMPLES),
    "Data.hr_names": ("turned/{}", {}),
    "Data.lr_names": ("low/{}", {}),
    "Data.include": (["other.npy"], EXAMPLES),
    "Data.exclude": (["other.npy"], EXAMPLES),
    "Data.lr_scale": ([0.0, 2.0], {}),
    "Data.sen2naip_taco_file": ("pairs.taco", {}),
    "Data.sen2naip_val_fraction": (0.5, {}),
    "Data.sen2naip_phase": ("val", {}),
    "Data.normalization": ("identity", EXAMPLES),
    "Data.val_fraction": (0.4, EXAMPLES),
    "Data.val_side": ("left", EXAMPLES),
    "Training.g_pretrain_steps": (6, {"Training.pretrain_g_only": False}),
    "Training.precision": ("bf16", {"Training.device": "cpu"}),
    "Training.cuda_graphs": (False, {"Training.device": "cpu"}),
    "Training.deterministic": (False, {"Training.device": "cpu"}),
    "Training.EMA.decay": (0.5, {}),
    "Training.EMA.update_after_step": (6, {}),
    "Training.EMA.use_num_updates": (False, {}),
    "Training.Losses.adv_loss_schedule": ("linear", {"Training.adv_loss_ramp_steps": 0}),
    "Generator.block_type": ("rcab", {"Generator.model_type": "esrgan"}),
    "Generator.small_kernel_size": (5, {"Generator.model_type": "esrgan"}),
    "Generator.noise_dim": (7, {}),
    "Generator.use_icnr": (False, {"Generator.block_type": "res", "Generator.use_icnr": True}),
    "Generator.inner_residual": (True, {}),
    "Discriminator.per_patch": (False, {"Discriminator.model_type": "standard"}),
    "Discriminator.use_spectral_norm": (False, {"Discriminator.norm": True}),
    "Discriminator.base_channels": (6, {"Discriminator.norm": True}),
    "Training.label_smoothing": (0.8, CRITIC),
    "Training.Losses.relativistic_average_d": (True, CRITIC),
    "Schedulers.g_warmup_steps": (4, {"Schedulers.g_warmup_type": "none"}),
    "Generator.large_kernel_size": (5, {"Generator.model_type": "esrgan"}),
    "Generator.growth_channels": (3, {}),
    "Generator.res_scale": (0.5, {}),
    "Discriminator.n_blocks": (1, {"Discriminator.model_type": "esrgan", "Data.crop_size": 32}),
    "Discriminator.linear_size": (16, {}),
    "Data.num_workers": (4, {}),
    "Training.gpus": ([0, 1], {}),
    "Training.val_check_interval": (0.5, {}),
    "Training.limit_val_batches": (3, {}),
    "Training.Losses.perceptual_metric": ("lpips", {}),
    "Training.Losses.perceptual_weights": ("nowhere", {}),
    "Training.Losses.fixed_idx": ([0, 1, 2], {}),
    "TruncatedVGG.i": (4, {}),
    "TruncatedVGG.j": (1, {"Training.Losses.perceptual_metric": "laplacian", "Training.Losses.perceptual_weight": 0.1}),
}


def test_every_key_that_can_be_idle_is_tried():
    never = {key for key in KEYS if UNREAD in roles_of(key)}
    elsewhere = {"Data.path", "Data.prefetch_factor"}  # the sample stands in; only where scenes are not resident
    elsewhere.add("Training.max_epochs")  # by it opensr-srgan's files are known: test_opensr.py
    assert sorted((READ_WHEN.keys() | READ_IF.keys() | never) - IDLE.keys() - elsewhere) == []


@pytest.mark.parametrize("key", IDLE)
def test_a_key_that_nothing_reads_changes_nothing_and_is_said(scenes, key):
    value, beside = IDLE[key]
    warnings = unread(build_configuration(with_values(BASE, beside | {key: value}), "test", scenes))
    assert warnings[key].startswith(f"{key}: ")
    assert equal(outcome_of(scenes, beside), outcome_of(scenes, beside | {key: value}))


def test_defaults_are_never_warned_of():
    assert unread(tiny()) == {}
    assert unread(build_configuration(Configuration().model_dump(), "test", Path())) == {}


@pytest.mark.parametrize("key", ["Training.max_epochs", "Training.gpus"])
def test_what_nothing_reads_is_refused_in_a_space(tmp_path, key):
    document = small()
    document["space"][key] = {"choice": ["a", "b"]}
    with pytest.raises(InvalidInput, match=f"space.{key}: found a key that nothing here reads"):
        loaded(tmp_path, document)


def test_what_another_key_leaves_unread_is_refused_in_a_space(tmp_path):
    document = small()
    document["training"]["Training"]["pretrain_g_only"] = False
    with pytest.raises(InvalidInput, match="g_pretrain_steps: found a key that does nothing.*pretrain_g_only is false"):
        loaded(tmp_path, document)


def test_a_trainings_own_tracking_does_nothing_in_a_study_and_that_is_said_once(tmp_path):
    document = small()
    document["training"]["Logging"] = {"wandb": {"enabled": True, "entity": "lab", "project": "gans"}}
    study, warnings = load_study(write(tmp_path, document))
    assert [line for line in warnings if "wandb" in line] == [
        "Logging.wandb: does nothing in a study, whose own `tracking` decides."
    ]
    assert study.tracking.wandb.project == "tune-srgan"
    document["space"]["Logging.wandb.project"] = {"choice": ["a", "b"]}
    with pytest.raises(InvalidInput, match="space.Logging.wandb.project: found a key that defines how it is computed"):
        loaded(tmp_path, document)
