"""The commands: wrong input is answered at once and starts nothing; `train` and `upscale` do what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine
from typer.testing import CliRunner

from tests.studies import PATIENCE, VALUES, WEIGHT, loaded, small, start, write
from trainables.balance import Ruler, judge
from trainables.configuration import SAMPLE, Configuration
from trainables.networks import Generator, upsample
from tune_srgan.commands import app
from tune_srgan.records import StudyFolder, TrialFolder
from tune_srgan.upscale import upscale_image

ROOT = Path(__file__).resolve().parent.parent
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


# ------------------------------------------------------------------------------------------ what loads at all


@pytest.mark.parametrize(
    "statement", ["import tune_srgan", "import tune_srgan.commands", "run('--help')", "run('status', 'x')"]
)
def test_light_commands_load_no_heavy_library(statement):
    script = (
        "import sys\n"
        "def run(*words):\n"
        "    from tune_srgan.commands import app\n"
        "    try: app(words)\n"
        "    except SystemExit as end: print('ended', end.code)\n"
        f"{statement}\n"
        "print(sorted({'torch', 'ray', 'optuna', 'wandb'} & set(sys.modules)))"
    )  # fmt: skip
    done = python("-c", script)
    assert done.stdout.splitlines()[-1] == "[]"
    assert ("ended" in done.stdout) == ("run" in statement)


def test_help_lists_the_commands():
    done = python("tune.py", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("run", "check", "status", "resume", "report", "best", "train", "upscale", "clean"):
        assert f" {command} " in done.stdout


# ------------------------------------------------------------------------------------------ wrong input

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


def wrong_study(name, folder):
    """(document, file and key that are named, where its own file is not it) of a study with one mistake."""
    study, images = small(), folder.parent
    file, key = str(folder / "study.yaml"), None
    imagery = {
        "missing imagery": ("nowhere.tif", "Data.path"),
        "corrupt imagery": ("corrupt.tif", "Data.path"),
        "imagery smaller than a crop": ("small.tif", "Data.crop_size"),
        "all-nodata imagery": ("empty.tif", "Data.path"),
        "another band count": ("one_band.tif", "Model.in_bands"),
    }
    if name in imagery:
        file, key = str(images / imagery[name][0]), imagery[name][1]
        study["training"]["Data"]["path"] = file
    elif name == "unknown key":
        study["search"]["trails"], key = 3, "search.trails"
    elif name == "wrong type":
        study["search"]["trials"], key = "many", "search.trials"
    elif name == "empty range":
        study["space"][PATIENCE], key = {"int": [9, 3]}, f"space.{PATIENCE}"
    elif name == "searched and fixed":
        study["training"]["Schedulers"], key = {"patience_g": 3}, f"space.{PATIENCE}"
    elif name == "object store":
        study["storage"], key = "s3://bucket/runs", "storage"
    return study, file, key


CHECKED = ("unknown key", "wrong type", "empty range", "searched and fixed", "object store", "missing imagery")
CHECKED += ("corrupt imagery", "imagery smaller than a crop", "all-nodata imagery", "another band count")
NAMED = "study name already used with another space"
UNWRITABLE, NOTHING = "unwritable storage", "resume of nothing"


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Every wrong input's answer: (exit code, stderr, whether Ray was loaded, file, key, storage)."""
    images, lines, expected = tmp_path_factory.mktemp("wrong"), {}, {}
    noise = np.random.default_rng(0).integers(1, 1000, (3, 64, 64), dtype=np.uint16)
    geotiff(images / "small.tif", noise[:, :12, :12])
    geotiff(images / "empty.tif", noise * 0)
    geotiff(images / "one_band.tif", noise[:1])
    (images / "corrupt.tif").write_bytes(SAMPLE.read_bytes()[:20_000])
    for name in (*CHECKED, NAMED, UNWRITABLE):
        folder = images / name.replace(" ", "_")
        folder.mkdir()
        document, file, key = wrong_study(name, folder)
        study, storage = write(folder, document), folder / "runs"
        if name == NAMED:
            document["space"][WEIGHT]["float"] = [1.0e-3, 1.0e-1]
            StudyFolder(storage / "small").open(loaded(folder, document))
            study, file, key = write(folder, small(), "mine.yaml"), str(storage / "small" / "study.yaml"), "study"
        if name == UNWRITABLE:
            (folder / "file").write_text("no folder")
            storage = folder / "file" / "runs"
            file, key = str(storage / "small"), "storage"
        options = ["--storage", str(storage)] if name != "object store" else []
        lines[f"run: {name}"], lines[f"check: {name}"] = ["run", str(study), *options], ["check", str(study)]
        expected[f"run: {name}"], expected[f"check: {name}"] = (file, key, storage), (file, key, images / "runs")
    lines[NOTHING], expected[NOTHING] = ["resume", "nothing"], ("nothing", "found no study", images / "runs")
    done = python("-c", ANSWERS, cwd=images, said=json.dumps(lines))
    assert done.stderr == ""
    return {name: (*answer, *expected[name]) for name, answer in json.loads(done.stdout).items()}


@pytest.mark.parametrize(
    "name",
    [
        *(f"{how}: {name}" for name in CHECKED for how in ("check", "run")),
        f"run: {NAMED}",
        f"run: {UNWRITABLE}",
        NOTHING,
    ],
)
def test_wrong_input_is_answered_and_starts_nothing(answers, name):
    code, said, ray_loaded, file, key, storage = answers[name]
    assert code == 2, said
    assert said.startswith("error ")
    assert said.count("\n") == 1
    assert file in said
    assert key in said
    assert "Traceback" not in said
    assert not ray_loaded
    assert not list(storage.glob("*/trials"))
    assert storage.exists() == (NAMED in name)


def test_a_refused_study_leaves_the_one_of_its_name_alone(answers):
    folder = StudyFolder(answers[f"run: {NAMED}"][-1] / "small")
    assert folder.study().space[WEIGHT].bounds == (1.0e-3, 1.0e-1)


# ------------------------------------------------------------------------------------------ status, best


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_status_and_best_of_a_study_without_a_balance(tmp_path):
    study, folder = loaded(tmp_path), StudyFolder(tmp_path / "runs" / "small")
    folder.open(study)
    start(folder, study, 0, VALUES)
    done = invoke("status", folder.path)
    assert done.exit_code == 0
    assert "0 of 8 trials ended; best so far: none." in done.stdout
    done = invoke("best", "small", "--storage", tmp_path / "runs")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "No trial of small reached the balance." in done.stderr


# ------------------------------------------------------------------------------------------ train

TRAINING = {
    "Data": {"path": "scene.tif", "crop_size": 16, "train_batch_size": 4},
    "Training": {"max_steps": 100, "validate_every": 2, "g_pretrain_steps": 10, "adv_loss_ramp_steps": 10},
    "Generator": {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3, "bicubic_skip": True},
    "Discriminator": {"model_type": "patchgan", "n_blocks": 2, "base_channels": 4},
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
    assert outcome["end"] in {"balanced", "exhausted"}
    assert trial.checkpoint.stat().st_size > 0
    with Image.open(trial.samples) as sheet:
        assert (sheet.mode, sheet.size) == ("RGB", (4 * 18, 5 * 18))  # LR | bicubic | SR | HR, framed; 5 pairs
    saved = torch.load(trial.path / "best.pt", weights_only=True)
    assert saved["step"] == outcome["trained_steps"]
    assert saved["low"] < saved["high"]


def test_a_training_says_whether_the_balance_was_reached(trained):
    folder, said = trained
    trial = TrialFolder(folder / "out")
    verdict = judge(trial.readings(), Ruler.of(trial.configuration()))
    reached, missed = "Balance reached: steps_to_nash", "Balance not reached: exhausted at step 100"
    assert (reached in said.stdout) == verdict.reached
    assert (missed in said.stdout) != verdict.reached


def test_a_training_that_has_ended_is_not_trained_again(trained):
    folder, _ = trained
    before = (folder / "out" / "readings.jsonl").read_bytes()
    said = invoke("train", folder / "training.yaml", "--out", folder / "out")
    assert said.exit_code == 0
    assert "has ended already" in said.stdout
    assert (folder / "out" / "readings.jsonl").read_bytes() == before


def test_another_training_into_the_same_folder_is_refused(trained):
    folder, _ = trained
    other = TRAINING | {"Optimizers": {"optim_g_lr": 2.0e-4}}
    said = invoke("train", write(folder, other, "other.yaml"), "--out", folder / "out")
    assert said.exit_code == 2
    assert f"{folder / 'out'}: --out: found another training" in said.stderr


@pytest.mark.parametrize(
    ("section", "key", "value"), [("Training", "max_step", 3), ("Data", "crop_size", "big"), ("Data", "path", "no.tif")]
)
def test_a_wrong_training_is_refused_and_leaves_nothing(tmp_path, section, key, value):
    document = TRAINING | {section: TRAINING[section] | {key: value}}
    file = write(tmp_path, document, "wrong.yaml")
    said = invoke("train", file, "--out", tmp_path / "out")
    assert said.exit_code == 2
    assert said.stderr.startswith(f"error {tmp_path / 'no.tif' if key == 'path' else file}: {section}.{key}: found ")
    assert not (tmp_path / "out").exists()


def test_a_training_without_sample_images_ends_too(trained, tmp_path):
    folder, _ = trained
    document = TRAINING | {"Logging": {"num_val_images": 0}}
    said = invoke("train", write(folder, document, "plain.yaml"), "--out", tmp_path / "out")
    assert said.exit_code == 0, said.exception
    assert TrialFolder(tmp_path / "out").outcome() is not None


# ------------------------------------------------------------------------------------------ upscale


def test_an_upscaled_image_keeps_its_place_and_its_nodata(trained, tmp_path):
    image = cut(40, 56)
    image[:, :8, :12] = 0
    source, target = geotiff(tmp_path / "in.tif", image), tmp_path / "out.tif"
    said = invoke("upscale", source, target, "--weights", trained[0] / "out" / "best.pt")
    assert said.exit_code == 0
    assert "224×160 px" in said.stdout
    with rasterio.open(source) as low, rasterio.open(target) as high:
        assert (high.width, high.height, high.count) == (4 * 56, 4 * 40, 3)
        assert high.crs == low.crs
        assert high.bounds == low.bounds  # all four corners
        assert high.transform.a == low.transform.a / 4
        assert (high.dtypes, high.nodata) == (low.dtypes, low.nodata)
        sr, masks = high.read(), high.read_masks()
    assert (masks == low_mask(image)).all()
    # a hundred steps from bicubic: the picture is still there
    inside = sr[:, 48:, 64:].astype(float)
    bicubic = upsample(torch.from_numpy(image[None].astype(np.float32)), 4)[0, :, 48:, 64:].numpy()
    assert np.abs(inside - bicubic).mean() < 0.1 * bicubic.std()


def low_mask(image):
    """GDAL's mask of the image, four times as large."""
    return (image != 0).repeat(4, 1).repeat(4, 2) * 255


def test_a_dark_pixel_does_not_become_nodata(tmp_path):
    configuration = Configuration.model_validate(TRAINING)
    plain = Generator(3, configuration.Generator)
    torch.nn.init.zeros_(plain.tail[-1].weight)  # bicubic and nothing else: it overshoots below 0 at the edge
    torch.save(
        {"generator": plain.state_dict(), "configuration": configuration.model_dump_json(), "low": 0.0, "high": 9000.0},
        tmp_path / "best.pt",
    )
    image = np.full((3, 24, 24), 2, np.uint16)
    image[:, 12:] = 9000
    source, target = geotiff(tmp_path / "in.tif", image), tmp_path / "out.tif"
    assert invoke("upscale", source, target, "--weights", tmp_path / "best.pt").exit_code == 0
    with rasterio.open(target) as high:
        assert high.read_masks().all()


def inside(length, begins, ends):
    """Which of `length` low-resolution pixels lie 2 or more from where a tile begins or ends, four times as large."""
    edges = [*(range(begin, begin + 2) for begin in begins), *(range(end - 2, end) for end in ends)]
    return torch.tensor([not any(pixel in edge for edge in edges) for pixel in range(length)]).repeat_interleave(4)


def test_tiles_leave_no_seam():
    # tiles of 128 that overlap by 16, the last of them by more: rows from 0, 112, 168; columns from 0, 20
    image = torch.from_numpy(cut(296, 148)).float()
    image = (image - image.min()) / (image.max() - image.min())
    difference = (upscale_image(lambda tile: upsample(tile, 4), image, 4) - upsample(image[None], 4)[0]).abs().amax(0)
    # bicubic looks 2 pixels far, so it knows too little at a tile's edge; everywhere else tiles must not be felt
    rows, columns = inside(296, (112, 168), (128, 240)), inside(148, (20,), (128,))
    assert difference[rows][:, columns].max() < 1e-5
    # and there the tile counts for an eighth at most: under 1 % of the image's range
    assert 0 < difference.max() < 0.01


@pytest.mark.parametrize("wrong", ["IN", "bands", "OUT", "folder", "--weights", "configuration"])
def test_what_cannot_be_upscaled_is_refused(trained, tmp_path, wrong):
    source, target, weights = tmp_path / "in.tif", tmp_path / "out.tif", trained[0] / "out" / "best.pt"
    geotiff(source, cut(8, 8)[: 1 if wrong == "bands" else 3])
    source = tmp_path / "no.tif" if wrong == "IN" else source
    target = {"OUT": tmp_path / "out.jpg", "folder": tmp_path / "no" / "out.tif"}.get(wrong, target)
    weights = {"--weights": source, "configuration": trained[0] / "training.yaml"}.get(wrong, weights)
    file = {"OUT": target, "folder": target, "--weights": weights, "configuration": weights}.get(wrong, source)
    key = {"bands": "IN", "folder": "OUT", "configuration": "--weights"}.get(wrong, wrong)
    said = invoke("upscale", source, target, "--weights", weights)
    assert said.exit_code == 2, said.exception
    assert said.stderr.startswith(f"error {file}: {key}: found ")
    assert not target.exists()
