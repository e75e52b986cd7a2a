"""A training run: what decides it is in its configuration, one process writes it, only what is finite is saved."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import guidance_jax as gj
from guidance_jax import files
from guidance_jax.app.recipe import Recipe, fingerprint, fit_into, networks, train_denoiser
from guidance_jax.checkpoints.config import build, config
from guidance_jax.checkpoints.store import Run
from guidance_jax.datasets.images import Images
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.discrete.process import Absorbing
from guidance_jax.training.fit import fit, mirrored
from guidance_jax.zoo.load import load
from recipes import train_token_classifier

CONFIG = config(None, None, batch=8)
START = {"w": jnp.zeros(3)}
DATA = Images(
    np.random.default_rng(0).normal(size=(40, 8, 8, 1)).astype(np.float32),
    np.arange(40, dtype=np.int32) % 2,
    ("a", "b"),
)


def loss(params, key, x0, label):
    """A loss of three numbers, least where w = 2."""
    return jnp.mean((params["w"] - 2 + 0.1 * jnp.mean(x0)) ** 2)


def into(folder, **changed):
    """A run of `fit_into` of 6 steps, with some settings changed."""
    options = dict(batch=8, steps=6, rate=1e-2, seed=0, progress=None, save_every=2) | changed
    setup = config(None, None, steps=options["steps"], batch=options["batch"], seed=options["seed"])
    fit_into(folder, setup, loss, lambda key: START, DATA, **options)
    return Run(folder, json.loads((folder / "config.json").read_text()))


def training(folder):
    return json.loads((folder / "config.json").read_text())["training"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rate": 2e-2}, r"training.rate: 0.01 there, 0.02 here"),
        ({"ema": 0.5}, r"training.ema: 0.995 there, 0.5 here"),
        ({"augment": mirrored}, r"training.flip: False there, True here"),
        ({"seed": 1}, r"training.seed: 0 there, 1 here"),
        ({"batch": 4}, r"training.batch: 8 there, 4 here"),
    ],
)
def test_a_finished_run_with_another_setting_is_refused(tmp_path, changed, words):
    into(tmp_path / "run")
    into(tmp_path / "run")  # the same is what is there
    into(tmp_path / "run", save_every=5)  # and what changes no result is free
    with pytest.raises(gj.Refused, match=words) as caught:
        into(tmp_path / "run", **changed)
    assert "\n" not in str(caught.value)


def test_a_run_from_before_these_settings_were_kept_is_loaded_and_goes_on(tmp_path):
    """Nobody knows what its rate was. Once it goes on, it is known."""
    into(tmp_path / "run")
    old = json.loads((tmp_path / "run" / "config.json").read_text())
    old["training"] = {"steps": 6, "batch": 8, "seed": 0}
    (tmp_path / "run" / "config.json").write_text(json.dumps(old))
    into(tmp_path / "run", rate=5e-2)
    assert "rate" not in training(tmp_path / "run")
    into(tmp_path / "run", rate=5e-2, steps=8)
    assert training(tmp_path / "run")["rate"] == 5e-2
    with pytest.raises(gj.Refused, match=r"training.rate: 0.05 there, 0.01 here"):
        into(tmp_path / "run", steps=8)


def test_what_fit_is_called_with_is_part_of_the_run(tmp_path):
    common = dict(steps=4, batch=8, optimizer=optax.sgd(0.1))
    fit(loss, START, DATA, run=Run(tmp_path / "run", CONFIG), **common)
    fit(loss, START, DATA, run=Run(tmp_path / "run", CONFIG), **common)
    for changed, words in (({"ema": 0.9}, "ema: 0.999 there, 0.9 here"), ({"seed": 3}, "seed: 0 there, 3 here")):
        with pytest.raises(gj.Refused, match=words):
            fit(loss, START, DATA, run=Run(tmp_path / "run", CONFIG), **common | changed)
    with pytest.raises(gj.Refused, match="augment: None there, 'mirrored' here"):
        fit(loss, START, DATA, run=Run(tmp_path / "run", CONFIG), augment=mirrored, **common)


@pytest.mark.slow
def test_the_corruption_of_a_token_classifier_is_part_of_its_run(tmp_path):
    """Networks of Absorbing(3) and Absorbing(3) elsewhere are equal; what corrupted the data is not in the network."""
    rng = np.random.default_rng(0)
    data = Sequences(rng.integers(0, 3, (20, 4)).astype(np.int32), np.arange(20) % 2, ("a", "b"), tuple("xyz"))
    train_token_classifier(tmp_path, data, Absorbing(3), width=8, depth=1, steps=1, batch=8)
    assert training(tmp_path)["corruption"]["type"] == "Absorbing"
    changed = json.loads((tmp_path / "config.json").read_text())
    changed["training"]["corruption"]["vocabulary"] = 4
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(gj.Refused, match=r"training.corruption.vocabulary: 4 there, 3 here"):
        train_token_classifier(tmp_path, data, Absorbing(3), width=8, depth=1, steps=1, batch=8)


def test_steps_are_raised_before_and_after_the_first_checkpoint(tmp_path):
    """Before it nothing is left of the first number; after it the run says how long it was meant to be shorter."""
    straight = into(tmp_path / "straight", steps=12)
    run = tmp_path / "run"
    setup = config(None, None, steps=6, batch=8, seed=0)
    Run(run, setup | {"data": fingerprint(DATA)})  # begun, and killed before the first save
    raised = into(run, steps=12)
    assert raised.latest() == 12
    assert "stages" not in training(run)
    for a, b in zip(*(jax.tree.leaves(r.restore(None)[0]["ema"]) for r in (straight, raised)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert into(run, steps=18).latest() == 18
    assert training(run)["stages"] == [{"steps": 12, "until": 12}]
    assert into(run, steps=18).latest() == 18  # the same command again: finished
    for steps in (12, 17):
        with pytest.raises(gj.Refused, match=rf"has done 18 of 18 steps, got steps={steps}; write steps=18") as caught:
            into(run, steps=steps)
        assert "\n" not in str(caught.value)
    assert training(run)["steps"] == 18


def test_fit_does_not_go_back(tmp_path):
    common = dict(batch=8, optimizer=optax.sgd(0.1))
    fit(loss, START, DATA, steps=4, run=Run(tmp_path / "run", CONFIG), **common)
    fit(loss, START, DATA, steps=6, run=Run(tmp_path / "run", CONFIG), **common)
    with pytest.raises(gj.Refused, match="the run has done 6 steps, got steps=5; write steps=6 or more"):
        fit(loss, START, DATA, steps=5, run=Run(tmp_path / "run", CONFIG), **common)


def test_a_network_that_computes_in_bfloat16_is_described_and_built(tmp_path):
    """By the name of the type, as JSON holds it; its weights are float32."""
    recipe = Recipe(width=8, classifier_width=8, dtype="bfloat16")
    inputs = jnp.zeros((8, 8, 1)), jnp.zeros(())
    for network, more in zip(networks((8, 8, 1), 2, recipe), ((jnp.zeros((), int),), ()), strict=True):
        setup = json.loads(json.dumps(config(network, None)))
        assert build(setup["network"]) == network
        params = jax.eval_shape(network.init, jax.random.key(0), *inputs, *more)
        assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}
        assert jax.eval_shape(build(setup["network"]).apply, params, *inputs, *more).dtype == jnp.bfloat16
    float32, _ = networks((8, 8, 1), 2, dataclasses.replace(recipe, dtype="float32"))
    assert float32 == networks((8, 8, 1), 2, dataclasses.replace(recipe, dtype=None))[0]
    Run(tmp_path / "run", setup)
    with pytest.raises(gj.Refused, match=r"network.dtype: 'bfloat16' there, None here"):
        Run(tmp_path / "run", config(networks((8, 8, 1), 2, dataclasses.replace(recipe, dtype=None))[1], None))


@pytest.mark.slow
def test_training_in_bfloat16(tmp_path):
    recipe = Recipe(width=8, classifier_width=8, steps=2, batch=8, dtype="bfloat16")
    model = train_denoiser(tmp_path / "half", DATA, recipe)
    assert {a.dtype for a in jax.tree.leaves(model.params)} == {jnp.dtype("float32")}
    kernel = gj.Reverse(load(tmp_path / "half", gj.Network), gj.DDIM())
    drawn = gj.generate(gj.keys(0, 2), kernel, gj.Cosine().levels(2), (8, 8, 1), jnp.array([0, 1]))
    assert drawn.dtype == jnp.float32
    assert np.isfinite(drawn).all()


def explodes(at):
    """A loss that is finite at every step, with an infinite gradient when w reaches `at` steps of 1."""

    def loss(params, key, x0, label):
        w = params["w"][0]
        return -w + jnp.where(w == at - 1, 1.0, 0.0) * jnp.sqrt(jnp.abs(w - (at - 1)))

    return loss


@pytest.mark.parametrize("steps", [4, 6])
def test_an_infinite_gradient_is_not_saved(tmp_path, steps):
    """At step 4, the last one or one in the middle; step 2 stays, and a lower rate goes on from it."""
    run, common = tmp_path / "run", dict(batch=8, save_every=2)
    with pytest.raises(gj.Refused, match=r"the loss is finite, .* after step 4: a gradient was not finite") as caught:
        fit(explodes(4), START, DATA, steps=steps, optimizer=optax.sgd(1.0), run=Run(run, CONFIG), **common)
    assert "\n" not in str(caught.value)
    assert Run(run, CONFIG).latest() == 2
    ema, losses = fit(loss, START, DATA, steps=steps, optimizer=optax.sgd(0.1), run=Run(run, CONFIG), **common)
    assert np.isfinite(ema["w"]).all()
    assert len(losses) == steps
    with pytest.raises(gj.Refused, match="a gradient was not finite"):
        fit(explodes(4), START, DATA, steps=4, batch=8, optimizer=optax.sgd(1.0))


def test_an_infinite_gradient_that_an_optimizer_keeps_for_later_is_not_saved(tmp_path):
    """The weights are still finite, the sum of gradients is not."""

    def update(gradient, state, params=None):
        return jax.tree.map(jnp.zeros_like, gradient), jax.tree.map(jnp.add, state, gradient)

    optimizer = optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)
    with pytest.raises(gj.Refused, match=r"after step 2: a gradient was not finite"):
        fit(explodes(1), START, DATA, steps=2, batch=8, optimizer=optimizer, run=Run(tmp_path / "run", CONFIG))
    assert Run(tmp_path / "run", CONFIG).latest() is None


def test_an_optimizer_that_begins_with_infinities_trains():
    plateau = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    state = plateau.init(START)
    assert not all(np.isfinite(a).all() for a in jax.tree.leaves(state))

    def update(gradient, state, params=None):
        return plateau.update(gradient, state, params, value=jnp.float32(1.0))

    optimizer = optax.GradientTransformation(plateau.init, update)
    ema, _ = fit(loss, START, DATA, steps=3, batch=8, optimizer=optimizer)
    assert np.isfinite(ema["w"]).all()


CHILD = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/examples"]
from tests.test_runs import *
from guidance_jax.files import lock
with lock(Path({folder!r})):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_second_training_in_a_folder_is_refused_until_the_first_ends_or_is_killed(tmp_path):
    folder, common = tmp_path / "run", dict(steps=2, batch=8, optimizer=optax.sgd(0.1))
    run = Run(folder, CONFIG)
    code = CHILD.format(root=str(Path(__file__).parent.parent), folder=str(folder))
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    try:
        assert child.stdout.readline().strip() == "ready"
        with pytest.raises(gj.Refused, match="is in use by another training; wait until it ends") as caught:
            fit(loss, START, DATA, run=run, **common)
        assert "\n" not in str(caught.value)
        with pytest.raises(gj.Refused, match="is in use by another training"):
            run.save(0, {"ema": START}, [])
    finally:
        child.kill()
        child.wait()
    fit(loss, START, DATA, run=run, **common)
    assert Run(folder, CONFIG).latest() == 2


def test_a_file_system_without_locks_is_said_to_be_one(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with pytest.warns(UserWarning, match="cannot be locked .Operation not supported.; start only one training there"):
        fit(loss, START, DATA, steps=2, batch=8, optimizer=optax.sgd(0.1), run=Run(tmp_path / "run", CONFIG))


def test_two_configurations_that_begin_at_once_do_not_mix(tmp_path):
    """The second replaces the first's configuration before the first has locked the folder."""
    first = Run(tmp_path / "run", CONFIG)
    other = json.dumps(json.loads(json.dumps(CONFIG)) | {"batched": True})
    (tmp_path / "run" / "config.json").write_text(other)
    with pytest.raises(gj.Refused, match="batched: True there, False here"):
        fit(loss, START, DATA, steps=2, batch=8, optimizer=optax.sgd(0.1), run=first)


def test_an_interruption_waits_for_the_end_of_a_save(tmp_path, capfd):
    """Ctrl-C in the middle of a save: it is whole, nothing is printed, and then the interruption comes."""
    run, state = Run(tmp_path / "run", CONFIG), {"ema": {str(i): jnp.ones((300, 300)) for i in range(30)}}
    began, save = threading.Event(), run.manager.save

    def slow(*arguments, **options):
        began.set()
        return save(*arguments, **options)

    def interrupt():
        began.wait()
        time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    run.manager.save = slow
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run.save(1, state, [])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capfd.readouterr().err == ""
    assert Run(tmp_path / "run", CONFIG).latest() == 1


def test_an_interruption_in_a_destructor_is_not_lost(capfd):
    """Python drops what a destructor raises, with a traceback; without `interruptible` the loop would go on."""

    class Unlucky:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def work():
        thing = Unlucky()
        del thing
        for _ in range(500):
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt), files.interruptible():
        work()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "Traceback" not in capfd.readouterr().err


def test_a_save_that_fails_logs_nothing_of_its_own(tmp_path, caplog, monkeypatch):
    """orbax logs a traceback before it raises."""
    run = Run(tmp_path / "run", CONFIG)

    def fails(*_, **__):
        try:
            raise OSError(5, "Input/output error")
        except OSError:
            logging.getLogger("absl").exception("Failed to save")
            raise

    monkeypatch.setattr(run.manager, "save", fails)
    with pytest.raises(gj.Refused, match=r"cannot be written .*Input/output error.*no step was kept") as caught:
        run.save(1, {"ema": START}, [])
    assert "\n" not in str(caught.value)
    assert caplog.records == []


def test_what_a_killed_save_left_is_removed(tmp_path):
    run = Run(tmp_path / "run", CONFIG)
    left = tmp_path / "run" / "2.orbax-checkpoint-tmp"
    left.mkdir()
    fit(loss, START, DATA, steps=2, batch=8, optimizer=optax.sgd(0.1), run=run)
    assert {p.name for p in (tmp_path / "run").iterdir() if p.is_dir()} == {"2"}
