"""A run under opensr-srgan's names: every one of them, with the readings' values, and with opensr-srgan's own."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.support.service import TUNE, command, finish, read_back, tracked, wait_for
from tests.support.wandb_server import ENTITY, WandbServer, environment
from trainables.configuration import load_configuration
from trainables.imagery import Imagery
from trainables.names import to_opensr
from trainables.schema import Configuration
from trainables.state import State
from tune_srgan.store.trial_folder import TrialFolder
from tune_srgan.tracking import marks
from tune_srgan.tracking.lines import line_of

METRICS = ("l1", "sam", "perceptual", "tv", "psnr", "ssim")
RELATIVISTIC = {f"train_metrics/discriminator/{name}_prob_relativistic" for name in ("D(y)", "D(G(x))")}
OF_G = {"generator/content_loss", "generator/adversarial_loss", "generator/total_loss"}
OF_D = {"discriminator/D(y)_prob", "discriminator/D(G(x))_prob", "discriminator/r1_penalty"}
SPLIT = ("discriminator/adversarial_loss", "lr_generator", "lr_discriminator")  # into a step's and an epoch's
THERE = {f"{part}_metrics/{name}" for part in ("train", "val") for name in METRICS}
THERE |= {f"{name}_{part}" for name in SPLIT for part in ("step", "epoch")} | OF_G | OF_D | RELATIVISTIC
THERE |= {"training/pretrain_phase", "training/adv_loss_weight", "validation/DISC_adversarial_loss"}
THERE |= {"epoch", "trainer/global_step", "Val SR"}
TILES, BATCH, EPOCH, PRETRAINING, STEPS = 20, 2, 10, 15, 60
LOSSES = [{}, {"relativistic_average_d": True}, {"r1_gamma": 0.5}, {"adv_loss_type": "wasserstein"}]
COMPARED = 30  # steps; from there on rounding grows in the game
TRAINING = {
    "Data": {"dataset_type": "LRHRFolderDataset", "normalization": "identity", "crop_size": 32}
    | {"train_batch_size": BATCH, "val_batch_size": 64},
    "Training": {"device": "cpu", "threads": 1, "max_steps": STEPS, "validate_every": 1, "label_smoothing": True}
    | {"pretrain_g_only": True, "g_pretrain_steps": PRETRAINING, "adv_loss_ramp_steps": 5}
    | {"EMA": {"enabled": True, "decay": 0.9, "update_after_step": 4, "use_num_updates": True}}
    | {
        "Losses": {"adv_loss_beta": 0.1, "sam_weight": 0.05, "tv_weight": 0.01, "relativistic_average_d": True}
        | {"perceptual_weight": 0.0}
    },
    "Generator": {"model_type": "esrgan", "n_channels": 8, "n_blocks": 1, "growth_channels": 4},
    "Discriminator": {"model_type": "patchgan", "n_blocks": 1},
    "Optimizers": {"optim_g_lr": 1e-4, "optim_d_lr": 1e-4},
    "Schedulers": {"g_warmup_steps": 20, "g_warmup_type": "linear", "metric_g": "val_metrics/l1"}
    | {"patience_g": 50, "patience_d": 50},
    "Logging": {"num_val_images": 2, "wandb": {"enabled": True, "entity": ENTITY, "project": "names"}},
    "Nash": {"validation_pairs": 64},
}


def written(folder: Path, losses: dict[str, object] | None = None, ema: bool = True) -> Path:
    """The training's file, and tiles for it."""
    draw = np.random.default_rng(0)
    for part, count in (("train", TILES), ("val", 64)):
        for side in ("LR", "HR"):
            (folder / "tiles" / part / side).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise = draw.random((3, 32, 32)).astype(np.float32)
            hr = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) / 3
            np.save(folder / "tiles" / part / "HR" / f"{number:03d}.npy", hr)
            np.save(folder / "tiles" / part / "LR" / f"{number:03d}.npy", hr.reshape(3, 8, 4, 8, 4).mean((2, 4)))
    document = json.loads(json.dumps(TRAINING))
    document["Data"]["root_dir"] = str(folder / "tiles")
    document["Training"]["Losses"] |= {} if losses is None else {"relativistic_average_d": False} | losses
    document["Training"]["EMA"]["enabled"] = ema
    file = folder / "training.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def sent(folder: Path) -> TrialFolder:
    """A training whose run is whole."""
    trial = TrialFolder(folder / "out")
    wait_for(lambda: marks.is_done(trial), 60)
    return trial


def by_step(history: list[dict[str, object]]) -> dict[int, dict[str, object]]:
    return {int(line["_step"]): line for line in history}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A training by itself, kept offline; what it said, its readings, what was read back."""
    folder = tmp_path_factory.mktemp("offline")
    said = finish(command("train", str(written(folder)), "--out", "out", cwd=folder))
    trial = sent(folder)
    return said, trial, tracked(trial.path)


@pytest.mark.wandb
def test_every_name_of_opensr_srgan_is_logged(offline):
    _, _, (history, *_) = offline
    names = {name for line in history for name in line}
    names |= {"Val SR"} if "Val SR.path" in names else set()
    assert len(THERE) == 32
    assert names >= THERE
    assert "nash/p_y" in names


@pytest.mark.wandb
def test_what_is_logged_is_what_was_read(offline):
    _, trial, (history, *_) = offline
    readings, configuration = trial.readings(), trial.configuration()
    lines = by_step(history)
    assert list(lines) == [reading["step"] for reading in readings] == list(range(1, STEPS + 1))
    for reading in readings:
        line = lines[int(reading["step"])]
        expected = line_of(reading, configuration)
        assert {name: line[name] for name in expected} == pytest.approx(expected)
        assert expected.keys() >= reading.keys() - {"step"}


@pytest.mark.wandb
def test_steps_and_epochs_are_lightnings(offline):
    _, trial, (history, *_) = offline
    lines, readings = by_step(history), {int(reading["step"]): reading for reading in trial.readings()}
    for step, line in lines.items():
        assert line["trainer/global_step"] == step - 1
        assert line["epoch"] == (step - 1) // EPOCH
        assert line["lr_generator_step"] == pytest.approx(1e-4 * min(1.0, (step + 1) / 20))
        assert ("lr_generator_epoch" in line) is (step % EPOCH == 0)
        assert ("discriminator/adversarial_loss_step" in line) is (step > PRETRAINING)
        if step > PRETRAINING:  # readings of one step each: their means are its values
            assert line["discriminator/adversarial_loss_step"] == readings[step]["discriminator/adversarial_loss"]
            assert line["lr_discriminator_step"] == pytest.approx(1e-4)
    for end in range(EPOCH, STEPS + 1, EPOCH):
        of_epoch = [lines[step] for step in range(end - EPOCH + 1, end + 1)]
        for name in SPLIT:
            there = [line[f"{name}_step"] for line in of_epoch if f"{name}_step" in line]
            assert (f"{name}_epoch" in lines[end]) is bool(there)
            if there:
                assert lines[end][f"{name}_epoch"] == pytest.approx(np.mean(there))


@pytest.mark.wandb
def test_the_averaged_generators_state_is_logged_as_documented(offline):
    _, _, (history, *_) = offline
    for step, line in by_step(history).items():
        assert (line["EMA/enabled"], line["EMA/decay"], line["EMA/update_after_step"]) == (1, 0.9, 4)
        assert line["EMA/use_num_updates"] == 1
        assert line["EMA/is_active"] == float(step > 4)
        assert line["EMA/steps_until_activation"] == max(0, 4 - step)
        assert line["EMA/num_updates"] == max(0, step - 4)
        assert ("EMA/last_decay" in line) is (step > 4)
        if step > 4:
            assert line["EMA/last_decay"] == pytest.approx(min(0.9, (1 + step - 4) / (10 + step - 4)))


@pytest.mark.wandb
def test_relativistic_probabilities_stand_beside_plain_ones(offline):
    _, _, (history, *_) = offline
    for line in history:
        plain, relative = (
            (
                {name: line[f"{prefix}{name}_prob{suffix}"] for name in ("D(y)", "D(G(x))")}
                for prefix, suffix in (("discriminator/", ""), ("train_metrics/discriminator/", "_relativistic"))
                if f"{prefix}D(y)_prob{suffix}" in line
            )
            if line["_step"] > PRETRAINING
            else ({}, {})
        )
        assert plain.keys() == relative.keys()
        assert line["_step"] <= PRETRAINING or plain != relative


@pytest.mark.wandb
def test_each_validations_pictures_are_in_the_run_and_nowhere_else(offline):
    _, trial, (history, *_) = offline
    files = next(trial.tracker.glob("wandb/offline-run-*/files"))
    for step, line in by_step(history).items():
        with Image.open(files / str(line["Val SR.path"])) as image:
            # two pairs, framed, of LR | SR | HR; in the end the sheet with bicubic and pretrained images as well
            assert image.size == ((5 if step == STEPS else 3) * 34, 2 * 34)
    assert sorted(path.name for path in trial.tracker.iterdir()) == ["done", "lock", "log", "wandb"]


@pytest.mark.wandb
def test_the_run_holds_the_settings_and_the_outcome_and_the_command_says_where_it_is(offline):
    said, trial, (_, summary, config, tags) = offline
    assert config["Optimizers.optim_g_lr"] == 1e-4
    assert config["Training.Losses.relativistic_average_d"] is True
    assert summary["outcome"] == trial.outcome()["end"]
    assert summary["steps/executed"] == STEPS
    assert trial.outcome()["end"] in tags
    assert "wandb sync out/tracker/wandb/offline-run-*" in said


@pytest.mark.wandb
def test_a_training_that_was_interrupted_goes_on_in_its_run(tmp_path, monkeypatch):
    server = WandbServer()
    environment(server.url, monkeypatch)
    file, trial = written(tmp_path), TrialFolder(tmp_path / "out")

    def train() -> subprocess.Popen[str]:
        arguments = [sys.executable, str(TUNE), "train", str(file), "--out", "out"]
        return subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    first = train()
    wait_for(lambda: trial.exists() and trial.last_step() >= 10, 60)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert trial.outcome() is None
    wait_for(lambda: [run.exit_code for run in server.runs.values()] == [1])
    said, _ = train().communicate(timeout=120)
    wait_for(lambda: marks.is_done(trial), 60)
    [run] = server.runs.values()
    assert (run.project, run.job_type, run.display_name, run.group) == ("names", "train", "out", "")
    assert (run.exit_code, run.complete, run.sweep) == (0, 2, None)
    assert run.steps_of("lr_generator_step") == run.steps_of("Val SR") == list(range(1, STEPS + 1))
    assert run.steps_of("lr_generator_epoch") == list(range(EPOCH, STEPS + 1, EPOCH))
    assert f"{server.url}/{ENTITY}/names/runs/{run.name}" in said
    server.stop()


@pytest.mark.parametrize(
    ("enabled", "mode", "expected"),
    [
        (False, "", "disabled"),
        (True, "", "online"),
        (True, "offline", "offline"),
        (True, "dryrun", "offline"),
        (True, "disabled", "disabled"),
    ],
)
def test_the_file_and_wandbs_own_variable_say_whether_a_training_is_tracked(monkeypatch, enabled, mode, expected):
    monkeypatch.setenv("WANDB_MODE", mode)
    settings = Configuration().Logging.wandb.model_copy(update={"enabled": enabled, "entity": "lab"})
    found = marks.tracking_of(settings)
    assert (found.mode, found.project, found.entity) == (expected, "tune-srgan", "lab")
    assert marks.tracking_of(settings.model_copy(update={"project": "gans"})).project == "gans"


def test_a_file_that_wants_no_tracking_leaves_nothing_of_it(tmp_path):
    document = yaml.safe_load(written(tmp_path).read_text())
    document["Logging"]["wandb"]["enabled"] = False
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(document))
    said = finish(command("train", "training.yaml", "--out", "out", cwd=tmp_path))
    assert "Weights & Biases" not in said
    assert not (tmp_path / "out" / "tracker").exists()


@pytest.mark.wandb
@pytest.mark.parametrize("loss", ["bce", "wasserstein"])
def test_a_training_that_can_keep_no_balance_is_tracked_all_the_same(tmp_path, loss):
    file = written(tmp_path)
    document = yaml.safe_load(file.read_text())
    document["Training"] |= {"max_steps": 12, "g_pretrain_steps": 5}
    document["Training"]["Losses"] |= {"relativistic_average_d": False, "adv_loss_type": loss}
    file.write_text(yaml.safe_dump(document))
    finish(command("train", str(file), "--out", "out", cwd=tmp_path))
    assert sorted(by_step(tracked(sent(tmp_path).path)[0])) == list(range(1, 13))


def in_opensr_srgan(folder: Path, configuration: Configuration) -> list[dict[str, object]]:
    """The same training there, from the same weights with the same batches, under Lightning; its run, read back."""
    lightning, omegaconf = pytest.importorskip("pytorch_lightning"), pytest.importorskip("omegaconf")
    model_of = pytest.importorskip("opensr_srgan.model.SRGAN").SRGAN_model
    from pytorch_lightning.loggers import WandbLogger

    told = configuration.model_dump(include={"Training", "Generator", "Discriminator", "Optimizers", "Schedulers"})
    told["Training"] |= {"max_epochs": COMPARED // EPOCH, "val_check_interval": 0.5, "limit_val_batches": 1.0}
    told["Training"]["adv_loss_ramp_steps"] *= 2  # it counts two a batch in the game
    told["Data"] = {"train_batch_size": BATCH, "val_batch_size": 64, "dataset_type": "LRHRFolderDataset"}
    told["Data"]["normalization"] = "identity"
    told["Model"] = {"in_bands": 3, "continue_training": False, "load_checkpoint": False}
    told["Logging"] = {"num_val_images": 1, "wandb": {"enabled": True, "entity": None, "project": "names"}}
    state, imagery = State(configuration, torch.device("cpu")), Imagery(configuration, torch.device("cpu"))
    discriminator, _ = state.drawn_discriminator("D", configuration.Optimizers.optim_d_lr)
    model = model_of(omegaconf.OmegaConf.create(told))
    model.generator.load_state_dict(to_opensr(state.generator, configuration.Generator))
    model.discriminator.load_state_dict(to_opensr(discriminator, configuration.Discriminator))
    batches = [imagery.batch(configuration.Training.seed, "train", step, BATCH) for step in range(COMPARED)]

    class EpochByEpoch(torch.utils.data.Sampler[int]):
        begun = 0

        def __len__(self) -> int:
            return EPOCH

        def __iter__(self):
            self.begun += EPOCH
            return iter(range(self.begun - EPOCH, self.begun))

    held_out = torch.utils.data.TensorDataset(imagery.pairs.lr, imagery.pairs.hr)
    logger = WandbLogger(project="names", save_dir=folder, offline=True)
    trainer = lightning.Trainer(
        max_epochs=COMPARED // EPOCH, val_check_interval=0.5, log_every_n_steps=1, num_sanity_val_steps=0,
        logger=logger, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(
            model,
            torch.utils.data.DataLoader(batches, batch_size=None, sampler=EpochByEpoch()),
            torch.utils.data.DataLoader(held_out, batch_size=64),
        )
    logger.experiment.finish()
    return read_back(folder)[0]


@pytest.mark.peer
@pytest.mark.parametrize("losses", LOSSES, ids=str)
def test_the_values_are_those_that_opensr_srgan_logs(tmp_path, monkeypatch, losses):
    pytest.importorskip("opensr_srgan")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, losses, ema=False)  # its average starts from weights that nobody trained
    finish(command("train", str(file), "--out", "out", cwd=tmp_path))
    ours = by_step(tracked(sent(tmp_path).path)[0])
    theirs = in_opensr_srgan(tmp_path, load_configuration(file))
    names = {name for line in theirs for name in line if not name.startswith(("_", "Val SR."))} | {"Val SR"}
    assert names == THERE - (set() if "relativistic_average_d" in losses else RELATIVISTIC)
    worst: dict[str, float] = {}
    for line in theirs:
        step = int(line["trainer/global_step"]) + 1
        for name in line.keys() & THERE:
            of_game = name.startswith(("discriminator/", "lr_discriminator", "validation/"))
            # it logs zeros of what does not exist before the game; an epoch may hold steps of both
            if of_game and step - (EPOCH if name.endswith("_epoch") else 1) < PRETRAINING:
                continue
            if name == "validation/DISC_adversarial_loss" and step == PRETRAINING:
                continue
            far = abs(ours[step][name] - line[name]) / max(abs(line[name]), 1e-6)
            worst[name] = max(worst.get(name, 0.0), far)
    told = {name: f"{far:.0e}" for name, far in sorted(worst.items())}
    assert names - {"Val SR"} == worst.keys()
    print(os.linesep, json.dumps(told))
    assert max(worst.values()) < 1e-3, told
