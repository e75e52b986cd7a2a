"""What decoding of masked and uniform models obeys: unmasking orders, remasking, Gibbs correctors, contrasts, rules."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.automata import Automaton
from guidance_jax.discrete import (
    AdaptiveCFG,
    AutomatonGuidance,
    AutomatonTwist,
    EntRGi,
    FirstHitting,
    GibbsCorrector,
    PlannedUnmasking,
    PredictorGuidance,
    PromptCFG,
    Remasking,
    orders,
    remasking,
    sites,
)
from guidance_jax.guidance import Compose
from guidance_jax.oracles import Enumerated
from guidance_jax.oracles import monte_carlo_floor as floor
from tests.laws import first
from tests.thresholds import most_total_variation
from tests.token_table import FLOW, LENGTH, LEVELS, MASKED, NULL, UNIFORM, log_masked, unconditional

N = 30_000
FREE, TARGET = unconditional(MASKED), MASKED.target()


def draw(kernel, levels=LEVELS, n=N, label=0):
    return np.asarray(gj.generate(gj.keys(0, n), kernel, levels, (LENGTH,), jnp.full(n, label)))


def planned(model=FREE, **options):
    return gj.Reverse(model, PlannedUnmasking(**options))


# unmasking orders

EXACT = {
    "largest probability": planned(),
    "margin": planned(order=orders.margin),
    "entropy": planned(order=orders.entropy),
    "random": planned(order=orders.random),
    "Gumbel noise": planned(noise=0.3),
    "entropy bound 0": planned(order=orders.entropy, bound=0.0),
    "blocks of two": planned(block=2),
}


@pytest.mark.parametrize("name", first(2, list(EXACT)))
def test_orders_that_look_at_the_masks_alone_are_exact(name, measured):
    distance = MASKED.total_variation(draw(EXACT[name]), TARGET)
    measured("total variation", distance)
    assert distance <= most_total_variation(TARGET, N)


def test_the_order_of_llada_is_not_exact(measured):
    """It looks at the drawn tokens: at temperature 1 even one token a step samples another distribution."""
    distance = MASKED.total_variation(draw(planned(order=orders.low_confidence)), TARGET)
    measured("total variation", distance)
    assert 0.3 < distance < 0.6


@pytest.mark.release
@pytest.mark.parametrize("order", [orders.max_probability, orders.entropy])
def test_planned_unmasking_with_exact_rates_samples_the_conditional(order):
    x = draw(planned(PredictorGuidance(FREE, log_masked, 1.0), order=order), label=1)
    assert MASKED.total_variation(x, MASKED.target(1)) <= most_total_variation(MASKED.target(1), N)


def log_of_planned(bound):
    """log of the exact distribution of the sampler with entropy bound and three steps, by enumeration of its paths."""
    solver = PlannedUnmasking(order=orders.entropy, bound=bound)
    law = {(3,) * LENGTH: 1.0}
    for i in range(LENGTH):
        t, s = LEVELS.at(i), LEVELS.at(i + 1)
        after: dict = {}
        for x, p in law.items():
            pred = FREE(jnp.array(x), t, 0, (), None)[0]
            revealed = np.asarray(solver.reveal(pred, None, t, s, 0, jax.random.key(0)))
            rows = np.exp(np.asarray(pred.log_p, float))
            for v in itertools.product(range(3), repeat=int(revealed.sum())):
                y = np.array(x)
                y[revealed] = v
                q = p * np.prod(rows[np.flatnonzero(revealed), list(v)])
                after[tuple(y.tolist())] = after.get(tuple(y.tolist()), 0.0) + q
        law = after
    return np.log([law.get(tuple(int(v) for v in x), 1e-30) for x in MASKED.sequences])


@pytest.mark.parametrize("bound", [0.0, 0.3, 2.0])
def test_an_entropy_bound_bounds_the_divergence(bound, measured):
    """KL(p || sampler) <= bound x steps, and 0 at bound 0; enumerated, not sampled."""
    kl = float(np.sum(TARGET * (np.log(TARGET) - log_of_planned(bound))))
    measured("KL in nats", kl)
    assert -1e-4 < kl <= bound * LENGTH + 1e-4
    assert kl > 0.05 or bound < 2


def test_temperature_zero_takes_the_mode_of_a_product():
    p = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, 3)))
    product = Enumerated(jnp.einsum("a,b,c->abc", *p), MASKED.classes, gj.Absorbing(3))
    x = draw(planned(unconditional(product), temperature=0.0), n=5)
    np.testing.assert_array_equal(x, np.broadcast_to(np.argmax(p, 1), (5, 3)))


LONG = 12
ROWS = jax.random.normal(jax.random.key(2), (LONG, 5)) * 2
STATIC = gj.TokenNetwork(ROWS, lambda rows, x, t, cond: rows + 0.3 * jnp.sum(x == 5), gj.Absorbing(5), batched=False)


def path(solver, steps, known=None):
    """The masks that are left after every step, (steps, LONG) of booleans."""
    kernel, levels = gj.Reverse(STATIC, solver), FLOW.levels(steps)
    kernel = kernel if known is None else gj.Infill(kernel, known)
    x = kernel.start(None, levels, (LONG,))
    _, found = gj.sample(jax.random.key(0), kernel, levels, x, None, record=lambda carry: carry.x)
    return np.asarray(found) == 5


@pytest.mark.slow
def test_how_many_tokens_each_step_reveals():
    """LLaDA's division: floor(m / steps), one more in the first m mod steps; a threshold reveals more, never fewer."""
    left = path(PlannedUnmasking(), 5).sum(1)
    np.testing.assert_array_equal(-np.diff(np.append(LONG, left)), [3, 3, 2, 2, 2])
    prompt = jnp.where(jnp.arange(LONG) < 5, 1, -1)
    left = path(PlannedUnmasking(), 3, prompt).sum(1)
    np.testing.assert_array_equal(-np.diff(np.append(7, left)), [3, 2, 2])
    sure = int(np.sum(jax.nn.softmax(ROWS, 1).max(1) > 0.6))
    assert path(PlannedUnmasking(threshold=0.6), LONG)[0].sum() == LONG - sure


def test_blocks_are_finished_one_after_the_other():
    prompt = jnp.where(jnp.arange(LONG) < 2, 1, -1)  # blocks are counted from the first mask
    left = path(PlannedUnmasking(block=5), 5, prompt)
    for row in left:
        unfinished = np.flatnonzero(row)
        revealed = np.flatnonzero(~row)
        assert not len(unfinished) or (revealed - 2).max() // 5 <= (unfinished - 2).min() // 5
    late = path(PlannedUnmasking(last=int(np.argmax(ROWS[0]))), LONG)
    assert late[:-1, 0].sum() >= LONG - 1 - np.sum(np.argmax(ROWS, 1) == np.argmax(ROWS[0]))


def test_edits_replace_improbable_tokens_and_spare_the_prompt():
    wrong = jnp.argmin(ROWS, 1).astype(jnp.int32)
    kernel, levels = gj.Reverse(STATIC, PlannedUnmasking(0.0, edit=0.5)), FLOW.levels(2)
    x = np.asarray(gj.sample(jax.random.key(0), kernel, levels, wrong).x)
    sure = np.asarray(jax.nn.softmax(ROWS, 1).max(1) > 0.5)
    np.testing.assert_array_equal(x, np.where(sure, np.argmax(ROWS, 1), wrong))
    fixed = gj.Infill(kernel, jnp.where(jnp.arange(LONG) < 6, wrong, -1))
    np.testing.assert_array_equal(gj.sample(jax.random.key(0), fixed, levels, wrong).x[:6], wrong[:6])


# remasking


def knows(target):
    """A model that knows the answer."""
    logits = 50.0 * jax.nn.one_hot(target, 3)
    return gj.TokenNetwork((), lambda w, x, t, cond: logits, gj.Absorbing(3), batched=False)


AMOUNTS = (remasking.cap, remasking.rescale, remasking.forward_backward)
REMASKINGS = list(itertools.product(AMOUNTS, (1.0, 0.3, 0.0), (False, True)))


@pytest.mark.parametrize("case", first(2, REMASKINGS), ids=lambda case: f"{case[0].__name__} {case[1]} {case[2]}")
def test_remasking_keeps_the_share_of_decided_tokens(case, measured):
    """With a model that knows x0, P(decided at s) = alpha_s, whatever is remasked; by confidence within .03."""
    (amount, eta, confident), steps, n = case, 6, 3000
    kernel = gj.Reverse(knows(jnp.array([0, 1, 2] * 4)), Remasking(eta=eta, amount=amount, confident=confident))
    levels = FLOW.levels(steps)

    @jax.jit
    @jax.vmap
    def run(key):
        x = kernel.start(key, levels, (12,))
        return gj.sample(key, kernel, levels, x, None, record=lambda carry: carry.x)[1]

    share = np.mean(np.asarray(run(gj.keys(0, n))) != 3, (0, 2))
    error = np.abs(share - np.asarray(levels.alpha[1:])).max()
    measured("largest error of the share", error)
    assert error < 5 * 0.5 / np.sqrt(12 * n) + (0.03 if confident else 0)


@pytest.mark.release
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_remasking_reaches_the_distribution_with_many_steps(eta, measured):
    distance = {
        k: MASKED.total_variation(draw(gj.Reverse(FREE, Remasking(eta=eta)), FLOW.levels(k)), TARGET) for k in (4, 400)
    }
    measured("4 steps", distance[4])
    measured("400 steps", distance[400])
    assert distance[400] < 0.03 < distance[4]


# uniform noise


def plain_posterior(params, x, t, cond):
    """log p(x0_l | x_t), which plain cross-entropy fits, by a sum over all sequences."""
    weights = jax.nn.softmax(jnp.sum(UNIFORM._evidence(x, FLOW(t)), 1) + UNIFORM._prior(None))
    rows = [[jnp.sum(jnp.where(UNIFORM.sequences[:, j] == v, weights, 0)) for v in range(3)] for j in range(LENGTH)]
    return jnp.log(jnp.array(rows))


def test_what_a_token_says_of_itself_is_divided_out():
    network = gj.TokenNetwork((), plain_posterior, gj.Uniform(3), batched=False, given="all")
    for t in (0.01, 0.5, 0.99):
        for x in ([0, 2, 1], [1, 1, 1]):
            level, x = FLOW(jnp.float32(t)), jnp.array(x)
            own, exact = (m(x, level, None, (), None)[0].log_p for m in (network, UNIFORM))
            np.testing.assert_allclose(own, exact, atol=1e-5)


@pytest.mark.release
def test_a_network_of_the_other_meaning_samples_another_distribution(measured):
    """Plain cross-entropy read as leave-one-out is wrong at any number of steps, converted it is right."""
    for given in ("all", "others"):
        network = gj.TokenNetwork((), plain_posterior, gj.Uniform(3), batched=False, given=given)
        x = gj.generate(gj.keys(0, 20_000), gj.Reverse(network, gj.Ancestral()), FLOW.levels(256), (LENGTH,))
        distance = UNIFORM.total_variation(x, TARGET)
        measured(given, distance)
        assert distance < 1.2 * floor(TARGET, 20_000) if given == "all" else distance > 0.25


def test_uniform_networks_say_what_they_are_given():
    with pytest.raises(gj.Refused, match='write given="all" after plain cross-entropy'):
        gj.TokenNetwork((), plain_posterior, gj.Uniform(3), batched=False)
    with pytest.raises(gj.Refused, match="write one of the two"):
        gj.TokenNetwork((), plain_posterior, gj.Absorbing(3), batched=False, given="none")


CHOICES = {sites.uniformly: (0, 0.006), sites.lowest_maximum: (0.01, 0.04), sites.lowest_current: (0.03, 0.08)}
CHOICES |= {sites.lowest_margin: (0.05, 0.12)}


@pytest.mark.parametrize("choose", first(1, CHOICES))
def test_gibbs_correctors_keep_the_distribution_if_the_choice_is_random(choose, measured):
    """One sweep from exact draws of p_s, 200,000 of them: random keeps p_s, informed choices do not."""
    level, n = FLOW(jnp.float32(0.3)), 200_000
    forward = np.asarray(UNIFORM.process.forward(level), float)
    p = np.array(
        [
            np.sum(TARGET * np.prod([forward[UNIFORM.sequences[:, j], y[j]] for j in range(LENGTH)], 0))
            for y in UNIFORM.sequences
        ]
    )
    p /= p.sum()
    start = jnp.asarray(UNIFORM.sequences[np.random.default_rng(0).choice(len(p), n, p=p)])
    free = unconditional(UNIFORM)
    corrector = GibbsCorrector(gj.Reverse(free, gj.Ancestral()), free, choose=choose)
    after = jax.jit(jax.vmap(lambda x, key: corrector.correct(x, level, 0, key)))(start, gj.keys(1, n))
    distance = UNIFORM.total_variation(after, p)
    measured("total variation after a sweep", distance)
    low, high = CHOICES[choose]
    assert low <= distance < high


# contrasts


def marginals_of(p, known):
    """p(x_l | known tokens), (L, V), by a sum over all sequences; `known` has 3 for masks."""
    p = np.asarray(p, float).ravel()
    for j, v in enumerate(known):
        p = np.where((MASKED.sequences[:, j] == v) | (v == 3), p, 0)
    p = p / p.sum()
    return np.array([[p[MASKED.sequences[:, j] == v].sum() for v in range(3)] for j in range(LENGTH)])


def contrast_of(strong, weak, scale):
    possible = strong > 1e-12
    q = np.where(possible, np.where(possible, weak, 1) ** (1 - scale) * strong**scale, 0)
    return q / q.sum(1, keepdims=True)


def ask(model, x, label=0):
    pred = model(jnp.array(x), FLOW(jnp.float32(0.5)), jnp.int32(label), model.init(jnp.array(x)), jax.random.key(0))[0]
    return np.exp(np.asarray(pred.log_p, float))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_prompt_cfg_contrasts_with_the_model_without_the_prompt(scale):
    prompt = jnp.array([2, -1, -1])
    for x, without in (([2, 3, 3], [3, 3, 3]), ([2, 1, 3], [3, 1, 3])):
        wanted = contrast_of(marginals_of(TARGET, x), marginals_of(TARGET, without), scale)
        found = ask(PromptCFG(FREE, prompt, scale), x)
        np.testing.assert_allclose(found[2], wanted[2], atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_adaptive_cfg_hides_what_the_model_is_least_sure_of(scale):
    """rho 0 is the model; rho 1 contrasts with the prompt alone; between, the improbable token is hidden."""
    x, prompt = [2, 1, 3], jnp.array([2, -1, -1])
    model = marginals_of(TARGET, x)
    np.testing.assert_allclose(ask(AdaptiveCFG(FREE, scale, 0.0, prompt), x)[2], model[2], atol=1e-5)
    wanted = contrast_of(model, marginals_of(TARGET, [2, 3, 3]), scale)
    np.testing.assert_allclose(ask(AdaptiveCFG(FREE, scale, 1.0, prompt), x)[2], wanted[2], atol=1e-5)
    sure = ask(FREE, x).max(1)[:2]  # of the tokens as the model sees them, at their own places
    hidden = [3 if j == int(np.argmin(sure)) else v for j, v in enumerate(x)]
    wanted = contrast_of(model, marginals_of(TARGET, hidden), scale)
    np.testing.assert_allclose(ask(AdaptiveCFG(FREE, scale, 0.3), x)[2], wanted[2], atol=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.7, -0.5), (0.0, 0.0)])
def test_compose_of_tokens_is_the_joint_posterior(weights):
    """For conditions that are independent given x: at weights 1 and one mask left it is p(x | both)."""
    classes, w = np.asarray(MASKED.classes, float), np.array(weights)
    model = gj.Conditioned(Compose(MASKED, NULL, jnp.array(weights)), lambda cond: jnp.stack([cond, (cond + 1) % 3]))
    joint = TARGET * classes[:, 0] ** w[0] * classes[:, 1] ** w[1]
    if set(weights) <= {0.0, 1.0}:
        np.testing.assert_allclose(ask(model, [2, 3, 1])[1], marginals_of(joint, [2, 3, 1])[1], atol=1e-5)
    u = marginals_of(TARGET, [2, 3, 3])
    both = [marginals_of(TARGET * classes[:, k], [2, 3, 3]) / np.where(u > 0, u, 1) for k in (0, 1)]
    q = u[1] * both[0][1] ** w[0] * both[1][1] ** w[1]
    np.testing.assert_allclose(ask(model, [2, 3, 3])[1], q / q.sum(), atol=1e-5)


TABLE = jax.random.normal(jax.random.key(5), (3, 2))
LINEAR = jax.random.normal(jax.random.key(6), (LENGTH, 2))


def linear(e, level, cond):
    return jnp.sum(e * LINEAR)


def test_entrgi_climbs_the_expected_reward():
    """Without steps the model; a reward linear in embeddings rises; its first step is the sign of its gradient."""
    x = [3, 1, 3]
    np.testing.assert_allclose(ask(EntRGi(FREE, linear, TABLE, steps=0), x), ask(FREE, x), atol=1e-6)
    np.testing.assert_allclose(ask(EntRGi(FREE, linear, TABLE, 0.0), x), ask(FREE, x), atol=1e-6)
    rewards = []
    for steps in (0, 1, 5, 20):
        p = ask(EntRGi(FREE, linear, TABLE, rate=0.2, steps=steps), x)
        np.testing.assert_allclose(p[1], ask(FREE, x)[1], atol=1e-6)
        rewards.append(float(np.sum((p @ np.asarray(TABLE)) * np.asarray(LINEAR))))
    assert rewards == sorted(rewards)
    assert rewards[-1] > rewards[0] + 0.5
    base = ask(FREE, x)
    gradient = np.zeros((LENGTH, 3))
    for j, v in itertools.product((0, 2), range(3)):  # finite differences of the expected reward in the logits
        values = []
        for h in (1e-4, -1e-4):
            logits = np.log(base[j]) + h * (np.arange(3) == v)
            p = np.exp(logits) / np.exp(logits).sum()
            values.append(float(p @ np.asarray(TABLE, float) @ np.asarray(LINEAR[j], float)))
        gradient[j, v] = (values[0] - values[1]) / 2e-4
    from guidance_jax.discrete import entrgi

    moved = np.log(ask(EntRGi(FREE, linear, TABLE, rate=0.2, steps=1, mix=entrgi.expectation), x)) - np.log(base)
    wanted = 0.2 * np.sign(gradient)
    for j in (0, 2):
        np.testing.assert_allclose(moved[j] - moved[j, 0], wanted[j] - wanted[j, 0], atol=1e-3)


# rules

PATTERNS = ["a+b?", "(ab|c)*", "[ab]{2,3}c?", "a.*c", "[^a]+", "(?i:A)b*", "^(a|bc){1,2}$", r"\w{3}", "((a|b)c)+|a*"]
TOKENS = ["a", "b", "c", "ab", "bc", None]


@pytest.mark.parametrize("pattern", first(4, PATTERNS))
def test_automata_accept_what_the_patterns_of_python_match(pattern):
    rule = Automaton.from_pattern(pattern, TOKENS)
    for length in range(5):
        for x in itertools.product(range(len(TOKENS)), repeat=length):
            state = int(rule.start)
            for token in x:
                state = int(rule.after[state][rule.classes[token]])
            text = "".join(TOKENS[token] or "" for token in x)
            wanted = 5 not in x and re.fullmatch(pattern, text) is not None
            assert bool(rule.accepting[state]) == wanted, text


@pytest.mark.slow
def test_automata_combine_as_sets():
    first, second = Automaton.from_pattern("[ab]*", "abc"), Automaton.count(1, 1, 2, 3)
    ended = Automaton.from_pattern("a*", "abc", end=2)
    for x in itertools.product(range(3), repeat=3):
        a, b = (bool(rule.accepts(jnp.array(x))) for rule in (first, second))
        assert a == (2 not in x)
        assert b == (1 <= x.count(1) <= 2)
        assert bool((first & second).accepts(jnp.array(x))) == (a and b)
        assert bool((first | second).accepts(jnp.array(x))) == (a or b)
        assert bool((~first).accepts(jnp.array(x))) == (not a)
        text = x[: x.index(2)] if 2 in x else x
        assert bool(ended.accepts(jnp.array(x))) == (1 not in x and all(v == 2 for v in x[len(text) :]))


RULE = Automaton.from_pattern("[ab]*ca*", "abc")


def brute_force(log_p):
    """(P(accept), P(accept | x_l = v), accepted sequences, their probabilities) in float64."""
    every = np.array(list(itertools.product(range(3), repeat=len(log_p))))
    p = np.exp(np.asarray(log_p, float)[np.arange(len(log_p)), every].sum(1))
    accepted = np.array([re.fullmatch("[ab]*ca*", "".join("abc"[v] for v in x)) is not None for x in every])
    given = [
        [p[accepted & (every[:, j] == v)].sum() / p[every[:, j] == v].sum() for v in range(3)]
        for j in range(len(log_p))
    ]
    return p[accepted].sum(), np.array(given), every, np.where(accepted, p, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ratios_of_an_automaton_are_those_of_all_sequences(dtype, x64, measured):
    log_p = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (6, 3), dtype))
    whole, given, _, _ = brute_force(log_p)
    error = np.abs(np.exp(np.asarray(RULE.log_ratios(log_p), float)) - given / whole).max()
    measured("largest error of a ratio", error)
    assert error < (1e-6 if dtype == "float32" else 1e-12) * (given / whole).max()
    np.testing.assert_allclose(
        float(jnp.exp(RULE.log_probability(log_p))), whole, rtol=1e-5 if dtype == "float32" else 1e-12
    )


@pytest.mark.slow
def test_gradient_of_the_probability_of_a_rule_is_that_of_finite_differences(x64):
    log_p = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (5, 3), "float64"))
    g = jax.grad(RULE.log_probability)(log_p)
    for j, v in ((0, 0), (2, 1), (4, 2)):
        step = 1e-6 * jax.nn.one_hot(j * 3 + v, 15, dtype="float64").reshape(5, 3)
        slope = (RULE.log_probability(log_p + step) - RULE.log_probability(log_p - step)) / 2e-6
        np.testing.assert_allclose(g[j, v], slope, atol=1e-6)


def test_joint_draws_and_modes_of_a_rule_are_exact(measured):
    log_p = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (5, 3)))
    _, _, every, p = brute_force(log_p)
    x = np.asarray(jax.vmap(lambda key: RULE.draw(log_p, key))(gj.keys(0, N)))
    count = np.bincount((x * 3 ** np.arange(4, -1, -1)).sum(1), minlength=len(p)) / N
    distance = 0.5 * np.abs(count - p / p.sum()).sum()
    measured("total variation", distance)
    assert distance <= most_total_variation(p / p.sum(), N)
    np.testing.assert_array_equal(RULE.mode(log_p), every[np.argmax(p)])


ONE = Automaton.from_pattern("[ab]*c[ab]*", "abc")
INSIDE = np.array([bool(ONE.accepts(jnp.asarray(x))) for x in MASKED.sequences])
RULED = TARGET * INSIDE / np.sum(TARGET * INSIDE)


@pytest.mark.parametrize(
    "kernel",
    [
        gj.Reverse(AutomatonGuidance(FREE, ONE), FirstHitting()),
        planned(AutomatonGuidance(FREE, ONE)),
        planned(within=ONE),
        planned(within=ONE, temperature=0.0),
    ],
    ids=["one by one", "planned", "joint", "mode"],
)
def test_every_sample_follows_the_rule(kernel, measured):
    """One token a step by the ratios, any number by joint draws; the bias is that of the model's marginals."""
    jointly = isinstance(kernel.model, gj.Unconditional)
    for levels in (LEVELS, FLOW.levels(1)) if jointly else (LEVELS,):
        x = draw(kernel, levels, 5000)
        assert INSIDE[MASKED.index(x)].all()
        measured(f"bias in {len(levels.t) - 1} steps", MASKED.total_variation(x, RULED))


def test_rules_are_exact_for_independent_tokens():
    p = jax.nn.softmax(jax.random.normal(jax.random.key(1), (3, 3)))
    product = Enumerated(jnp.einsum("a,b,c->abc", *p), MASKED.classes, gj.Absorbing(3))
    target = product.target() * INSIDE / np.sum(product.target() * INSIDE)
    x = draw(gj.Reverse(AutomatonGuidance(unconditional(product), ONE), FirstHitting()))
    assert product.total_variation(x, target) <= most_total_variation(target, N)


@pytest.mark.slow
def test_particles_with_a_rule_reach_the_conditional_and_its_evidence(measured):
    move = gj.Twisted(FREE, FirstHitting(), AutomatonTwist(FREE, ONE), 1.0, AutomatonGuidance(FREE, ONE), noisy=True)
    found = gj.populations(gj.keys(0, 10), gj.SMC(move), LEVELS, (LENGTH,), 3000, jnp.zeros(10, int))
    log_w = np.asarray(found.log_w + found.log_evidence[:, None]).ravel()
    distance = MASKED.total_variation(np.asarray(found.x).reshape(-1, LENGTH), RULED, log_w)
    evidence = np.exp(np.asarray(found.log_evidence)) / np.sum(TARGET * INSIDE)
    measured("total variation", distance)
    measured("evidence over p(rule)", evidence.mean())
    assert distance <= most_total_variation(RULED, N)
    assert abs(evidence.mean() - 1) < 5 * evidence.std() / np.sqrt(10) + 1e-5


@pytest.mark.slow
def test_scale_of_a_rule_and_what_it_forbids():
    x = [3, 3, 3]
    np.testing.assert_allclose(ask(AutomatonGuidance(FREE, ONE, 0.0), x), ask(FREE, x), atol=1e-6)
    forbidden = Automaton.count(0, 0, 0, 3)
    for scale in (0.2, 1.0, 3.0):
        assert (ask(AutomatonGuidance(FREE, forbidden, scale), x)[:, 0] == 0).all()
    broken = jnp.array([0, 3, 3], jnp.int32)  # a decided token that the rule forbids
    kernel = gj.Reverse(AutomatonGuidance(FREE, forbidden), FirstHitting())
    assert (np.asarray(gj.sample(jax.random.key(0), kernel, LEVELS, broken, 0).x) == gj.core.FAILED).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Automaton.from_pattern("a(", "ab"), "is not a valid regular expression"),
        (lambda: Automaton.from_pattern(r"(a)\1", "ab"), "has groupref, which a finite automaton cannot express"),
        (lambda: Automaton.from_pattern(r"(?=a)b", "ab"), "has assert, which a finite automaton cannot express"),
        (lambda: Automaton.from_pattern("a{99999}", "ab"), "repeats more than"),
        (lambda: Automaton.from_pattern("a", "ab", end=7), "the token that ends a text must be from 0 to 1"),
        (lambda: Automaton.count(0, 3, 2, 5), "no sequence can follow this rule"),
        (lambda: Automaton.count(0, 0, 2, 5) & Automaton.count(0, 0, 2, 4), "combine only with equal vocabulary"),
        (lambda: draw(planned(within=Automaton.from_pattern("ab", "abc")), n=2), "no sequence of 3 tokens follows"),
        (
            lambda: draw(gj.Reverse(AutomatonGuidance(FREE, Automaton.count(0, 0, 1, 4)), FirstHitting()), n=2),
            "has 4 tokens, the model 3",
        ),
        (
            lambda: draw(gj.Reverse(PromptCFG(FREE, jnp.zeros(5, int), 1.0), FirstHitting()), n=2),
            "pad it with -1 to that length",
        ),
        (lambda: AdaptiveCFG(FREE, 1.0, 1.5), "rho of AdaptiveCFG must be from 0 to 1"),
        (lambda: Remasking(eta=2.0), "eta of Remasking must be from 0 to 1"),
        (lambda: PlannedUnmasking(-1.0), "temperature must be positive"),
        (lambda: PlannedUnmasking(block=0), "a block needs at least one token"),
        (lambda: PlannedUnmasking(within=ONE, edit=0.5), "could break the rule"),
        (
            lambda: draw(gj.Reverse(EntRGi(FREE, linear, TABLE[:2]), FirstHitting()), n=2),
            "the table of embeddings must have shape",
        ),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(gj.Refused, match=re.escape(said)):
        make()


def test_planned_unmasking_has_no_weights():
    move = gj.Twisted(FREE, PlannedUnmasking(), log_masked, noisy=True)
    with pytest.raises(gj.Refused, match="a solver with a transition density, got PlannedUnmasking"):
        gj.populations(gj.keys(0, 2), gj.SMC(move), LEVELS, (LENGTH,), 4, jnp.zeros(2, int))


@pytest.mark.slow
def test_a_traced_temperature_of_zero_is_greedy_here_and_spoils_samples_elsewhere():
    def last(solver):
        def run(temperature):
            kernel = gj.Reverse(FREE, solver(temperature))
            return gj.sample(jax.random.key(0), kernel, LEVELS, jnp.full(LENGTH, 3, jnp.int32), 0).x

        return np.asarray(jax.jit(run)(0.0))

    assert (last(PlannedUnmasking) >= 0).all()
    assert (last(gj.Ancestral) == gj.core.FAILED).all()
