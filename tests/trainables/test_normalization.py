"""Normalisations under opensr-srgan's names, there and back; figures of version 0.5.1, run on these values."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tests.support.tiny import saved, textured, tiny
from trainables.configuration import build_configuration, dump_configuration
from trainables.data_settings import DataSettings
from trainables.errors import InvalidInput
from trainables.imagery import Imagery
from trainables.networks import Generator, upsample
from trainables.normalization import normalization_of
from trainables.unread import cautions
from trainables.yaml_files import read_yaml
from tune_srgan import load_generator, upscale

VALUES = [-2.0, 0.0, 0.1, 0.3, 1.0, 5000.0, 20000.0]
ANSWERS = [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0]
# What opensr-srgan makes of VALUES, and of ANSWERS on the way back.
RECORDED = {
    "identity": (VALUES, ANSWERS),
    "zero_one": ([0, 0, 0.1, 0.3, 1, 1, 1], [0, 0, 0, 0.5, 1, 1, 1]),
    "zero_one_signed": ([-1, -1, -0.8, -0.4, 1, 1, 1], [0, 0, 0.5, 0.75, 1, 1, 1]),
    "normalise_10k": ([0, 0, 1e-5, 3e-5, 1e-4, 0.5, 1], [0, 0, 0, 5000, 10000, 10000, 10000]),
    "normalise_10k_signed": ([-1, -1, -0.99998, -0.99994, -0.9998, 0, 1], [0, 0, 5000, 7500, 10000, 10000, 10000]),
    "sen2_stretch": ([0, 0, 1 / 3, 1, 1, 1, 1], [0, 0, 0, 0.15, 0.3, 0.6, 1]),
    "normalise_s2": ([-1, -1, -1 / 3, 1, 1, 1, 1], [0, 0, 0.15, 0.225, 0.3, 0.45, 0.9]),
}
NAMES = {name: name for name in RECORDED} | {
    **dict.fromkeys(("normalize_10k", "reflectance", "reflectance_0_1", "sentinel2", "s2"), "normalise_10k"),
    **{f"{name}_signed": "normalise_10k_signed" for name in ("normalize_10k", "reflectance", "sentinel2", "s2")},
    **{"normalize_s2": "normalise_s2", "none": "identity", "zero_to_one": "zero_one", "zero_one_range": "zero_one"},
    **{"signed_zero_one": "zero_one_signed", "minusone_one": "zero_one_signed"},
}


def of(spec, low=0.0, high=1.0, **data):
    return normalization_of(DataSettings(normalization=spec, **data), low, high)


def refused(spec):
    with pytest.raises(InvalidInput) as caught:
        build_configuration({"Data": {"normalization": spec}}, "file.yaml", Path())
    (problem,) = caught.value.problems
    assert problem.file == "file.yaml"
    return problem


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of one's own where Python finds it."""
    (tmp_path / "scaling_of_mine.py").write_text(
        "def times(x, by, plus=0.0):\n    assert x.is_floating_point()\n    return x * by + plus\n"
        "def smaller(x):\n    return x[..., 1:]\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "scaling_of_mine"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_and_its_aliases_map_as_in_opensr_srgan_there_and_back(name):
    there, back = RECORDED[NAMES[name]]
    for spelling in (name, f" {name.upper()} ", {"name": name}, {"method": name.title()}):
        found = of(spelling)
        np.testing.assert_allclose(found.normalize(torch.tensor(VALUES)), there, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(found.denormalize(torch.tensor(ANSWERS)), back, rtol=1e-7, atol=1e-7)
        assert DataSettings(normalization=spelling).normalization == NAMES[name]


@pytest.mark.parametrize("name", ["percentiles", "scale"])
def test_this_projects_own_are_linear_and_cut_nothing_off(name):
    found = of(name, 100.0, 300.0)
    assert found.normalize(torch.tensor([0.0, 100.0, 400.0])).tolist() == [-0.5, 0.0, 1.5]
    assert found.denormalize(torch.tensor([-0.5, 0.0, 1.5])).tolist() == [0.0, 100.0, 400.0]


@pytest.mark.parametrize(("kind", "expected"), [
    ("scenes", "percentiles"), ("LRHRFolderDataset", "sen2_stretch"), ("SEN2NAIP", "sen2_stretch"),
])  # fmt: skip
def test_a_silent_key_means_what_it_means_where_the_data_set_comes_from(kind, expected):
    for silent in ({}, {"normalization": None}):
        assert DataSettings(dataset_type=kind, **silent).normalization == expected


def test_a_custom_one_is_two_functions_with_arguments_in_common_and_each_its_own(module):
    spec = {"name": "Custom", "normalize": f"{module}:times", "denormalize": f"{module}.times"}
    spec |= {"kwargs": {"by": 2.0}, "normalize_kwargs": {"plus": 1.0}, "denormalize_kwargs": {"by": 5.0}}
    found = of(spec)
    assert found.normalize(torch.tensor([1.0])).tolist() == [3.0]
    assert found.denormalize(torch.tensor([1.0])).tolist() == [5.0]
    unnamed = of({"normalize": f"{module}:times", "kwargs": {"by": 2.0}, "normalize_kwargs": None})
    assert (unnamed.normalize(torch.ones(1)).item(), unnamed.denormalize(torch.ones(1)).item()) == (2.0, 1.0)


def test_a_custom_one_is_written_and_read_again(tmp_path, module):
    spec = {"name": "custom", "normalize": f"{module}:times", "kwargs": {"by": 0.5}}
    configuration = tiny(**{"Data.normalization": spec})
    (tmp_path / "a.yaml").write_text(dump_configuration(configuration))
    assert build_configuration(read_yaml(tmp_path / "a.yaml"), "a", tmp_path) == configuration
    assert cautions(configuration) == {}
    path = saved(tmp_path / "scene.npy", textured())
    found = Imagery(tiny(**{"Data.normalization": spec, "Data.path": path}), torch.device("cpu"))
    assert torch.equal(found.scenes[0].hr, torch.from_numpy(textured() * np.float32(0.5)))


@pytest.mark.parametrize(("part", "found"), [
    ({"normalize": "no_such_module:f"}, "No module named 'no_such_module'"),
    ({"normalize": "scaling_of_mine:f"}, "has no attribute 'f'"),
    ({"normalize": "scaling_of_mine:number"}, "a int"),
    ({"normalize": "times"}, "no module and function"),
    ({"normalize": "scaling_of_mine:times", "denormalize": "no_such_module.f"}, "no_such_module.f: what cannot be"),
])  # fmt: skip
def test_a_function_that_cannot_be_had_is_one_problem_that_names_its_key(module, part, found):
    problem = refused({"name": "custom"} | part)
    assert problem.key == f"Data.normalization.{list(part)[-1]}"
    assert found in problem.found


@pytest.mark.parametrize(("spec", "expected"), [
    ("normalise_10", "Did you mean 'normalise_10k'?"),
    ("custom", "name: custom, normalize: module:function"),
    ({"name": "custom"}, "`normalize: module:function`"),
    ({"foo": 1}, "not foo"),
    ({"name": "custom", "normalise": "a:b"}, "Did you mean 'normalize'?"),
    ({"normalize": "math:sqrt", "kwargs": [1]}, "kwargs: a mapping"),
    ({"name": "zero_one", "kwargs": {"a": 1}}, "'zero_one' by itself, without kwargs"),
    (5, "a valid string"),
])  # fmt: skip
def test_what_is_no_normalisation_is_one_problem_that_says_what_is(spec, expected):
    problem = refused(spec)
    assert problem.key == "Data.normalization"
    assert expected in problem.expected


@pytest.mark.parametrize(("function", "found"), [("times", "TypeError"), ("smaller", "from (3, 96, 256)")])
def test_a_function_that_fails_on_an_image_is_one_problem(tmp_path, module, function, found):
    spec = {"normalize": f"{module}:{function}"}
    path = saved(tmp_path / "scene.npy", textured())
    with pytest.raises(InvalidInput) as caught:
        Imagery(tiny(**{"Data.normalization": spec, "Data.path": path}), torch.device("cpu"))
    (problem,) = caught.value.problems
    assert problem.key == "Data.normalization.normalize"
    assert found in problem.found


@pytest.mark.parametrize("name", RECORDED)
def test_signed_ones_are_warned_of_once(name):
    told = cautions(tiny(**{"Data.normalization": name}))
    assert list(told) == (["Data.normalization"] if name.endswith("signed") or name == "normalise_s2" else [])


@pytest.mark.parametrize("name", [*RECORDED, "scale"])
def test_an_image_is_super_resolved_in_its_own_numbers(tmp_path, name):
    """By a generator that is bicubic upsampling all that is left are the way there and the way back."""
    configuration = tiny(**{"Data.normalization": name, "Data.scale": [50.0, 250.0]})
    top = {"scale": 200.0, "normalise_10k": 9000.0, "normalise_10k_signed": 9000.0}.get(name, 0.28)
    scale = {"scale": (50.0, 250.0)}.get(name, (0.0, 1.0))
    plain = Generator(3, configuration.Generator)
    torch.nn.init.zeros_(plain.last.conv.weight)
    content = {
        "generator": plain.state_dict(),
        "configuration": configuration.model_dump_json(),
        **{"low": scale[0], "high": scale[1], "step": 0},
    }
    torch.save(content, tmp_path / "best.pt")
    image = (textured(height=20, width=30) * 0.8 + 0.1) * top  # what bicubic overshoots stays above 0
    np.save(tmp_path / "in.npy", image)
    upscale(tmp_path / "in.npy", tmp_path / "best.pt", tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as written:
        found = written.read()
    expected = upsample(torch.from_numpy(image)[None], 4)[0].numpy()
    within = expected < {"normalise_10k": 1e4, "normalise_10k_signed": 1e4}.get(name, np.inf)
    assert within.mean() > 0.99
    assert np.allclose(found[within], expected[within], rtol=1e-5, atol=1e-6 * top)


def test_a_generator_of_before_knows_its_two_values(tmp_path):
    """Such a file names kinds of data sets in lower case, and has keys of its time alone."""
    configuration = json.loads(tiny(**{"Data.normalization": "normalise_10k"}).model_dump_json())
    configuration["Data"] = {"dataset_type": "lrhrfolderdataset", "root_dir": "x", "normalization": "normalise_10k"}
    content = {"generator": Generator(3, tiny().Generator).state_dict(), "configuration": json.dumps(configuration)}
    torch.save(content | {"low": 0.0, "high": 10000.0, "step": 3}, tmp_path / "best.pt")
    read = load_generator(tmp_path / "best.pt")
    assert read.configuration.Data.dataset_type == "LRHRFolderDataset"
    assert read.normalization.normalize(torch.tensor([5000.0])).item() == 0.5
