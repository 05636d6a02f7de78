"""Weights both ways against opensr-srgan itself: its trainings begin, go on and come back, with its own loaders."""

import itertools
import shutil

import pytest
import torch
import yaml

from tests.support import peer
from tests.support.peer import DISCRIMINATORS, GENERATORS, PAIRS, averaged, batches, document, fit, image, model, noise
from tests.trainables.test_checkpoints import CONTINUE, CPU, LOAD, as_ours
from trainables import lightning
from trainables.networks import Generator
from trainables.state import State
from trainables.step import _schedule, update

pytestmark = pytest.mark.peer
pytest.importorskip("pytorch_lightning")
pytest.importorskip("opensr_srgan.model.SRGAN", exc_type=ImportError)
CROP = 64
CLOSE = 1e-4  # after a few steps on both sides, of whose rounding kinks make more; test_peer_networks has it in float64


def super_resolved(network: torch.nn.Module) -> torch.Tensor:
    """Of an image, the noise of the stochastic generator given or drawn alike."""
    given = {}
    if isinstance(network, Generator) and hasattr(network.trunk, "noise"):
        given = {"noise": noise()}
    torch.manual_seed(5)
    was_training = network.training
    with torch.no_grad():
        output: torch.Tensor = network.eval()(image(6), **given)
    network.train(was_training)
    return output


def judged(network: torch.nn.Module) -> torch.Tensor:
    was_training = network.training
    with torch.no_grad():
        logits: torch.Tensor = network.eval()(image(CROP)).flatten(1)
    network.train(was_training)
    return logits


def far(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


def go_on(state: State, fed: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    """Train here on the given batches; the adversarial weights used."""
    weights = []
    for lr, hr in fed:
        row = _schedule(state, state.step + 1)
        update(state, lr, hr, torch.tensor(row, dtype=torch.float64))
        state.step += 1
        weights.append(row[2])
    return weights


def test_what_is_recorded_is_what_it_says(tmp_path, request):
    peer.record(tmp_path)
    if request.config.getoption("--accept"):
        for file in tmp_path.iterdir():
            shutil.copy(file, peer.RECORDED)
    now, known = peer.recorded(tmp_path), peer.recorded()
    assert now.keys() == known.keys()
    for kind in ("generators", "discriminators", "trainings"):
        for name, found in known[kind].items():
            assert now[kind][name].keys() == found.keys()
            for part, values in _flat(found).items():
                assert _flat(now[kind][name])[part] == pytest.approx(values, rel=1e-6, abs=1e-6), (name, part)
    for name, output in known["last.ckpt"].items():
        assert now["last.ckpt"][name] == pytest.approx(output, abs=1e-6)
    files = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path, peer.RECORDED)]
    assert files[0].keys() == files[1].keys()


def _flat(found):
    """Lists of numbers, and numbers, by the keys that lead to them."""
    if not isinstance(found, dict):
        return {"": found}
    return {f"{key}/{rest}": value for key, part in found.items() for rest, value in _flat(part).items()}


@pytest.mark.parametrize(("generator", "discriminator"), PAIRS)
def test_its_last_checkpoint_here_on_and_back(tmp_path, generator, discriminator):
    settings = GENERATORS[generator], DISCRIMINATORS[discriminator]
    said = document(*settings)
    theirs = model(said)
    fit(theirs, batches(6, CROP, 1), tmp_path)
    last = tmp_path / "last.ckpt"

    begun = State(as_ours(*settings, **{LOAD: str(last)}), CPU)
    assert far(super_resolved(begun.generator), super_resolved(averaged(theirs))) <= 1e-6
    assert far(super_resolved(begun.averaged), super_resolved(averaged(theirs))) <= 1e-6
    begun.begin_game()
    assert far(judged(begun.discriminator), judged(theirs.discriminator)) <= 5e-6

    # both go on on the same batches: weights, moments, rates and average as if nothing had happened
    fed, ours = batches(3, CROP, 9), State(as_ours(*settings, **{CONTINUE: str(last)}), CPU)
    assert ours.step == 6
    assert far(super_resolved(ours.generator), super_resolved(theirs.generator)) <= 1e-6
    theirs_on, rates = model(said), []
    fit(theirs_on, fed, None, 2, last, lambda made: rates.append([o.param_groups[0]["lr"] for o in made.optimizers()]))
    expected = [[_schedule(ours, step)[which] for which in (1, 0)] for step in (7, 8, 9)]
    assert torch.tensor(rates) == pytest.approx(torch.tensor(expected), rel=1e-6)
    go_on(ours, fed)
    if generator != "stochastic_gan":  # its noise in training is drawn otherwise
        assert far(super_resolved(ours.generator), super_resolved(theirs_on.generator)) <= CLOSE
        assert far(super_resolved(ours.averaged), super_resolved(averaged(theirs_on))) <= CLOSE
        assert far(judged(ours.discriminator), judged(theirs_on.discriminator)) <= CLOSE

    # and back: loaded strictly, by its own loader with its average, and gone on from by a Trainer
    back = tmp_path / "back.ckpt"
    lightning.write(ours, back, epoch=1)
    model(said).load_state_dict(torch.load(back, weights_only=True)["state_dict"], strict=True)
    (tmp_path / "there.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    loaded = loaded_there(tmp_path / "there.yaml", back)
    assert far(super_resolved(ours.averaged), super_resolved(averaged(loaded))) <= 1e-6
    assert far(super_resolved(ours.generator), super_resolved(loaded.generator)) <= 1e-6
    on, steps = model(said), []
    fed = batches(2, CROP, 11)
    fit(on, fed, None, 2, back, lambda made: steps.append(made.global_step))
    assert steps == [17, 19]  # 9 batches, 6 of the game
    assert go_on(ours, fed) == [0.1, 0.1]
    if generator != "stochastic_gan":
        assert far(super_resolved(ours.generator), super_resolved(on.generator)) <= CLOSE
        assert far(super_resolved(ours.averaged), super_resolved(averaged(on))) <= CLOSE


def loaded_there(configuration, checkpoint):
    """By opensr-srgan's own `load_from_config`."""
    import contextlib
    import io

    import opensr_srgan

    with contextlib.redirect_stdout(io.StringIO()):
        return opensr_srgan.load_from_config(configuration, checkpoint)


def test_its_average_that_never_began_and_its_plateau_of_zeros_are_left(tmp_path):
    said = document(GENERATORS["res"], DISCRIMINATORS["patchgan"])
    said["Training"]["EMA"]["update_after_step"] = 10**6
    theirs = model(said)
    fit(theirs, list(itertools.chain(batches(2, CROP, 1))), tmp_path, epochs=3)
    settings = GENERATORS["res"], DISCRIMINATORS["patchgan"]
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["lr_schedulers"][0]["best"] == 0  # it was fed zeros in pretraining
    theirs.load_state_dict(content["state_dict"])  # of the best validation, perhaps not the last
    ours = State(as_ours(*settings, **{LOAD: str(tmp_path / "last.ckpt")}), CPU)
    assert far(super_resolved(ours.generator), super_resolved(theirs.generator)) <= 1e-6
    assert far(super_resolved(ours.generator), super_resolved(averaged(theirs))) > 1e-5
    goes_on = State(as_ours(*settings, **{CONTINUE: str(tmp_path / "last.ckpt")}), CPU)
    assert goes_on.plateau_d.state_dict()["scheduler"]["best"] == float("inf")
