"""opensr-srgan's networks, losses and trainings are ours: against itself where it is installed, and as recorded of it.

In float32 what differs is rounding, which a kink (of a ReLU, of |x|) or Adam turns into more; in float64 nothing may.
"""

import copy

import pytest
import torch

from tests.support.peer import (
    DISCRIMINATORS,
    GAMES,
    GENERATORS,
    PAIRS,
    TEN,
    TRAININGS,
    Step,
    Training,
    answers,
    document,
    image,
    in_double,
    made_up,
    model,
    noise,
    noise_of,
    recorded,
    sample,
    sampled,
    start_made_up,
    steps_of,
    weighed,
)
from tests.support.perceptual import write_published
from tests.trainables.test_checkpoints import CPU, as_ours
from trainables.names import from_opensr, parts, twin
from trainables.networks import Discriminator, Generator
from trainables.state import State
from trainables.step import FIGURES, _schedule, update

FACTORS = (2, 4, 8)
DEEPER = {"standard": {"n_blocks": 4}, "standard without spectral norm": {"n_blocks": 4}}
GENTLE = {"Optimizers.optim_g_lr": 1e-5, "Optimizers.optim_d_lr": 1e-6}  # config_10m's, config_training_example's


@pytest.fixture(scope="module")
def there():
    """opensr-srgan, where it is installed."""
    pytest.importorskip("pytorch_lightning")
    pytest.importorskip("opensr_srgan.model.SRGAN", exc_type=ImportError)


def gradients(network, settings):
    """A network's gradients by opensr-srgan's names of its weights."""
    held = twin(network)
    for place, weight in zip(held.parameters(), network.parameters(), strict=True):
        place.copy_(weight.grad)
    own = {name for name, _ in network.named_parameters()}
    return {name: part.value for name, part in parts(held, settings).items() if part.here in own}


def buffers(network, settings):
    own = {name for name, _ in network.named_buffers()}
    return {name: part.value for name, part in parts(network, settings).items() if part.here in own}


def through(network, entered, **given):
    """Output of an image and gradient of a fixed number of it by the image; its weights have theirs as well."""
    entered = entered.clone().requires_grad_()
    output = network(entered, **given).flatten(1)
    weighed(output).backward()
    return output.detach(), entered.grad


def far(ours, theirs, least=0.0):
    """The greatest difference by the greatest value; by `least` where that is greater."""
    return float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), least, 1e-30)


def farthest(ours, theirs, least=0.0):
    """The same of tensors by their names; `least`: a share of the greatest value of them all."""
    assert ours.keys() == theirs.keys()
    floor = least * max((float(value.abs().max()) for value in theirs.values()), default=0.0)
    return max((far(ours[name], value, floor) for name, value in theirs.items()), default=0.0)


def assert_alike(ours, settings, theirs, entered, told):
    """Outputs, all gradients and buffers, in both precisions and modes."""
    given = {"noise": noise()} if hasattr(getattr(ours, "trunk", None), "noise") else {}
    for kind, close in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        for training in (True, False):
            one, other = copy.deepcopy(ours).to(kind).train(training), copy.deepcopy(theirs).to(kind).train(training)
            from_opensr(one, settings, other.state_dict())
            of_ours = through(one, entered.to(kind), **{name: value.to(kind) for name, value in given.items()})
            with noise_of(other, noise().to(kind)):
                of_theirs = through(other, entered.to(kind))
            weights = {name: weight.grad for name, weight in other.named_parameters()}
            found = {
                "output": far(of_ours[0], of_theirs[0]),
                "image": far(of_ours[1], of_theirs[1]),
                # a weight's gradient that is 1e-2 of the greatest is rounded as the sums it comes through are
                "weights": farthest(gradients(one, settings), weights, 1e-2 if kind == torch.float32 else 0.0),
                "buffers": farthest(buffers(one, settings), dict(other.named_buffers())),
            }
            mode = "training" if training else "evaluation"
            told(f"{str(kind)[6:]}, {mode}: " + ", ".join(f"{name} {value:.0e}" for name, value in found.items()))
            assert max(found.values()) <= close, found


@pytest.fixture
def told(request):
    """Say a figure under the test's name (`pytest -s`)."""
    return lambda said: print(f"\n{request.node.callspec.id}: {said}", end="")


@pytest.mark.peer
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", GENERATORS)
def test_a_generators_outputs_and_gradients_are_opensr_srgans(there, told, name, factor):
    said = GENERATORS[name] | {"scaling_factor": factor, "n_blocks": 2}, DISCRIMINATORS["patchgan"]
    theirs, settings = model(document(*said)), as_ours(*said).Generator
    start_made_up(theirs)
    assert_alike(Generator(3, settings), settings, theirs.generator, image(8), told)


@pytest.mark.peer
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminators_outputs_and_gradients_are_opensr_srgans(there, told, name, factor):
    said = GENERATORS["res"] | {"scaling_factor": factor}, DISCRIMINATORS[name] | DEEPER.get(name, {})
    theirs, settings = model(document(*said)), as_ours(*said).Discriminator
    start_made_up(theirs)
    assert_alike(Discriminator(3, settings), settings, theirs.discriminator, image(6 * factor), told)


def steps_here(training, start, fed, **dotted):
    """Train here from opensr-srgan's weights on the given batches; what each step left, as `steps_of` has it."""
    changes = {"Data.crop_size": training.crop} | dict(training.changes) | dotted
    lengths = {
        "Training.g_pretrain_steps": TEN,
        "Training.adv_loss_ramp_steps": TEN // 2,  # of two a batch there
        "Schedulers.g_warmup_steps": 5,
        "Generator.scaling_factor": training.factor,
    }
    said = GENERATORS[training.generator], DISCRIMINATORS[training.discriminator]
    state = State(as_ours(*said, **lengths | changes), CPU)
    configuration = state.configuration
    of = {
        prefix: {name.removeprefix(prefix): value for name, value in start.items() if name.startswith(prefix)}
        for prefix in ("generator.", "discriminator.")
    }
    for network in (state.generator, state.averaged):
        from_opensr(network, configuration.Generator, of["generator."])
    waiting = Discriminator(3, configuration.Discriminator)
    from_opensr(waiting, configuration.Discriminator, of["discriminator."])
    found, (first_lr, first_hr) = [], fed[0]
    for lr, hr in fed:
        if state.step == TEN:
            state.begin_game()
            from_opensr(state.discriminator, configuration.Discriminator, of["discriminator."])
        row = _schedule(state, state.step + 1)
        losses, _ = update(state, lr, hr, torch.tensor(row, dtype=torch.float64))
        state.step += 1
        figures = {name: value for name, value in zip(FIGURES, losses.tolist(), strict=True) if value == value}
        figures |= {"training/adv_loss_weight": row[2]}
        of_networks = {"generator": gradients(state.generator, configuration.Generator)}
        if state.discriminator is not None:
            of_networks["discriminator"] = gradients(state.discriminator, configuration.Discriminator)
        judge = state.discriminator or waiting
        found.append(Step(*answers(state.generator, judge, first_lr, first_hr), figures, of_networks))
    return found


def apart(ours, theirs):
    """The greatest differences of two trainings' steps: of answers, and of figures and gradients by their size."""
    found = dict.fromkeys(("G", "D", "figures", "gradients"), 0.0)
    for at, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.gradients.keys() == other.gradients.keys()
        named = one.figures.keys() & other.figures.keys()
        assert named >= {"generator/content_loss", "training/adv_loss_weight"}
        if "discriminator" in one.gradients:
            assert named >= set(FIGURES[:6])
        step = {
            "G": float((one.generator - other.generator).abs().max()),
            "D": float((one.discriminator - other.discriminator).abs().max()),
            "figures": max(
                abs(one.figures[name] - other.figures[name]) / max(1.0, other.figures[name]) for name in named
            ),
            # a bias before a norm has a gradient of rounding alone
            "gradients": max(farthest(one.gradients[which], of, 1e-4) for which, of in other.gradients.items()),
        }
        found = found | {name: max(found[name], value) for name, value in step.items()}
        if at == TEN:  # before what rounding has done to the weights shows
            found["first figures"] = step["figures"]
    return found


def compared(training, **dotted):
    """How far ten steps of pretraining and ten of the game lead both from one another, each from the same weights."""
    theirs = model(training._replace(changes=dict(training.changes) | dotted).document())
    if torch.get_default_dtype() == torch.float64:
        start_made_up(theirs)
    start, fed = copy.deepcopy(theirs.state_dict()), training.batches()
    expected = steps_of(theirs, fed)
    moved = [float((expected[-1][of] - expected[0][of]).abs().max()) for of in (0, 1)]
    assert min(moved) > 1e-4
    return apart(steps_here(training, start, fed, **dotted), expected)


EVERY = {f"{g} x{factor}, {d}": Training(g, d, factor) for g, d in PAIRS for factor in FACTORS}
EVERY |= {f"{name}, {d}": Training(g, d, changes=of) for name, of in GAMES.items() for g, d in PAIRS[:2]}


@pytest.mark.peer
@pytest.mark.parametrize("name", EVERY)
def test_trainings_stay_together(there, told, name):
    with in_double():
        found = compared(EVERY[name])
    told(f"float64: {', '.join(f'{part} {value:.0e}' for part, value in found.items())}")
    assert found.pop("gradients") <= 1e-7, found  # some of them by what is left of greater ones in a norm
    assert max(found.values()) <= 1e-10, found
    found = compared(EVERY[name], **GENTLE)
    told(f"float32: {', '.join(f'{part} {value:.0e}' for part, value in found.items())}")
    assert_close(found)


def assert_close(found):
    """In float32, of trainings; their gradients are compared in float64."""
    assert max(found["G"], found["D"], found["figures"]) <= 1e-5, found
    assert found["first figures"] <= 1e-6, found


@pytest.mark.peer
def test_trainings_with_a_perceptual_loss_stay_together(there, tmp_path, monkeypatch):
    write_published(tmp_path / "hub" / "checkpoints")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where torchvision finds what it would fetch
    weights = {"Training.Losses.perceptual_weight": 0.2}
    found = compared(Training("res", "patchgan", changes=weights), **GENTLE)
    assert_close(found)


def in_training(network, settings, entered):
    """What is recorded of a network's passes in training."""
    given = {"noise": noise().double()} if hasattr(getattr(network, "trunk", None), "noise") else {}
    with in_double():
        network = network.double().train()
        output, of_image = through(network, entered.double(), **given)
        weights = {name: float(weighed(value)) for name, value in gradients(network, settings).items()}
        kept = {name: float(weighed(value.double())) for name, value in buffers(network, settings).items()}
    return {"output": sample(output, 12), "image": sample(of_image, 12), "weights": weights, "buffers": kept}


def assert_recorded(found, known):
    assert found.keys() == known.keys()
    for part, values in known.items():
        assert found[part] == pytest.approx(values, rel=1e-8, abs=1e-9), part


@pytest.mark.parametrize("name", recorded()["generators"])
def test_a_generators_gradients_are_those_recorded(name):
    known, (kind, factor) = recorded()["generators"][name], name.split(" x")
    settings = as_ours(GENERATORS[kind] | {"scaling_factor": int(factor)}, DISCRIMINATORS["patchgan"]).Generator
    network = Generator(3, settings)
    from_opensr(network, settings, made_up(known["tensors"]))
    assert_recorded(in_training(network, settings, image(6)), known["in training"])


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminators_gradients_are_those_recorded(name):
    known = recorded()["discriminators"][name]
    settings = as_ours(GENERATORS["res"], DISCRIMINATORS[name]).Discriminator
    network = Discriminator(3, settings)
    from_opensr(network, settings, made_up(known["tensors"]))
    assert_recorded(in_training(network, settings, image(32)), known["in training"])


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_goes_as_recorded(name):
    training, known = TRAININGS[name], recorded()
    shapes = {
        "generator": known["generators"][f"{training.generator} x{training.factor}"]["tensors"],
        "discriminator": known["discriminators"][training.discriminator]["tensors"],
    }
    with in_double():
        start = {f"{of}.{part}": value for of in shapes for part, value in made_up(shapes[of]).items()}
        found = sampled(steps_here(training, start, training.batches()))
    expected = known["trainings"][name]
    figures = expected["figures"].keys() & found["figures"].keys()
    assert figures >= {*FIGURES[:6], "training/adv_loss_weight"}
    assert {part: found["figures"][part] for part in figures} == pytest.approx(
        {part: expected["figures"][part] for part in figures}, rel=1e-8
    )
    for of in ("generator", "discriminator"):
        assert found[of] == pytest.approx(expected[of], abs=1e-8)
    assert found["gradients"] == pytest.approx(expected["gradients"], rel=1e-8)
