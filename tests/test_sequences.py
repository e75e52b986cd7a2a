"""Readers of sequences on files made here, the losses against exact entropies, and training of small models."""

import csv
import dataclasses
import gzip
import hashlib
import io
import tarfile
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.datasets.sequences import Sequences, text
from guidance_jax.discrete import NOS, FirstHitting, PredictorGuidance
from guidance_jax.text import FUDGE
from guidance_jax.training.token_losses import (
    EndToEnd,
    Interpolation,
    NextTokenLoss,
    TokenDenoising,
    Unrolled,
    before_end,
)
from guidance_jax.zoo.sequence_models import value_head
from recipes import (
    train_language_model,
    train_prefix_classifier,
    train_token_classifier,
    train_tokens,
)
from released import sentences
from released import splice_data as splice
from splice import Truth
from tests.token_table import FLOW, LENGTH, MASKED, UNIFORM
from text import words_of


def packed(rows, fields):
    """A gzipped CSV file."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fields)
    writer.writeheader()
    writer.writerows(rows)
    return gzip.compress(out.getvalue().encode(), mtime=0)


def pretend(monkeypatch, module, name, content):
    """The reader expects `content` in the place of the real file."""
    changed = dataclasses.replace(getattr(module, name), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(module, name, changed)
    return changed


def test_splice_sites_from_a_wheel_a_folder_or_a_file(tmp_path, monkeypatch):
    rows = [
        {"x": x, "y": y} for x, y in (("ACGGUAAGU", 2.0), ("CAGGCAAAA", -0.5), ("UUUGUACGA", 0.1), ("ACGGUAAAA", 0.3))
    ]
    content = packed(rows, ("x", "y"))
    carried = pretend(monkeypatch, splice, "MPSA", content)
    wheel = tmp_path / "mavenn-1.1.4-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(carried.member, content)
    (tmp_path / "mpsa_data.csv.gz").write_bytes(content)
    for path in (wheel, tmp_path, tmp_path / "mpsa_data.csv.gz"):
        data = splice.splice(path, top=0.25)
        assert data.tokens.shape == (4, 9)
        assert text(data.tokens[0], data.alphabet) == "ACGGUAAGU"
        assert data.labels.tolist() == [1, 0, 0, 0]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(carried.member, content + b"x")
    with pytest.raises(ValueError, match=r"sha256 .* damaged file; run: pip download --no-deps mavenn==1.1.4"):
        splice.splice(wheel)
    wheel.write_bytes(wheel.read_bytes()[:40])
    with pytest.raises(ValueError, match="is not a whole archive"):
        splice.splice(wheel)


def test_missing_files_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read, package in (
        (splice.splice, "mavenn==1.1.4"),
        (sentences.sentences, "vaderSentiment==3.3.2"),
    ):
        with pytest.raises(ValueError, match=rf"run: pip download --no-deps .*{package}") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_sentences_become_words(tmp_path, monkeypatch):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        for name in sentences.SOURCES.values():
            lines = ["1\t2.5\tA fine, fine film!", "2\t-1.5\tIt isn't a fine film", "3\t0.1\tSo so it is."]
            raw = "\n".join(lines).encode("latin1")
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    content = inner.getvalue()
    pretend(monkeypatch, sentences, "RATED", content)
    (tmp_path / "hutto_ICWSM_2014.tar.gz").write_bytes(content)
    data = sentences.sentences(tmp_path, "films", length=9, seen=1)
    assert [words_of(t, data.alphabet) for t in data.tokens] == ["a fine , fine film !", "it isn't a fine film"]
    assert data.labels.tolist() == [1, 0]
    assert data.tokens[0, 0] == 0
    with pytest.raises(ValueError, match="sources are films"):
        sentences.sentences(tmp_path, "poems")
    with pytest.raises(ValueError, match="no sentence of at most 2 words"):
        sentences.sentences(tmp_path, "films", length=3)


def test_sequences_check_themselves_and_split_without_leaks():
    tokens = np.array([[0, 1], [1, 1], [0, 1], [1, 0]] * 20, np.int32)
    data = Sequences(tokens, np.zeros(80, np.int32), ("a",), ("x", "y"))
    seen, held_out = data.split(0.5, seed=1)
    assert len(seen) + len(held_out) == 80
    assert not {t.tobytes() for t in seen.tokens} & {t.tobytes() for t in held_out.tokens}
    with pytest.raises(ValueError, match="tokens go from 0 to 1, got 1 to 2"):
        dataclasses.replace(data, tokens=tokens + 1)
    with pytest.raises(ValueError, match="labels go from 0 to 0, got 3"):
        dataclasses.replace(data, labels=np.full(80, 3, np.int32))
    assert text([0, 5, 1], ("x", "y")) == "x_y"


@pytest.mark.parametrize("model", [MASKED, UNIFORM], ids=["masks", "uniform"])
def test_the_bound_of_the_exact_model_is_the_entropy(model, measured):
    """In continuous time MDLM's and UDLM's bounds are tight for the exact reverse process."""

    def exact(params, x, t, cond):
        return model(x, FLOW(t), None, (), None)[0].log_p

    loss = TokenDenoising(exact, model.process, FLOW, labelled=False)
    p, n = model.target(), 100_000
    x = jnp.asarray(model.sequences[np.random.default_rng(0).choice(len(p), n, p=p)])
    keys = jax.random.split(jax.random.key(0), n)
    losses = np.asarray(jax.jit(jax.vmap(lambda k, x: loss((), k, x, 0)))(keys, x), np.float64)
    entropy = -np.sum(p * np.log(p)) / LENGTH
    error = losses.std() / np.sqrt(n)
    for what, value in {"bound": losses.mean(), "its error": error, "entropy": entropy}.items():
        measured(what, value)
    # the clock is cut at 1e-3 and 0.999 of its range
    assert abs(losses.mean() - entropy) < 3 * error + 4e-3 * entropy


def test_what_follows_the_end_does_not_count():
    x = jnp.array([0, 4, 5, 0, 0, 0])
    assert before_end(x, 0).tolist() == [1, 1, 1, 1, 0, 0]
    assert before_end(x, None).tolist() == [1] * 6

    def apply(params, x, cond):
        return jnp.where(jnp.arange(6)[:, None] < 3, 0.0, params) * jnp.arange(6.0), None

    loss = NextTokenLoss(apply, labelled=False, end=0)
    assert float(loss(0.0, jax.random.key(0), x, 0)) == pytest.approx(float(loss(9.0, jax.random.key(0), x, 0)))


def toy(n=2000, seed=0):
    """Sequences of the exact joint with labels drawn from p(y | x)."""
    generator = np.random.default_rng(seed)
    index = generator.choice(27, n, p=MASKED.target())
    classes = np.asarray(MASKED.classes, np.float64)
    labels = [generator.choice(3, p=classes[i] / classes[i].sum()) for i in index]
    return Sequences(MASKED.sequences[index], np.asarray(labels, np.int32), ("a", "b", "c"), ("x", "y", "z"))


@pytest.mark.slow
def test_trained_models_guide_towards_their_label(tmp_path):
    """Denoiser, value head and classifier learn a joint of 27 sequences; checkpoints are reused; guidance works."""
    data, process, n = toy(6000), gj.Absorbing(3), 5000
    sizes = dict(width=32, depth=2, steps=1000, batch=128)
    model = train_tokens(tmp_path / "m", data, process, value_weight=0.5, **sizes)
    again = train_tokens(tmp_path / "m", data, process, value_weight=0.5, **sizes)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    classifier = train_token_classifier(tmp_path / "c", data, process, **sizes)
    levels, labels = FLOW.levels(3), jnp.full(n, 1)

    def draw(kernel):
        return np.asarray(gj.generate(gj.keys(0, n), kernel, levels, (3,), labels))

    free = gj.Unconditional(model, 3)
    plain = draw(gj.Reverse(free, FirstHitting()))
    assert MASKED.total_variation(plain, MASKED.target()) < 0.15
    unguided = MASKED.total_variation(plain, MASKED.target(1))
    assert MASKED.total_variation(draw(gj.Reverse(model, FirstHitting())), MASKED.target(1)) < 0.6 * unguided
    guided = draw(gj.Reverse(PredictorGuidance(free, classifier, 1.0), FirstHitting()))
    assert MASKED.total_variation(guided, MASKED.target(1)) < 0.6 * unguided
    wanted = np.asarray(MASKED.classes)[:, 1]

    def share(x):
        return wanted[MASKED.index(x)].mean()

    strong = draw(gj.Reverse(NOS(free, value_head(model), 1.0, rate=1.0, steps=10), FirstHitting()))
    assert share(strong) > share(plain)


@pytest.mark.slow
def test_text_models_learn_and_are_reused(tmp_path):
    data = toy(4000)
    shifted = Sequences(np.pad(data.tokens + 1, ((0, 0), (1, 0))), data.labels, data.names, ("<s>", *data.alphabet))
    model = train_language_model(tmp_path / "l", shifted, width=32, depth=2, steps=1000, batch=128)
    prefix = train_prefix_classifier(tmp_path / "p", shifted, width=32, steps=500, batch=128)
    again = train_prefix_classifier(tmp_path / "p", shifted, width=32, steps=500, batch=128)
    jax.tree.map(np.testing.assert_array_equal, again.params, prefix.params)
    n = 5000
    kernel = gj.Reverse(FUDGE(gj.Unconditional(model, 3), prefix, 1.0), gj.Ancestral())
    x = np.asarray(gj.generate(gj.keys(0, n), kernel, gj.positions(4), (4,), jnp.full(n, 1)))[:, 1:] - 1
    assert MASKED.total_variation(x, MASKED.target(1)) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unrolled", "interpolation", "end to end"])
def test_other_losses_fall(kind):
    """A few gradient steps on one batch lower each loss."""
    import optax

    from guidance_jax.zoo.transformer import Transformer

    inputs = 3 if kind == "unrolled" else 4
    network = Transformer(inputs, 4 if kind == "end to end" else 3, 3, width=16, depth=1, heads=2, num_classes=4)
    zero = jnp.zeros(3, int) if kind == "unrolled" else jnp.zeros((3, 4))
    params = network.init(jax.random.key(0), zero, jnp.zeros(()), jnp.zeros((), int))
    if kind == "unrolled":
        loss = Unrolled(network.apply, gj.Uniform(3), FLOW, null=3)
    else:
        table = jax.random.normal(jax.random.key(1), (3, 4))
        params, cls = {"network": params, "table": table}, Interpolation if kind == "interpolation" else EndToEnd
        loss = cls(network.apply, gj.Cosine(), null=3)
    data, optimizer = toy(64), optax.adam(1e-2)

    @jax.jit
    def step(params, state, key):
        def mean(params):
            keys = jax.random.split(key, 64)
            return jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0, 0))(params, keys, data.tokens, data.labels))

        value, g = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(g, state)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for i in range(60):
        params, state, value = step(params, state, jax.random.key(i))
        values.append(float(value))
    assert np.mean(values[-10:]) < np.mean(values[:10]) - 0.05


def test_measures_of_splice_sites_by_hand():
    tokens = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    data = Sequences(
        tokens,
        np.array([0, 0, 0, 1], np.int32),
        ("rest", "top"),
        ("x", "y"),
        np.array([0.0, 1.0, 2.0, 3.0], np.float32),
    )
    truth = Truth(data)
    exact = truth.measure(tokens[[3, 3, 3]])
    assert exact["inclusion"] == 3.0
    assert exact["top"] == 1.0
    assert exact["diversity"] == 0.0
    found = truth.measure(np.array([[0, 1], [1, 1], [1, 0], [0, 0]]))
    assert found["inclusion"] == 1.5
    assert found["top"] == 0.25
    assert found["kl"] > exact["kl"] > 0
