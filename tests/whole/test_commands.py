"""The commands: wrong input is answered at once and starts nothing; `train` does what it says."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine
from typer.testing import CliRunner

from tests.support import service
from tests.support.service import ROOT, wait_for
from tests.support.studies import PATIENCE, loaded, open_study, small, write
from tests.support.tiny import OWN
from trainables.balance import Ruler, judge
from trainables.places import SAMPLE
from tune_srgan import commands
from tune_srgan.commands import app
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder
from tune_srgan.store.trial_folder import TrialFolder

ORIGIN = Affine(30, 0, 500_000, 0, -30, 4_000_000)


def geotiff(file, image, nodata=0):
    """Write (bands, H, W) with a georeference; returns the file's name."""
    profile = {"count": image.shape[0], "height": image.shape[1], "width": image.shape[2], "dtype": image.dtype.name}
    with rasterio.open(file, "w", driver="GTiff", crs="EPSG:32621", transform=ORIGIN, nodata=nodata, **profile) as out:
        out.write(image)
    return str(file)


def cut(rows, columns):
    """A part of the shipped sample, (3, rows, columns), with no nodata in it."""
    with rasterio.open(SAMPLE) as scene:
        image = scene.read(window=((400, 400 + rows), (400, 400 + columns)))
    assert image.all()
    return image


def python(*arguments, cwd=ROOT, said=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, input=said, capture_output=True, text=True
    )


LIGHT = """
import sys
from typer.testing import CliRunner
import tune_srgan
for arguments in (["--help"], ["status", "nothing"], ["check", "nothing.yaml"], ["run", "nothing.yaml"]):
    from tune_srgan.commands import app
    print(CliRunner().invoke(app, arguments).exit_code, end=" ")
print({"torch", "ray", "optuna", "wandb"} & set(sys.modules))
"""


def test_what_needs_no_heavy_library_loads_none():
    assert python("-c", LIGHT).stdout == "0 2 2 2 set()\n"


def test_the_environment_may_say_where_studies_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_study(StudyFolder(tmp_path / "kept" / "small"), loaded(tmp_path))
    assert invoke("status", "small").exit_code == 2
    monkeypatch.setenv("TUNE_SRGAN_STORAGE", str(tmp_path / "kept"))
    assert invoke("status", "small").exit_code == 0
    assert invoke("status", "small", "--storage", "elsewhere").exit_code == 2


@pytest.mark.parametrize(
    ("joined", "gpus", "file"),
    [
        ("10.0.0.1:6379", True, "srgan.yaml"),
        ("10.0.0.1:6379", False, "quickstart.yaml"),
        (None, True, "quickstart.yaml"),
    ],
)
def test_without_a_study_it_depends_on_the_cluster(monkeypatch, joined, gpus, file):
    pytest.importorskip("ray")
    from tune_srgan.cluster import connection, nodes

    connected, ran = connection.Connection(joined, cpus=2), []
    monkeypatch.setattr(connection, "connect", lambda address: connected)
    monkeypatch.setattr(nodes, "has_gpus", lambda: gpus)
    monkeypatch.setattr(commands, "run_file", lambda *arguments, **options: ran.append((*arguments, options)))
    monkeypatch.setenv("TUNE_SRGAN_STORAGE", "s3://bucket/studies")
    assert invoke().exit_code == 0
    [(path, trials, concurrent, address, storage, options)] = ran
    assert (path.name, trials, concurrent, address) == (file, None, None, None)
    assert storage == "s3://bucket/studies"
    assert options == {"connected": connected}


def test_help_lists_the_commands():
    done = python("tune.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("run", "check", "status", "resume", "report", "best", "train", "upscale", "clean"):
        assert f" {command} " in done.stdout


# Runs every command line in one process, as `tune.py` would: exit code, stderr, whether Ray was loaded.
ANSWERS = """
import contextlib, io, json, sys, traceback
from tune_srgan.commands import main
answers = {}
for name, arguments in json.load(sys.stdin).items():
    sys.argv, code = ["tune.py", *arguments], 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.print_exc() or 1
    answers[name] = [code, said.getvalue(), "ray" in sys.modules]
json.dump(answers, sys.stdout)
"""


def put(*place, **values):
    """An edit of the study: put values into the mapping at a place in it."""
    return lambda study: functools.reduce(dict.__getitem__, place, study).update(values)


def imagery(file):
    return put("training", "Data", path=file)


def at_test_path(file):
    return put("training", "Data", test_path=file)


WRONG = {  # what is done to the small study, the file and the key that are named
    "unknown key": (put("search", trails=3), "unknown key.yaml", "search.trails"),
    "wrong type": (put("search", trials="many"), "wrong type.yaml", "search.trials"),
    "project that W&B refuses": (
        put(tracking={"wandb": {"project": "a/b"}}),
        "project that W&B refuses.yaml",
        "tracking.wandb.project",
    ),
    "empty range": (put("space", PATIENCE, int=[9, 3]), "empty range.yaml", f"space.{PATIENCE}"),
    "object store": (put(storage="nowhere://bucket/runs"), "object store.yaml", "storage"),
    "missing imagery": (imagery("nowhere.tif"), "nowhere.tif", "Data.path"),
    "missing test imagery": (at_test_path("nowhere.tif"), "nowhere.tif", "Data.test_path"),
    "test imagery that is seen": (at_test_path(str(SAMPLE)), SAMPLE, "Data.test_path"),
    "corrupt imagery": (imagery("corrupt.tif"), "corrupt.tif", "Data.path"),
    "small imagery": (imagery("small.tif"), "small.tif", "Data.crop_size"),
    "empty imagery": (imagery("empty.tif"), "empty.tif", "Data.path"),
    "another band count": (imagery("one_band.tif"), "one_band.tif", "Model.in_bands"),
    "name of another search": (put(study="taken"), "runs/taken/study.yaml", "study"),
    "unwritable storage": (put(storage="file/runs"), "file/runs/small", "storage"),
}
FOUND_BY_RUN_ALONE = ("name of another search", "unwritable storage")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The folder where every wrong input was given, and each one's exit code, stderr, and whether Ray was loaded."""
    folder, lines = tmp_path_factory.mktemp("wrong"), {"resume": ["resume", "nothing"]}
    noise = np.random.default_rng(0).integers(1, 1000, (3, 64, 64), dtype=np.uint16)
    geotiff(folder / "small.tif", noise[:, :12, :12])
    geotiff(folder / "empty.tif", noise * 0)
    geotiff(folder / "one_band.tif", noise[:1])
    (folder / "corrupt.tif").write_bytes(SAMPLE.read_bytes()[:20_000])
    (folder / "file").write_text("no folder")
    taken = small() | {"study": "taken"}
    taken["space"][PATIENCE] = {"int": [2, 30]}
    open_study(StudyFolder(folder / "runs" / "taken"), loaded(folder, taken))
    for name, (edit, _, _) in WRONG.items():
        document = small()
        edit(document)
        file = write(folder, document, f"{name}.yaml")
        lines |= {f"run: {name}": ["run", str(file)], f"check: {name}": ["check", str(file)]}
    done = python("-c", ANSWERS, cwd=folder, said=json.dumps(lines))
    assert done.stderr == ""
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_answered_before_anything_starts(answers, name):
    folder, said = answers
    _, file, key = WRONG[name]
    for command in ("run",) if name in FOUND_BY_RUN_ALONE else ("run", "check"):
        code, text, ray_loaded = said[f"{command}: {name}"]
        assert (code, ray_loaded) == (2, False), f"{command}: {text}"
        assert text.startswith(f"error {folder / file}: {key}: found ")
        assert text.count("\n") == 1  # one message, no traceback


def test_there_is_nothing_to_resume(answers):
    code, text, ray_loaded = answers[1]["resume"]
    assert (code, ray_loaded) == (2, False)
    assert (
        text
        == "error nothing: found no study; expected a study's folder, URL, file or name. Studies in runs/: taken.\n"
    )


def test_wrong_input_leaves_nothing_behind(answers):
    runs = answers[0] / "runs"
    assert sorted(str(file.relative_to(runs)) for file in runs.rglob("*")) == ["taken", "taken/study.yaml"]
    assert study_in(StudyFolder(runs / "taken")).space[PATIENCE].bounds == (2, 30)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


TRAINING = {
    "Data": {"path": "scene.tif", "crop_size": 16, "train_batch_size": 4},
    "Training": {"max_steps": 100, "validate_every": 2, "g_pretrain_steps": 8, "adv_loss_ramp_steps": 8, "threads": 1}
    | OWN["Training"],
    "Generator": OWN["Generator"] | {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3},
    "Discriminator": OWN["Discriminator"] | {"model_type": "patchgan", "n_blocks": 2, "base_channels": 4},
    "Nash": {"validation_pairs": 64},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a scene, training.yaml, and in out/ the finished training; what `train` said."""
    folder = tmp_path_factory.mktemp("train")
    geotiff(folder / "scene.tif", cut(160, 224))
    return folder, invoke("train", write(folder, TRAINING, "training.yaml"), "--out", folder / "out")


def test_a_training_leaves_its_records(trained):
    folder, said = trained
    trial = TrialFolder(folder / "out")
    assert said.exit_code == 0
    steps, outcome = [int(reading["step"]) for reading in trial.readings()], trial.outcome()
    assert steps == list(range(2, outcome["trained_steps"] + 1, 2))
    assert outcome["end"] in {"balanced", "lost", "exhausted"}
    assert trial.checkpoint.stat().st_size > 0
    with Image.open(trial.samples) as sheet:
        assert (sheet.mode, sheet.size) == (
            "RGB",
            (5 * 18, 5 * 18),
        )  # LR | bicubic | after pretraining | at the end | HR, framed; 5 pairs
    saved = torch.load(trial.path / "best.pt", weights_only=True)
    assert saved["step"] == outcome["trained_steps"]
    assert saved["low"] < saved["high"]


def test_a_training_says_whether_the_balance_was_kept(trained):
    folder, said = trained
    trial = TrialFolder(folder / "out")
    verdict = judge(trial.readings(), Ruler.of(trial.configuration()))
    assert verdict.over
    assert ("Balance kept from step" in said.stdout) == verdict.kept
    assert (f"Balance not kept: {trial.outcome()['end']} at step 100" in said.stdout) != verdict.kept


def test_a_training_is_judged_again_with_other_numbers(trained):
    folder, _ = trained
    trial = TrialFolder(folder / "out")
    verdict = judge(trial.readings(), Ruler.of(trial.configuration()))
    said = invoke("judge", trial.path)
    assert said.exit_code == 0, said.exception
    assert ("Kept from step" in said.stdout) == verdict.kept
    assert "#" in said.stdout or "." in said.stdout
    lax = ("probability_tolerance=1", "rank_tolerance=0.5", "control_auc=0.500001", "kept=0.01", "last_required=0")
    said = invoke("judge", trial.path, *(word for change in lax for word in ("--nash", change)), "--nash", "window=2",
                  "--nash", "required=1", "--nash", "latest=1", "--nash", "psnr_slack_db=90")  # fmt: skip
    assert "Kept from step" in said.stdout
    assert "Ruler other than the default: " in said.stdout


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--nash", "kept=2"], "kept: found 2"),
        (["--nash", "kpet=1"], "'kept'"),
        (["--nash", "x"], "x"),
        (["--nash", "window=5"], "required: found 9"),
        (["--nash", "last=5"], "last_required: found 8"),
    ],
)
def test_a_wrong_number_of_the_ruler_is_one_clear_error(trained, arguments, key):
    said = invoke("judge", trained[0] / "out", *arguments)
    assert said.exit_code == 2
    assert said.stderr.startswith("error --nash: ")
    assert key in said.stderr


def test_what_cannot_be_judged_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", tmp_path / "no.parquet"):
        said = invoke("judge", place)
        assert (said.exit_code, "expected the folder of a trial" in said.stderr) == (2, True)
    (tmp_path / "a.parquet").write_text("no table")
    assert "no table of recorded trainings" in invoke("judge", tmp_path / "a.parquet").stderr


def test_a_training_that_has_ended_is_not_trained_again(trained):
    folder, _ = trained
    files = [folder / "out" / name for name in ("readings.jsonl", "outcome.json", "checkpoint.pt", "samples.png")]
    before = [file.stat().st_mtime_ns for file in files]
    said = invoke("train", folder / "training.yaml", "--out", folder / "out")
    assert said.exit_code == 0
    assert "has ended already" in said.stdout
    assert [file.stat().st_mtime_ns for file in files] == before


def test_another_training_into_the_same_folder_is_refused(trained):
    folder, _ = trained
    other = TRAINING | {"Training": TRAINING["Training"] | {"g_pretrain_steps": 12}}
    said = invoke("train", write(folder, other, "other.yaml"), "--out", folder / "out")
    assert said.exit_code == 2
    found = "found another training (Training.g_pretrain_steps is 8 there and 12 here); expected"
    assert f"{folder / 'out'}: --out: {found}" in said.stderr


def test_a_training_does_not_write_into_a_studys_trial(trained, tmp_path):
    trial = TrialFolder(tmp_path / "00000")
    trial.create({}, "startup", loaded(tmp_path, small()).lowest())
    said = invoke("train", trained[0] / "training.yaml", "--out", trial.path)
    assert (said.exit_code, "--out: found a trial's folder" in said.stderr) == (2, True)


def test_a_training_that_explodes_without_a_nan_hands_out_no_generator(trained, tmp_path):
    rates = {"Optimizers": {"optim_g_lr": 1.0}, "Schedulers": {"g_warmup_type": "none"}}
    said = invoke("train", write(trained[0], TRAINING | rates, "explodes.yaml"), "--out", tmp_path / "out")
    ended = TrialFolder(tmp_path / "out").outcome()
    assert (said.exit_code, ended["end"]) == (1, "ruined")
    assert ended["trained_steps"] == 100  # it may recover until its end
    assert not (tmp_path / "out" / "best.pt").exists()


def test_two_trainings_in_one_folder_never_mix_and_one_that_was_killed_is_followed(trained, tmp_path):
    folder, out = trained[0], tmp_path / "out"
    longer = TRAINING | {"Training": TRAINING["Training"] | {"max_steps": 1000, "checkpoint_every": 1}}
    arguments = ["train", str(write(folder, longer, "longer.yaml")), "--out", str(out)]
    first = service.command(*arguments, cwd=tmp_path)
    try:
        wait_for(lambda: TrialFolder(out).exists() and TrialFolder(out).last_step() >= 10, 120)
        second = service.command(*arguments, cwd=tmp_path)
        _, err = second.communicate(timeout=120)
        assert second.returncode == 2, err
        assert f"found a training that process {first.pid} of {socket.gethostname()} is running" in err
    finally:
        first.kill()
        first.communicate()
    before = TrialFolder(out).last_step()
    third = service.command(*arguments, cwd=tmp_path)
    try:
        wait_for(lambda: TrialFolder(out).last_step() > before, 120)
    finally:
        third.send_signal(signal.SIGINT)
        third.communicate(timeout=60)
    assert third.returncode == 130
    steps = [json.loads(line)["step"] for line in (out / "readings.jsonl").read_text().splitlines()]
    assert steps == list(range(2, 2 * len(steps) + 1, 2))  # none twice, none missing


def test_a_training_without_sample_images_ends_too(trained, tmp_path):
    folder, _ = trained
    document = TRAINING | {"Logging": {"num_val_images": 0}}
    said = invoke("train", write(folder, document, "plain.yaml"), "--out", tmp_path / "out")
    assert said.exit_code == 0, said.exception
    assert TrialFolder(tmp_path / "out").outcome() is not None
