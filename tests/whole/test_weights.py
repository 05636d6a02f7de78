"""The commands with weights from elsewhere: what fits not is refused at once; opensr-srgan's can upscale."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tests.support.studies import small, write
from tests.support.tiny import BASE, tiny
from tests.whole.test_commands import cut, geotiff, invoke
from trainables import lightning
from trainables.configuration import load_configuration
from trainables.dotted import with_values
from trainables.state import State
from tune_srgan.study.loading import load_study

CPU = torch.device("cpu")
THERE = {"Training.EMA.enabled": True, "Data.normalization": "normalise_10k", "Generator.bicubic_skip": False}
THERE |= {"Generator.block_type": "standard", "Discriminator.norm": True, "Discriminator.per_patch": True}
THERE |= {"Discriminator.input_range": None}


@pytest.fixture
def theirs(tmp_path):
    """A folder with a checkpoint as opensr-srgan writes it, and its training's file."""
    document = with_values(BASE, THERE)
    file = write(tmp_path, document, "theirs.yaml")
    state = State(load_configuration(file), CPU)
    state.step = 3
    for weight in state.averaged.parameters():
        weight.add_(0.01)  # so that it is another one than the generator that is trained
    lightning.write(state, tmp_path / "last.ckpt")
    return tmp_path, state


def test_an_image_is_upscaled_with_opensr_srgans_averaged_weights(theirs):
    folder, state = theirs
    source = geotiff(folder / "in.tif", cut(24, 20).astype(np.float32), None)
    for weights in ("last.ckpt", "bare.pt", "own.pt"):
        target = folder / f"{weights}.tif"
        if weights == "bare.pt":
            torch.save(torch.load(folder / "last.ckpt", weights_only=True)["state_dict"], folder / weights)
        if weights == "own.pt":  # the checkpoint of a training here
            state.scale = [0.0, 10000.0]
            state.save(folder / weights)
        said = invoke("upscale", source, target, "--weights", folder / weights, "--config", folder / "theirs.yaml")
        assert said.exit_code == 0, said.stderr
        assert "80×96 px" in said.stdout
        scale = 10000.0
        network = state.generator if weights == "bare.pt" else state.averaged
        with torch.no_grad():
            seen = torch.from_numpy(cut(24, 20)[None].astype(np.float32) / scale).clamp(0, 1)  # as normalise_10k does
            expected = network.eval()(seen)[0].clamp(0, 1).numpy() * scale
        with rasterio.open(target) as high:
            assert high.read() == pytest.approx(expected, abs=2e-3)


def test_a_checkpoint_alone_says_what_is_missing_and_a_winner_needs_no_file(theirs):
    folder, state = theirs
    source, target = geotiff(folder / "in.tif", cut(8, 8)), folder / "out.tif"
    said = invoke("upscale", source, target, "--weights", folder / "last.ckpt")
    assert (said.exit_code, said.stderr.count("error")) == (2, 1)
    assert "found opensr-srgan's weights; expected the training's YAML beside it, with --config" in flat(said.stderr)
    content = {"generator": state.generator.state_dict(), "configuration": state.configuration.model_dump_json()}
    torch.save(content | {"low": 0.0, "high": 1.0}, folder / "best.pt")
    said = invoke("upscale", source, target, "--weights", folder / "best.pt", "--config", folder / "theirs.yaml")
    assert said.exit_code == 2 and "Leave --config out." in flat(said.stderr)
    assert not target.exists()


def test_functions_that_weights_name_run_only_where_their_users_file_names_them(theirs, monkeypatch):
    folder, state = theirs
    (folder / "stretch.py").write_text("open('ran', 'w')\ndef up(x): return x / 100\ndef down(x): return x * 100\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    custom = {"name": "custom", "normalize": "stretch:up", "denormalize": "stretch:down"}
    configuration = state.configuration
    data = configuration.Data.model_validate(configuration.Data.model_dump() | {"normalization": custom})
    configuration = configuration.model_copy(update={"Data": data})
    content = {"generator": state.generator.state_dict(), "configuration": configuration.model_dump_json()}
    torch.save(content | {"low": 0.0, "high": 1.0}, folder / "best.pt")
    source, target = geotiff(folder / "in.tif", cut(8, 8).astype(np.float32), None), folder / "out.tif"
    said = invoke("upscale", source, target, "--weights", folder / "best.pt")
    assert said.exit_code == 2 and "a normalisation of functions, which a file of weights must not" in flat(said.stderr)
    assert not (folder / "ran").exists() and not target.exists()
    file = write(folder, with_values(BASE, THERE | {"Data.normalization": custom}), "mine.yaml")
    said = invoke("upscale", source, target, "--weights", folder / "best.pt", "--config", file)
    assert said.exit_code == 0, said.stderr
    with torch.no_grad():
        expected = state.generator.eval()(torch.from_numpy(cut(8, 8)[None].astype(np.float32) / 100))[0].numpy() * 100
    with rasterio.open(target) as high:
        assert high.read() == pytest.approx(expected, rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("normalization", ["normalise_10k", "sen2_stretch"])
def test_an_example_data_sets_network_sees_reflectances_whatever_its_normalisation_is_called(theirs, normalization):
    folder, state = theirs
    examples = THERE | {"Data.dataset_type": "ExampleDataset", "Data.normalization": normalization}
    config = write(folder, with_values(BASE, examples), "examples.yaml")
    source, target = geotiff(folder / "in.tif", cut(24, 20).astype(np.float32), None), folder / "out.tif"
    said = invoke("upscale", source, target, "--weights", folder / "last.ckpt", "--config", config)
    assert said.exit_code == 0, said.stderr
    with torch.no_grad():
        seen = torch.from_numpy(cut(24, 20)[None].astype(np.float32) / 10000)  # and nothing is clamped
        expected = state.averaged.eval()(seen)[0].numpy() * 10000
    with rasterio.open(target) as high:
        assert high.read() == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("changes", "said"), [
    ({"Generator.n_channels": 8}, "net.conv_block1.conv_block.0.weight is (4, 3, 3, 3) instead of (8, 3, 3, 3)"),
    ({"Data.normalization": "percentiles"}, "found percentiles, which are those of the training's imagery"),
    ({"Generator.bicubic_skip": True}, "Generator.bicubic_skip: true is this project's own"),
])  # fmt: skip
def test_another_file_than_that_of_the_training_is_refused(theirs, changes, said):
    folder, _ = theirs
    source = geotiff(folder / "in.tif", cut(8, 8))
    other = write(folder, with_values(BASE, THERE | changes), "other.yaml")
    told = invoke("upscale", source, folder / "out.tif", "--weights", folder / "last.ckpt", "--config", other)
    assert told.exit_code == 2 and said in flat(told.stderr)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_check_and_train_say_what_a_training_begins_from(theirs):
    folder, _ = theirs
    document = with_values(BASE, THERE | {"Model.load_checkpoint": "last.ckpt", "Training.pretrain_g_only": False})
    file = write(folder, document, "mine.yaml")
    said = invoke("check", file)
    assert said.exit_code == 0, said.stderr
    weights = "the generator's averaged weights; the discriminator's, too."
    assert f"Weights: {folder / 'last.ckpt'}: {weights}" in said.stdout
    (folder / "last.ckpt").unlink()
    for command in (("check", file), ("train", file, "--out", folder / "out")):
        said = invoke(*command)
        assert said.exit_code == 2
        assert flat(said.stderr).startswith(f"error {folder / 'last.ckpt'}: Model.load_checkpoint: found no such file")
    assert not (folder / "out").exists()


def own(folder: Path, **dotted: object) -> str:
    """A best.pt of the small study's network."""
    document = with_values(small()["training"], dotted)
    configuration = tiny(**{f"{section}.{key}": value for section in ("Data", "Generator", "Discriminator")
                            for key, value in document[section].items()})  # fmt: skip
    content = {"generator": State(configuration, CPU).generator.state_dict()}
    torch.save(
        content | {"configuration": configuration.model_dump_json(), "low": 0.0, "high": 1.0}, folder / "best.pt"
    )
    return str(folder / "best.pt")


def test_a_study_begins_from_weights_that_all_networks_of_its_space_fit(tmp_path):
    own(tmp_path)
    document = with_values(small(), {"training.Model.load_checkpoint": "best.pt", "storage": str(tmp_path / "runs")})
    said = invoke("check", write(tmp_path, document))
    assert said.exit_code == 0, said.stderr
    study = load_study(tmp_path / "study.yaml")[0]
    assert study.lowest().Model.load_checkpoint == str(tmp_path / "best.pt")
    document["space"]["Generator.n_blocks"] = {"choice": [1, 2]}
    del document["training"]["Generator"]["n_blocks"]
    said = invoke("check", write(tmp_path, document))
    assert said.exit_code == 2 and "trunk.1.first.conv.weight is missing" in flat(said.stderr)


def test_a_study_of_trainings_that_go_on_is_refused(tmp_path):
    document = with_values(small(), {"training.Model.continue_training": "last.ckpt"})
    said = invoke("check", write(tmp_path, document))
    assert said.exit_code == 2
    assert "training: Model.continue_training: found a training that goes on" in flat(said.stderr)
    assert "Model.load_checkpoint" in flat(said.stderr)


def test_a_file_on_this_machine_alone_is_warned_of_where_a_cluster_trains(tmp_path):
    from tune_srgan.cluster.remote import only_here

    own(tmp_path)
    document = with_values(small(), {"training.Model.load_checkpoint": "best.pt"})
    (warning,) = only_here(load_study(write(tmp_path, document))[0])
    assert warning.startswith(f"Model.load_checkpoint: {tmp_path / 'best.pt'} is on this machine")
    document = with_values(small(), {"training.Data.test_path": "best.pt"})
    (warning,) = only_here(load_study(write(tmp_path, document))[0])
    assert warning.startswith(f"Data.test_path: {tmp_path / 'best.pt'} is on this machine")


def test_a_node_that_does_not_see_the_weights_is_named(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    from trainables.errors import InvalidInput
    from tune_srgan.cluster import look
    from tune_srgan.store.objects import storage_at

    own(tmp_path)
    document = with_values(small(), {"training.Model.load_checkpoint": "best.pt"})
    study, address = load_study(write(tmp_path, document))[0], str(tmp_path / "runs")
    storage_at(address).write(f"{look.LOOKS}/word", b"word")
    assert look._look(study, address, "word", "node")
    (tmp_path / "best.pt").unlink()
    monkeypatch.setattr(look.socket, "gethostname", lambda: "node7")
    with pytest.raises(InvalidInput, match=r"Model.load_checkpoint: found no such file \(on node7\).*every node sees"):
        look._look(study, address, "word", "node")
