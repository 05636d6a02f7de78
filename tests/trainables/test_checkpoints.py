"""Weights both ways: opensr-srgan's checkpoints and ours begun from, gone on from, written; what fits not is named."""

import copy
import itertools
import pickle
from pathlib import Path

import pytest
import torch
import yaml

from tests.support.peer import (
    DISCRIMINATORS,
    GENERATORS,
    RECORDED,
    document,
    evaluated,
    image,
    made_up,
    noise,
    recorded,
)
from tests.support.tiny import begun, everything, same, tiny
from trainables import lightning
from trainables.checkpoints import describe, open_checkpoint
from trainables.configuration import build_configuration, dump_configuration, load_configuration
from trainables.dotted import with_values
from trainables.errors import InvalidInput
from trainables.imagery import load_imagery
from trainables.names import from_opensr, to_opensr
from trainables.networks import Discriminator, Generator
from trainables.places import SAMPLE
from trainables.pretraining import fingerprint, pack, unpack
from trainables.schema import Configuration
from trainables.state import DamagedCheckpoint, State
from trainables.step import _schedule, update
from trainables.trainer import train

CPU = torch.device("cpu")
LAST = RECORDED / "last.ckpt"
LOAD, CONTINUE = "Model.load_checkpoint", "Model.continue_training"
OURS = {  # what of opensr-srgan's training is said otherwise here
    "Data": {"crop_size": 32, "train_batch_size": 2, "normalization": "identity"},
    "Training.max_steps": 1000, "Training.validate_every": 2, "Training.adv_loss_ramp_steps": 1, "Training.threads": 1,
    "Nash": {"validation_pairs": 64},
}  # fmt: skip

OF_SAMPLE = {"Data.path": str(SAMPLE), "Data.normalization": "percentiles"}


def as_ours(generator, discriminator, **dotted):
    """The configuration here of what opensr-srgan trains by `document`."""
    written = document(generator, discriminator)
    for key in ("max_epochs", "gpus", "limit_val_batches", "val_check_interval"):
        del written["Training"][key]
    written["Generator"]["model_type"] = str(generator["model_type"]).replace("_", "").lower()
    return Configuration.model_validate(with_values(written, OURS | dotted))


def recorded_training(**dotted):
    return as_ours(GENERATORS["res"], DISCRIMINATORS["esrgan"], **dotted)


def content_of_last():
    return torch.load(LAST, weights_only=True)


def kept(folder, content, name="some.ckpt"):
    torch.save(content, folder / name)
    return str(folder / name)


def refused(configuration):
    """What is said of a checkpoint that a training cannot begin from."""
    with pytest.raises(InvalidInput) as caught:
        State(configuration, CPU)
    return caught.value.problems


def steps(state, count, seed=0):
    """Train so many steps on noise."""
    draw = torch.Generator().manual_seed(seed)
    factor, crop = state.configuration.Generator.scaling_factor, state.configuration.Data.crop_size
    for _ in range(count):
        if state.step == state.configuration.Training.pretrain_steps and state.discriminator is None:
            state.begin_game()
        hr = torch.rand(2, 3, crop, crop, generator=draw)
        lr = torch.nn.functional.avg_pool2d(hr, factor)
        update(state, lr, hr, torch.tensor(_schedule(state, state.step + 1), dtype=torch.float64))
        state.step += 1
    return state


@pytest.mark.parametrize("name", recorded()["generators"])
def test_a_generators_state_is_taken_gives_opensr_srgans_output_and_comes_back(name):
    known, (kind, factor) = recorded()["generators"][name], name.split(" x")
    settings = as_ours(GENERATORS[kind] | {"scaling_factor": int(factor)}, DISCRIMINATORS["patchgan"]).Generator
    network, state = Generator(3, settings), made_up(known["tensors"])
    from_opensr(network, settings, state)
    given = {"noise": noise()} if kind == "stochastic_gan" else {}
    assert evaluated(network, image(6), **given) == pytest.approx(known["output"], rel=1e-6, abs=1e-6)
    back = to_opensr(network, settings)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminators_state_is_taken_gives_opensr_srgans_output_and_comes_back(name):
    known = recorded()["discriminators"][name]
    settings = as_ours(GENERATORS["res"], DISCRIMINATORS[name]).Discriminator
    network, state = Discriminator(3, settings), made_up(known["tensors"])
    from_opensr(network, settings, state)
    assert evaluated(network, image(32)) == pytest.approx(known["output"], rel=1e-6, abs=1e-6)
    back = to_opensr(network, settings)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)


def test_a_training_begins_from_the_averaged_weights_of_opensr_srgans_checkpoint_and_from_its_discriminator():
    state, known = State(recorded_training(**{LOAD: str(LAST)}), CPU), recorded()["last.ckpt"]
    for network in (state.generator, state.averaged):
        assert evaluated(network, image(6)) == pytest.approx(known["averaged"], abs=1e-6)
    assert known["averaged"] != pytest.approx(known["trained"], abs=2e-5)
    assert state.step == 0 and not state.optimizer_g.state
    state.begin_game()
    assert evaluated(state.discriminator, image(32)) == pytest.approx(known["discriminator"], abs=1e-6)
    assert not state.optimizer_d.state
    assert "averaged weights; the discriminator's, too." in describe(state.configuration)


def test_a_game_alone_from_pretrained_weights_has_them_as_its_control():
    state = State(recorded_training(**{LOAD: str(LAST), "Training.pretrain_g_only": False, **OF_SAMPLE}), CPU)
    loaded = copy.deepcopy(state.averaged.state_dict())
    readings = list(itertools.islice(train(state, load_imagery(state.configuration, CPU)), 2))
    assert [reading["step"] for reading in readings] == [2, 4]
    assert readings[0]["training/pretrain_phase"] == 0 and "nash/control_pretrained" in readings[0]
    assert all(torch.equal(value, state.pretrained.state_dict()[name]) for name, value in loaded.items())
    assert not all(torch.equal(value, state.averaged.state_dict()[name]) for name, value in loaded.items())


def test_a_training_goes_on_where_opensr_srgans_stood():
    content = content_of_last()
    state = State(recorded_training(**{CONTINUE: str(LAST)}), CPU)
    assert state.step == 6 and content["global_step"] == 9  # 3 of pretraining, 3 of the game, which count twice there
    known = recorded()["last.ckpt"]
    assert evaluated(state.generator, image(6)) == pytest.approx(known["trained"], abs=1e-6)
    assert evaluated(state.averaged, image(6)) == pytest.approx(known["averaged"], abs=1e-6)
    weight = state.generator.head.conv.weight
    moments = content["optimizer_states"][1]["state"][0]
    assert torch.equal(state.optimizer_g.state[weight]["exp_avg_sq"], moments["exp_avg_sq"])
    assert state.optimizer_g.state[weight]["step"] == 6
    bias = state.discriminator.body[0].conv.bias  # of the second group
    first = len(content["optimizer_states"][0]["param_groups"][0]["params"])
    assert torch.equal(
        state.optimizer_d.state[bias]["exp_avg"], content["optimizer_states"][0]["state"][first]["exp_avg"]
    )
    assert state.optimizer_d.state[bias]["step"] == 3
    assert state.pretrained is None  # what it was before the game the file does not say
    assert state.plateau_g.rate == 1e-4 and state.plateau_g.cuts == 0  # 6/20 of it is the warm-up's doing
    assert state.plateau_d.state_dict()["scheduler"]["best"] == content["lr_schedulers"][0]["best"]
    assert steps(state, 2).step == 8


def test_readings_of_a_training_that_goes_on_stand_at_multiples():
    state = State(recorded_training(**{CONTINUE: str(LAST), "Training.validate_every": 4, **OF_SAMPLE}), CPU)
    readings = itertools.islice(train(state, load_imagery(state.configuration, CPU)), 2)
    assert [reading["step"] for reading in readings] == [8, 12]


def test_what_plateau_schedulers_left_of_the_rates_stays_and_a_count_of_zeros_begins_anew(tmp_path):
    content = content_of_last()
    for group in content["optimizer_states"][0]["param_groups"]:
        group["lr"] = 2.5e-5
    content["lr_schedulers"][0] |= {"best": 0.0, "num_bad_epochs": 3}
    content["lr_schedulers"][1] |= {"best": 0.25, "num_bad_epochs": 3}
    state = State(recorded_training(**{CONTINUE: kept(tmp_path, content)}), CPU)
    assert (state.plateau_d.rate, state.plateau_d.cuts) == (2.5e-5, 2)
    counts_d, counts_g = (one.state_dict()["scheduler"] for one in (state.plateau_d, state.plateau_g))
    assert counts_d["best"] == float("inf") and counts_d["num_bad_epochs"] == 0
    assert (counts_g["best"], counts_g["num_bad_epochs"]) == (0.25, 3)
    # a scheduler that maximises here has counted what nobody wants; one that is not armed yet counts nothing
    for changes in ({"Schedulers.metric_g": "val_metrics/psnr"}, {"Training.adv_loss_ramp_steps": 50}):
        counted = State(recorded_training(**{CONTINUE: kept(tmp_path, content)} | changes), CPU).plateau_g
        assert counted.state_dict()["scheduler"]["num_bad_epochs"] == 0


def test_an_average_that_was_never_updated_is_not_taken(tmp_path):
    content = content_of_last()
    content["ema_state"]["num_updates"] = 0  # there it is then what G was drawn as
    state = State(recorded_training(**{LOAD: kept(tmp_path, content)}), CPU)
    for network in (state.generator, state.averaged):
        assert evaluated(network, image(6)) == pytest.approx(recorded()["last.ckpt"]["trained"], abs=1e-6)


@pytest.mark.parametrize("of", ["all", "generator"])
def test_a_bare_state_dict_is_taken(tmp_path, of):
    states = content_of_last()["state_dict"]
    states |= {"content_loss_criterion.perceptual_model.0.weight": torch.zeros(2)}
    if of == "generator":
        states = {name.removeprefix("generator."): value for name, value in states.items() if "generator." in name}
    configuration = recorded_training(**{LOAD: kept(tmp_path, states)})
    state = State(configuration, CPU)
    assert evaluated(state.generator, image(6)) == pytest.approx(recorded()["last.ckpt"]["trained"], abs=1e-6)
    state.begin_game()
    judged = evaluated(state.discriminator, image(32))
    assert (judged == pytest.approx(recorded()["last.ckpt"]["discriminator"], abs=1e-6)) == (of == "all")
    assert ("is drawn, since the file has none" in describe(configuration)) == (of == "generator")


FAMILIES = [*itertools.zip_longest(GENERATORS, DISCRIMINATORS, fillvalue="patchgan")]


@pytest.mark.parametrize(("generator", "discriminator"), FAMILIES)
def test_what_is_written_for_opensr_srgan_is_gone_on_from_to_the_bit(tmp_path, generator, discriminator):
    base = {"Training.EMA.update_after_step": 1, "Schedulers.g_warmup_steps": 3}
    whole = steps(State(as_ours(GENERATORS[generator], DISCRIMINATORS[discriminator], **base), CPU), 5)
    lightning.write(whole, tmp_path / "ours.ckpt", epoch=2)
    content = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    assert (content["epoch"], content["global_step"]) == (2, 7)
    assert content["ema_state"]["num_updates"] == 4
    base[CONTINUE] = str(tmp_path / "ours.ckpt")
    other = State(as_ours(GENERATORS[generator], DISCRIMINATORS[discriminator], **base), CPU)
    assert other.step == 5 and whole.pretrained is not None and other.pretrained is None
    if generator == "stochastic_gan":  # which draw of noise comes next is not in the file
        for network in (other.generator, other.averaged):
            network.trunk.count.fill_(5)
    whole.pretrained = None
    assert same(everything(whole), everything(other))
    assert same(everything(steps(whole, 2, seed=1)), everything(steps(other, 2, seed=1)))


def test_its_names_are_opensr_srgans():
    content = content_of_last()
    state = State(recorded_training(**{CONTINUE: str(LAST)}), CPU)
    file = LAST.parent / "never.ckpt"
    written = {}
    original, torch.save = torch.save, lambda content, path: (written.update(content), original({}, path))
    try:
        lightning.write(state, file)
    finally:
        torch.save = original
        file.unlink()
    for key in ("state_dict", "ema_state", "optimizer_states", "loops"):
        assert written[key].keys() if isinstance(written[key], dict) else written[key]
    for name, value in content["state_dict"].items():
        assert torch.equal(written["state_dict"][name], value), name
    assert written["state_dict"].keys() == content["state_dict"].keys()
    shadow = content["ema_state"]
    assert written["ema_state"].keys() == shadow.keys() and written["ema_state"]["num_updates"] == 6
    assert written["ema_state"]["shadow_params"].keys() == shadow["shadow_params"].keys()
    for ours, theirs in zip(written["optimizer_states"], content["optimizer_states"], strict=True):
        assert ours["state"].keys() == theirs["state"].keys()
        for index, moments in theirs["state"].items():
            assert all(torch.equal(ours["state"][index][name], value) for name, value in moments.items())
        for group, known in zip(ours["param_groups"], theirs["param_groups"], strict=True):
            assert group["params"] == known["params"] and group["lr"] == pytest.approx(known["lr"])
            assert group.keys() >= known.keys()
    assert [one.keys() >= {"best", "num_bad_epochs"} for one in written["lr_schedulers"]] == [True, True, False]
    ours, theirs = written["lr_schedulers"][2], content["lr_schedulers"][2]
    assert (ours["last_epoch"], ours["_step_count"]) == (theirs["last_epoch"], theirs["_step_count"])
    assert ours["_last_lr"] == pytest.approx(theirs["_last_lr"])
    loops = content["loops"]["fit_loop"]
    for name in ("epoch_loop.batch_progress", "epoch_loop.manual_optimization.optim_step_progress"):
        assert written["loops"]["fit_loop"][name]["total"] == loops[name]["total"]
    assert written["loops"]["fit_loop"].keys() == loops.keys()


def test_in_pretraining_the_discriminator_is_written_that_the_game_will_begin_with(tmp_path):
    for changes in ({}, {LOAD: str(LAST)}):
        state = steps(State(recorded_training(**changes), CPU), 2)
        lightning.write(state, tmp_path / "early.ckpt")
        assert state.discriminator is None and state.pretrained is None
        states = torch.load(tmp_path / "early.ckpt", weights_only=True)["state_dict"]
        state.begin_game()
        expected = to_opensr(state.discriminator, state.configuration.Discriminator)
        assert all(torch.equal(states[f"discriminator.{name}"], value) for name, value in expected.items())


@pytest.mark.parametrize(("changes", "why"), [
    ({"Generator.bicubic_skip": True}, "Generator.bicubic_skip: true is this project's own"),
    ({"Discriminator.norm": False}, "Discriminator.norm: false is this project's own"),
])  # fmt: skip
def test_a_network_that_opensr_srgan_has_not_is_one_sentence(tmp_path, changes, why):
    with pytest.raises(ValueError, match=why):
        lightning.write(State(recorded_training(**changes), CPU), tmp_path / "none.ckpt")
    assert not list(tmp_path.iterdir())


EMA = {"Training.EMA.enabled": True, "Training.EMA.decay": 0.5}


def test_from_a_checkpoint_of_ours(tmp_path):
    lender, imagery = begun(**EMA)
    list(itertools.islice(train(lender, imagery), 4))
    lender.save(tmp_path / "own.pt")
    on = State(tiny(**EMA, **{CONTINUE: str(tmp_path / "own.pt")}), CPU)
    assert on.step == 8 and on.readings == []
    both = everything(lender), everything(on)
    for state in both:  # how often a scheduler was asked, which decides nothing
        del state["plateau_g.scheduler.last_epoch"], state["plateau_d.scheduler.last_epoch"]
    assert same(*both)
    begins = State(tiny(**EMA, **{LOAD: str(tmp_path / "own.pt")}), CPU)
    assert begins.step == 0
    begins.begin_game()
    for network in (begins.generator, begins.averaged, begins.pretrained):
        known = lender.averaged.state_dict()
        assert all(torch.equal(value, known[name]) for name, value in network.state_dict().items())
    known = lender.discriminator.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in begins.discriminator.state_dict().items())


def winner(folder, **dotted):
    """A best.pt, and the generator in it."""
    state = State(tiny(**{"Training.seed": 3} | dotted), CPU)
    content = {"generator": state.generator.state_dict(), "configuration": state.configuration.model_dump_json()}
    return kept(folder, content | {"low": 0.0, "high": 1.0, "step": 9}, "best.pt"), state.generator


def test_from_a_studys_winner(tmp_path):
    file, generator = winner(tmp_path)
    state = State(tiny(**{LOAD: file}), CPU)
    known = generator.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in state.generator.state_dict().items())
    (problem,) = refused(tiny(**{LOAD: file, "Generator.bicubic_skip": False}))
    assert (problem.found, problem.expected) == ("weights of Generator.bicubic_skip: True", "False")


def test_every_tensor_that_does_not_fit_is_named(tmp_path):
    content = content_of_last()
    states = content["state_dict"]
    del states["generator.head.0.bias"], content["ema_state"]
    states["generator.extra.weight"] = states["elsewhere"] = torch.zeros(2)
    states["generator.tail.bias"] = torch.zeros(4)
    states["generator.tail.weight"][0, 0, 0, 0] = float("nan")
    file = kept(tmp_path, content)
    (problem,) = refused(recorded_training(**{LOAD: file}))
    assert (problem.file, problem.key) == (file, LOAD)
    for said in (
        "generator.head.0.bias is missing", "generator.extra.weight has no place", "elsewhere has no place",
        "generator.tail.bias is (4,) instead of (3,)", "generator.tail.weight is not finite",
    ):  # fmt: skip
        assert said in problem.found
    assert "more" not in problem.found and "as they were when it was trained" in problem.fix
    (problem,) = refused(recorded_training(**{LOAD: str(LAST), "Generator.model_type": "esrgan"}))
    assert problem.found.count(";") == 12 and problem.found.endswith("more)")
    found = refused(recorded_training(**{LOAD: str(LAST), "Model.in_bands": 4}))
    assert "generator.head.0.weight is (4, 3, 3, 3) instead of (4, 4, 3, 3)" in found[0].found
    assert "discriminator.features.0.weight is (1, 3, 3, 3) instead of (1, 4, 3, 3)" in found[1].found


def test_an_average_of_another_network_is_named_too(tmp_path):
    content = content_of_last()
    del content["ema_state"]["shadow_params"]["tail.bias"]
    (problem,) = refused(recorded_training(**{LOAD: kept(tmp_path, content)}))
    assert "tail.bias is missing" in problem.found


def test_a_discriminator_of_another_kind_is_drawn_and_that_is_said():
    other = {LOAD: str(LAST), "Discriminator.model_type": "patchgan"}
    configuration = recorded_training(**other)
    assert describe(configuration).endswith("the discriminator is drawn, since the file's is esrgan, not patchgan.")
    state, drawn = State(configuration, CPU), State(recorded_training(**other | {LOAD: False}), CPU)
    state.begin_game()
    drawn.begin_game()
    assert same(everything(state), everything(drawn), "discriminator")
    assert open_checkpoint(recorded_training(**{LOAD: str(LAST), "Discriminator.norm": False})).own_discriminator


@pytest.mark.parametrize("kind", ["standard", "patchgan", "esrgan"])
def test_a_discriminator_of_ours_is_known_by_its_kind(tmp_path, kind):
    changes = {"Data.crop_size": 64, "Discriminator.base_channels": 1, "Discriminator.linear_size": 4}
    changes |= {"Discriminator.norm": False, "Discriminator.model_type": kind}
    lender = State(tiny(**changes), CPU)
    lender.begin_game()
    lender.save(tmp_path / "own.pt")
    for asked in ("standard", "patchgan", "esrgan"):
        opened = open_checkpoint(tiny(**changes | {LOAD: str(tmp_path / "own.pt"), "Discriminator.model_type": asked}))
        assert (opened.own_discriminator == "") == (asked == kind)


class Executed:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_file_that_is_none_is_one_error_and_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.ckpt").write_bytes(pickle.dumps({"state_dict": Executed()}))
    kept(tmp_path, {"state_dict": {"model.weight": torch.zeros(2)}}, "other.ckpt")
    kept(tmp_path, {"a": 1}, "numbers.ckpt")
    (tmp_path / "text.ckpt").write_text("state_dict")
    (tmp_path / "cut.ckpt").write_bytes(LAST.read_bytes()[:5000])
    for name, said in {
        "code": "none", "other": "of another project", "numbers": "no generator's weights", "text": "none",
        "cut": "none", "gone": "no such file",
    }.items():  # fmt: skip
        for key in (LOAD, CONTINUE):
            (problem,) = refused(recorded_training(**{key: str(tmp_path / f"{name}.ckpt")}))
            assert problem.key == key and problem.file.endswith(f"{name}.ckpt") and said in problem.found
    assert not (tmp_path / "executed").exists()
    (problem,) = refused(recorded_training(**{LOAD: "s3://bucket/last.ckpt"}))
    assert problem.found == "a URL"


def test_what_no_training_can_go_on_from_is_said(tmp_path):
    content = content_of_last()
    bare = kept(tmp_path, content["state_dict"], "bare.ckpt")
    (problem,) = refused(recorded_training(**{CONTINUE: bare}))
    assert problem.found == "weights alone" and "Model.load_checkpoint" in problem.fix
    (problem,) = refused(recorded_training(**{CONTINUE: str(LAST), "Training.max_steps": 6}))
    assert problem.found == "a training at step 6" and "Training.max_steps (6)" in problem.expected
    content["optimizer_states"][1]["state"][0]["exp_avg"] = torch.zeros(1)
    (problem,) = refused(recorded_training(**{CONTINUE: kept(tmp_path, content)}))
    assert "another optimiser of G (head.0.weight is (1,) instead of" in problem.found
    State(recorded_training(**{LOAD: kept(tmp_path, content)}), CPU)  # nobody asked for the optimiser
    skip = {CONTINUE: str(LAST), "Generator.bicubic_skip": True}
    (problem,) = refused(recorded_training(**skip))
    assert "Generator.bicubic_skip: true is this project's own" in problem.expected


def test_the_same_content_is_the_same_pretraining_wherever_it_lies(tmp_path):
    imagery = load_imagery(tiny(), CPU)
    file, _ = winner(tmp_path)
    (tmp_path / "moved.pt").write_bytes(Path(file).read_bytes())
    moved = fingerprint(tiny(**{LOAD: str(tmp_path / "moved.pt")}), imagery, CPU)
    assert fingerprint(tiny(**{LOAD: file}), imagery, CPU) == moved
    winner(tmp_path, **{"Training.seed": 4})
    assert fingerprint(tiny(**{LOAD: file}), imagery, CPU) != moved != fingerprint(tiny(), imagery, CPU)
    lender = State(tiny(**{LOAD: file}), CPU)
    steps(lender, 2)
    borrower = unpack(pack(lender), lender.configuration, CPU)
    assert same(everything(lender), everything(borrower), "generator")


def test_an_interrupted_training_goes_on_and_never_from_other_weights(tmp_path):
    file, _ = winner(tmp_path)
    for changes in ({LOAD: file}, {LOAD: file, "Training.pretrain_g_only": False}):
        (whole, imagery), (cut, _) = begun(**changes), begun(**changes)
        list(itertools.islice(train(whole, imagery), 5))
        list(itertools.islice(train(cut, imagery), 1))
        cut.save(tmp_path / "cut.pt")
        again = State.load(tmp_path / "cut.pt", cut.configuration, CPU)
        list(itertools.islice(train(again, imagery), 4))
        assert same(everything(whole), everything(again))
    winner(tmp_path, **{"Training.seed": 4})
    with pytest.raises(
        InvalidInput, match="found another file; expected the one that this training began from"
    ) as caught:
        State.load(tmp_path / "cut.pt", cut.configuration, CPU)
    assert not isinstance(caught.value, DamagedCheckpoint)
    Path(file).unlink()
    with pytest.raises(InvalidInput, match="best.pt: Model.load_checkpoint: found a file that cannot be read"):
        State.load(tmp_path / "cut.pt", cut.configuration, CPU)


def test_an_interrupted_continuation_goes_on(tmp_path):
    whole = State(recorded_training(**{CONTINUE: str(LAST)}), CPU)
    steps(whole, 2).save(tmp_path / "cut.pt")
    again = State.load(tmp_path / "cut.pt", whole.configuration, CPU)
    assert again.step == 8 and again.pretrained is None
    assert same(everything(steps(whole, 1)), everything(steps(again, 1)))


@pytest.mark.parametrize("off", [False, None, ""])
def test_no_file_is_said_as_opensr_srgan_says_it(off):
    assert tiny(**{LOAD: off, CONTINUE: off}) == tiny()


def test_a_path_is_relative_to_the_training_file_and_only_one_is_named(tmp_path):
    file = tmp_path / "training.yaml"
    file.write_text(yaml.safe_dump({"Model": {"load_checkpoint": "weights/last.ckpt"}}))
    assert load_configuration(file).Model.load_checkpoint == str(tmp_path / "weights" / "last.ckpt")
    file.write_text(dump_configuration(load_configuration(file)))
    assert load_configuration(file).Model.begins_from == (LOAD, str(tmp_path / "weights" / "last.ckpt"))
    with pytest.raises(InvalidInput, match="Model.load_checkpoint: found /b.ckpt; expected false beside"):
        build_configuration({"Model": {"continue_training": "/a.ckpt", "load_checkpoint": "/b.ckpt"}}, "f", Path())
    with pytest.raises(InvalidInput, match=r"Model.load_checkpoint: found True \(bool\); expected the path of a check"):
        build_configuration({"Model": {"load_checkpoint": True}}, "f", Path())
