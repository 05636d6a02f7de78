"""A real study whose trials share a GPU: Ray, MPS, memory shares, the account of time. Skipped without a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.support.service import TUNE
from tune_srgan.cluster import mps
from tune_srgan.store.account import WAITS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SHARE = 0.25
STUDY = {
    "study": "shared",
    "training": {
        "Data": {"path": "scene.npy", "normalization": "zero_one", "crop_size": 64, "train_batch_size": 16},
        "Training": {"precision": "bf16", "adv_loss_ramp_steps": 200, "Losses": {"perceptual_weight": 0.0}},
        "Generator": {"n_blocks": 4, "n_channels": 64},
        "Discriminator": {"n_blocks": 6},
    },
    "space": {"Training.g_pretrain_steps": {"int": [500, 1500], "step": 500}},
    "objective": {"metric": "seconds_to_nash", "max_steps": 5000, "validate_every": 100},
    "search": {"trials": 4, "startup": 4},
    "resources": {"cpus": 1, "gpus": SHARE},
    "tracking": {"wandb": {"mode": "disabled"}},
}


def tune(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(TUNE), *arguments], cwd=folder, capture_output=True, text=True, timeout=240
    )


def written(folder, **training):
    np.save(folder / "scene.npy", np.random.default_rng(0).random((3, 512, 1024)).astype(np.float32))
    sections = {key: STUDY["training"][key] | training.get(key, {}) for key in STUDY["training"]}
    (folder / "shared.yaml").write_text(yaml.safe_dump(STUDY | {"training": sections}))


def test_trials_share_a_gpu(tmp_path):
    written(tmp_path)
    ran = tune(tmp_path, "run", "shared.yaml", "--address", "local")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    trials = sorted((tmp_path / "runs/shared/trials").iterdir())
    assert len(trials) == 4
    total = torch.cuda.get_device_properties(0).total_memory
    for trial in trials:
        end = json.loads((trial / "outcome.json").read_text())["end"]
        assert end in {"balanced", "exhausted", "lost"}  # of noise
        readings = [json.loads(line) for line in (trial / "readings.jsonl").read_text().splitlines()]
        assert all(0 < reading["memory/peak_gb"] < SHARE * total / 1e9 for reading in readings)
        spent = {kind: sum(reading.get(f"time/{kind}_s", 0) for reading in readings) for kind in ("train", *WAITS)}
        print(trial.name, spent)
        assert spent["report"] < 0.01 * sum(spent.values())
    print(ran.stdout[-1500:])
    if shutil.which(mps.CONTROL):
        assert (Path("/tmp") / f"tune-srgan-mps-{os.getuid()}" / "log" / "control.log").exists()  # it was used
        assert not mps._answers(mps._environment())  # and ended


def test_memory_that_does_not_suffice_fails_the_trial_and_says_what_to_change(tmp_path):
    written(tmp_path, Data={"train_batch_size": 100_000})
    checked = tune(tmp_path, "check", "shared.yaml", "--gpu")
    assert checked.returncode == 2
    assert "Data.train_batch_size 100000 and Data.crop_size 64" in checked.stderr
    ran = tune(tmp_path, "run", "shared.yaml", "--trials", "1", "--address", "local")
    assert ran.returncode == 1, ran.stdout + ran.stderr  # it was the only one
    assert "No trial trained to an end: 1 of 1 ended in an error; most said: out of GPU memory" in ran.stderr
    (trial,) = (tmp_path / "runs/shared/trials").iterdir()
    outcome = json.loads((trial / "outcome.json").read_text())
    assert outcome["end"] == "failed"
    assert "Data.train_batch_size 100000 and Data.crop_size 64" in outcome["cause"]


def test_a_rehearsal_says_what_a_trial_takes(tmp_path):
    written(tmp_path)
    checked = tune(tmp_path, "check", "shared.yaml", "--gpu")
    assert checked.returncode == 0, checked.stderr
    assert "resources.gpus of at least" in " ".join(checked.stdout.split())
    print(checked.stdout)
