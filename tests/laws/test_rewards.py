"""Fine-tuning to a reward: what each method's fixed point samples, beside p(x) exp(scale r(x))."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import guidance_jax as gj
from guidance_jax.finetune.adjoint_matching import AdjointMatching
from guidance_jax.finetune.draft import DRaFT
from guidance_jax.finetune.nft import DiffusionNFT
from guidance_jax.finetune.policy_gradient import PolicyGradient
from guidance_jax.models import parameterizations
from guidance_jax.oracles import monte_carlo_floor as floor
from guidance_jax.training.fit import fit
from tests.table import MIXTURE, NULL, SCHEDULE, Taught
from tests.token_table import FLOW, LENGTH, MASKED
from tests.token_table import NULL as TOKEN_NULL

MEAN, COVARIANCE = jnp.array([0.4, -0.2]), jnp.array([[0.6, 0.2], [0.2, 0.3]])
BASE = gj.oracles.Gaussian(MEAN, COVARIANCE)
SLOPE = jnp.array([1.2, -0.7])
LEVELS = gj.schedules.log_snr_uniform(gj.Cosine(), 24, lo=0.05)


@gj.core.pytree
class Shifted(gj.core.Denoiser):
    """The Gaussian whose clean estimate is moved by params (n, 2), one row a level: enough for a linear reward."""

    params: object

    def __call__(self, x, level, cond, state, key):
        at = jnp.argmin(jnp.abs(LEVELS.t - level.t))
        pred = BASE(x, level, cond, (), None)[0]
        return pred.towards(pred.x0 + self.params[at], level), state


def linear(x, level, cond):
    return x @ SLOPE


PLAIN = Shifted(jnp.zeros((25, 2)))
DATA = (np.zeros((256, 2), np.float32), np.zeros(256, np.int32))


def tuned(loss, steps, rate):
    batches = (DATA for _ in range(steps))
    params, _ = fit(
        loss,
        PLAIN.params,
        batches,
        steps=steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(rate, steps)),
        ema=0.9,
    )
    return dataclasses.replace(PLAIN, params=params)


def drawn(model, n=40_000):
    return np.asarray(gj.generate(gj.keys(3, n), gj.Reverse(model, gj.DDIM(1.0)), LEVELS, (2,)))


@pytest.mark.release
@pytest.mark.parametrize("how", [AdjointMatching, PolicyGradient, DRaFT])
def test_on_a_gaussian_the_fixed_point_is_the_tilted_chain(how, measured):
    """exp(a x) moves a Gaussian by its covariance times a and leaves the covariance: that of the base chain itself."""
    options = {"last": 24} if how is DRaFT else {}
    loss = how(PLAIN, gj.DDIM(1.0), linear, LEVELS, 1.0, base=PLAIN, **options)
    steps, rate = (600, 0.02) if how is PolicyGradient else (150, 0.05)
    base, x = drawn(PLAIN), drawn(tuned(loss, steps, rate))
    wanted = np.cov(base.T) @ np.asarray(SLOPE)
    moved = x.mean(0) - base.mean(0)
    measured("moved by", np.linalg.norm(moved))
    measured("the tilt", np.linalg.norm(wanted))
    np.testing.assert_allclose(moved, wanted, atol=0.06 if how is PolicyGradient else 0.03)
    np.testing.assert_allclose(np.cov(x.T), np.cov(base.T), atol=0.03)


@pytest.mark.release
def test_draft_maximises_and_collapses(measured):
    """A bounded reward with its best at one point: everything goes there, the tilt of the same scale does not."""

    def near(x, level, cond):
        return -0.5 * jnp.sum((x - 1.0) ** 2)

    spread = {}
    for name, loss in {
        "DRaFT-1": DRaFT(Scaled(), gj.DDIM(1.0), near, LEVELS, 1.0, last=1),
        "DRaFT-24": DRaFT(Scaled(), gj.DDIM(1.0), near, LEVELS, 1.0, last=24),
    }.items():
        batches = (DATA for _ in range(150))
        params, _ = fit(loss, Scaled().params, batches, steps=150, optimizer=optax.adam(0.05), ema=0.9)
        spread[name] = float(np.std(drawn(Scaled(params)), 0).mean())
    tilt = float(np.sqrt(np.diag(np.linalg.inv(np.linalg.inv(np.asarray(COVARIANCE)) + np.eye(2)))).mean())
    for what, value in {**spread, "the tilt": tilt}.items():
        measured(f"spread of {what}", value)
    assert spread["DRaFT-24"] < spread["DRaFT-1"]
    assert spread["DRaFT-24"] < 0.3 * tilt


@gj.core.pytree
class Scaled(gj.core.Denoiser):
    """The clean estimate drawn to a point, by params (share, point) of each level."""

    params: object = (jnp.zeros((25, 1)), jnp.zeros((25, 2)))

    def __call__(self, x, level, cond, state, key):
        at = jnp.argmin(jnp.abs(LEVELS.t - level.t))
        pred = BASE(x, level, cond, (), None)[0]
        share, point = jax.nn.sigmoid(8 * self.params[0][at] - 3), self.params[1][at]
        return pred.towards((1 - share) * pred.x0 + share * point, level), state


@pytest.mark.release
def test_the_gradient_of_draft_is_that_of_the_chain():
    """K steps: the gradient in the last K rows, by finite differences with the same noise; the rows before, none."""
    x0, key = jnp.zeros(2), jax.random.key(4)
    whole = DRaFT(PLAIN, gj.DDIM(1.0), lambda x, level, cond: jnp.sum(jnp.sin(2 * x)), LEVELS, 1.0, last=24)
    value = jax.jit(lambda p: whole(p, key, x0, 0))
    for last in (1, 3, 24):
        g = jax.grad(dataclasses.replace(whole, last=last))(PLAIN.params, key, x0, 0)
        differences = [
            (value(PLAIN.params.at[at, 0].add(0.02)) - value(PLAIN.params.at[at, 0].add(-0.02))) / 0.04
            for at in range(24)
        ]
        kept = np.arange(24) >= 24 - last
        np.testing.assert_allclose(g[:24, 0], np.where(kept, differences, 0), atol=2e-3)


@pytest.mark.release
def test_nft_moves_towards_the_good_by_how_likely_they_are(measured):
    """Reward p(c | x_0): the minimum is D_u + (2 / beta) p(c | x_t) (D_c - D_u); zero mean gradient, and not beside."""
    beta, good, n = 0.7, 1, 40_000

    def apply(params, x, t, cond):
        level = SCHEDULE(t)
        share = 2 / beta * jnp.exp(MIXTURE.log_posterior(x, level, good)) * params["strength"]
        return Taught(MIXTURE, share)(x, level, good, (), None)[0].x0 + params["offset"] + params["slope"] * x

    def parameters(strength):
        return {"strength": strength, "offset": jnp.zeros(2), "slope": jnp.zeros(2)}

    def reward(x, level, cond):
        return jnp.exp(MIXTURE.log_posterior(x, level, good))

    x0 = MIXTURE.sample(jax.random.key(0), n)
    loss = DiffusionNFT(parameters(0.0), reward, apply, SCHEDULE, parameterizations.x0, beta)

    def slope(strength):
        each = jax.vmap(jax.grad(loss), (None, 0, 0, None))(
            parameters(strength), jax.random.split(jax.random.key(1), n), x0, NULL
        )
        each = np.concatenate([np.reshape(a, (n, -1)) for a in jax.tree.leaves(each)], 1)
        return np.abs(each.mean(0) / each.std(0)).max() * n**0.5

    there, elsewhere = slope(1.0), slope(0.5)
    measured("gradient in standard errors", there)
    measured("at half the strength", elsewhere)
    assert there < 4
    assert elsewhere > 8


@gj.core.pytree
class Tabled(gj.core.Denoiser):
    """The enumerated model of masks with a table on its log-probabilities: one row for each of the masked sequences."""

    params: object

    @property
    def space(self):
        return MASKED.space

    def __call__(self, x, level, cond, state, key):
        pred = MASKED(x, level, TOKEN_NULL, (), None)[0]
        row = self.params[jnp.sum(x * 4 ** jnp.arange(LENGTH))]
        return dataclasses.replace(pred, log_p=jax.nn.log_softmax(pred.log_p + row)), state


@pytest.mark.release
def test_on_masks_the_policy_gradient_samples_the_tilted_distribution(measured):
    """p(x) p(y | x)^2 by reinforcement alone: total variation to it, beside that of the model it began as."""
    model, n = Tabled(jnp.zeros((4**LENGTH, LENGTH, 3))), 50_000
    levels = FLOW.levels(12)

    def reward(x, level, label):
        return MASKED.log_likelihood(x, level, 1)

    loss = PolicyGradient(model, gj.Ancestral(), reward, levels, 2.0, base=model)
    batches = ((np.zeros((512, LENGTH), np.int32), np.zeros(512, np.int32)) for _ in range(800))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 800))
    params, _ = fit(loss, model.params, batches, steps=800, optimizer=optimizer, ema=0.99)

    def share(params, power, seed):
        """Frequencies of all sequences, each sample weighed by exp(power r)."""
        x = gj.generate(gj.keys(seed, n), gj.Reverse(Tabled(params), gj.Ancestral()), levels, (LENGTH,))
        w = jnp.exp(power * jax.vmap(lambda x: reward(x, None, None))(x))
        count = np.bincount(np.asarray(jnp.sum(x * 3 ** jnp.arange(LENGTH), 1)), np.asarray(w), 3**LENGTH)
        return count / count.sum()

    target = share(model.params, 2.0, 2)  # the tilt of the chain itself, whose steps take masks as independent
    before, after = (0.5 * np.abs(share(p, 0.0, 1) - target).sum() for p in (model.params, params))
    for what, value in {"before": before, "after": after, "floor": floor(target, n)}.items():
        measured(what, value)
    assert after < 0.1 * before


def multilinear(params, x, t, cond):
    """A table of logits, a row for each masked sequence, of one-hot vectors or of tokens."""
    x = x if jnp.ndim(x) == 2 else jax.nn.one_hot(x, 4)
    return jnp.einsum("abclv,a,b,c->lv", params, *x)


@pytest.mark.release
def test_known_bias_of_straight_through_on_masks_near_the_tilt_with_the_divergence_and_away_without(measured):
    """DRAKES: with the divergence nearer to p(x) p(y | x)^2 than the model, and not there, for its gradient is biased;
    without, further from it than the model was."""
    n, levels = 50_000, FLOW.levels(12)
    masked = jnp.stack(jnp.meshgrid(*[jnp.arange(4)] * LENGTH, indexing="ij"), -1).reshape(-1, LENGTH)
    table = jax.vmap(lambda x: MASKED(x, FLOW(0.5), TOKEN_NULL, (), None)[0].log_p)(masked)
    model = gj.TokenNetwork(
        jnp.maximum(table, -20.0).reshape(4, 4, 4, LENGTH, 3), multilinear, MASKED.space, batched=False
    )
    clean = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * LENGTH, indexing="ij"), -1).reshape(-1, LENGTH)
    values = jax.vmap(lambda x: MASKED.log_likelihood(x, None, 1))(clean).reshape(3, 3, 3)

    def reward(x, level, cond):
        return jnp.einsum("abc,a,b,c->", values, *x[:, :3])

    def share(params, power, seed):
        kernel = gj.Reverse(dataclasses.replace(model, params=params), gj.Ancestral())
        x = gj.generate(gj.keys(seed, n), kernel, levels, (LENGTH,))
        w = jnp.exp(power * jax.vmap(lambda x: reward(jax.nn.one_hot(x, 4), None, None))(x))
        count = np.bincount(np.asarray(jnp.sum(x * 3 ** jnp.arange(LENGTH), 1)), np.asarray(w), 3**LENGTH)
        return count / count.sum()

    target, found = share(model.params, 2.0, 2), {"before": share(model.params, 0.0, 1)}
    for name, base in {"with the divergence": model, "without": None}.items():
        loss = DRaFT(model, gj.Ancestral(), reward, levels, 2.0, last=12, base=base)
        batches = ((np.zeros((256, LENGTH), np.int32), np.zeros(256, np.int32)) for _ in range(500))
        optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 500))
        params, _ = fit(loss, model.params, batches, steps=500, optimizer=optimizer, ema=0.99)
        found[name] = share(params, 0.0, 1)
    off = {name: float(0.5 * np.abs(p - target).sum()) for name, p in found.items()}
    for what, value in {**off, "floor": floor(target, n)}.items():
        measured(what, value)
    assert off["with the divergence"] < 0.5 * off["before"]
    assert off["without"] > off["before"]


@pytest.mark.release
def test_the_gradient_of_straight_through_is_that_of_the_softmax():
    """One position, one step: d E / d logits by hand, hard forward and soft backward."""
    values, logits, key = jnp.array([0.3, -1.0, 2.0, 0.0]), jnp.array([[0.2, -0.4, 0.1]]), jax.random.key(3)
    model = gj.TokenNetwork(logits, lambda params, x, t, cond: params, gj.Absorbing(3), batched=False)
    loss = DRaFT(
        model, gj.Ancestral(), lambda x, level, cond: x[0] @ values, FLOW.levels(1, start=1.0), temperature=0.7
    )
    value, gradient = jax.value_and_grad(loss)(logits, key, jnp.zeros(1, int), 0)
    noise = jax.random.gumbel(jax.random.split(jax.random.split(jax.random.split(key)[1], 1)[0])[1], (1, 4))[0, :3]
    np.testing.assert_allclose(value, -values[jnp.argmax(jax.nn.log_softmax(logits[0]) + noise)], rtol=1e-6)
    soft = lambda z: jax.nn.softmax((jax.nn.log_softmax(z) + noise) / 0.7) @ values[:3]  # noqa: E731
    by_differences = [(soft(logits[0].at[i].add(1e-2)) - soft(logits[0].at[i].add(-1e-2))) / 2e-2 for i in range(3)]
    np.testing.assert_allclose(gradient[0], -np.asarray(by_differences), atol=1e-3)


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(gj.Refused, match="needs a model with a field params, got Gaussian"):
        DRaFT(BASE, gj.DDIM(1.0), linear, LEVELS)
    with pytest.raises(gj.Refused, match="through 1 to 24 steps, got last=25"):
        DRaFT(PLAIN, gj.DDIM(1.0), linear, LEVELS, last=25)(PLAIN.params, jax.random.key(0), jnp.zeros(2), 0)
    with pytest.raises(gj.Refused, match="Heun"):
        DRaFT(PLAIN, gj.Heun(), linear, LEVELS)
    with pytest.raises(gj.Refused, match="the model of tokens"):
        DRaFT(Tabled(jnp.zeros((4**LENGTH, LENGTH, 3))), gj.Ancestral(), linear, FLOW.levels(4))
    with pytest.raises(gj.Refused, match="PolicyGradient tunes models without a state, got Remembering"):
        PolicyGradient(Remembering(PLAIN.params), gj.DDIM(1.0), linear, LEVELS)(
            PLAIN.params, jax.random.key(0), jnp.zeros(2), 0
        )


@gj.core.pytree
class Remembering(Shifted):
    """A model with a memory, whose step cannot be asked for by itself."""

    def init(self, x):
        return jnp.zeros_like(x)
