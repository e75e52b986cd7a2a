"""Decoding of masked language models: orders, contrasts, classifiers, particles and rules on text; caches by speed."""

import ast
import collections
import math
import re
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.suite import Measure, Row, benchmark
from guidance_jax.automata import Automaton
from guidance_jax.core import Bound
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.discrete import (
    TAG,
    AdaptiveCFG,
    AnyOrder,
    AutomatonGuidance,
    AutomatonTwist,
    FirstHitting,
    PlannedUnmasking,
    Remasking,
    orders,
)
from guidance_jax.zoo.rotary.network import RotaryTransformer
from guidance_jax.zoo.rotary.pipeline import TextPipeline
from recipes import FLOW, train_token_classifier, train_tokens

LENGTH, NULL = 32, 2
LETTERS = tuple(" abcdefghijklmnopqrstuvwxyz0123456789()[]{}=+-*/.,:;_'\"<>!%#&@|\\^~`?$")
PATTERN = r".*\(.*\).*"  # a pair of brackets in this order


def lines_of_python() -> tuple[list[str], list[str]]:
    """(lines of code, lines of docstrings) of the standard library that is installed."""
    code, prose = [], []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_text("utf-8", "ignore")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        held = {
            ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Module)
        }
        text = "\n".join(doc for doc in held if doc)
        prose += text.splitlines()
        spoken = set(text.splitlines())
        code += [
            line for line in source.splitlines() if line.strip() not in spoken and not line.strip().startswith("#")
        ]
    return code, prose


def windows(lines: list[str]) -> np.ndarray:
    """The first letters of every line that is long enough, as tokens (n, LENGTH), each once."""
    number = {letter: i for i, letter in enumerate(LETTERS)}
    found = {}
    for line in lines:
        text = " ".join(line.lower().split())[:LENGTH]
        if len(text) == LENGTH and all(c in number for c in text):
            found[text] = [number[c] for c in text]
    return np.asarray(list(found.values()), np.int32)


def corpus() -> tuple[Sequences, Sequences]:
    """Two halves that share no line: for the model and its classifier, and for what judges."""
    both = [windows(lines) for lines in lines_of_python()]
    tokens = np.concatenate(both)
    labels = np.repeat([0, 1], [len(a) for a in both]).astype(np.int32)
    order = np.random.default_rng(0).permutation(len(tokens))
    half = len(tokens) // 2
    return tuple(Sequences(tokens[i], labels[i], ("code", "prose"), LETTERS) for i in (order[:half], order[half:]))


class Grams:
    """An independent model of letters: interpolated 5-grams, by counts of held-out lines."""

    def __init__(self, tokens: np.ndarray, most: int = 5):
        self.most, self.counts = most, collections.Counter()
        for row in tokens.tolist():
            for i in range(len(row)):
                for k in range(min(most, i + 1)):
                    self.counts[tuple(row[i - k : i + 1])] += 1
                    self.counts[(*row[i - k : i], -1)] += 1

    def nats(self, row: list[int]) -> float:
        """-log p a letter."""
        total = 0.0
        for i in range(len(row)):
            p = 1 / len(LETTERS)
            for k in range(min(self.most, i + 1)):
                context = self.counts[(*row[i - k : i], -1)]
                p = (self.counts[tuple(row[i - k : i + 1])] + 2 * p) / (context + 2)
            total -= math.log(p)
        return total / len(row)


def measures(seeds: list[np.ndarray], judge: gj.NoisyClassifier, grams: Grams) -> dict[str, Measure]:
    """Of samples of several seeds: what is measured of each, its mean and standard error over the seeds."""
    clean = FLOW(jnp.float32(0.0))
    found = collections.defaultdict(list)
    for x in seeds:
        good = (x >= 0).all(1)
        log_p = jax.vmap(lambda row: judge.log_prob(row, clean, jnp.int32(1)))(jnp.asarray(np.maximum(x, 0)))
        texts = ["".join(LETTERS[t] for t in row) for row in x[good].tolist()]
        found["p(prose) of the judge"].append(float(np.mean(np.exp(np.asarray(log_p))[good])))
        found["nats a letter of 5-grams"].append(float(np.mean([grams.nats(row) for row in x[good].tolist()])))
        found["different 4-grams"].append(
            len({t[i : i + 4] for t in texts for i in range(LENGTH - 3)}) / (len(texts) * 29)
        )
        found["follow the pattern"].append(float(np.mean([re.fullmatch(PATTERN, t) is not None for t in texts])))
        found["failed"].append(float(np.mean(~good)))
    error = math.sqrt(len(seeds)) or 1.0
    return {
        k: Measure(float(np.mean(v)), float(np.std(v, ddof=1) / error) if len(v) > 1 else None)
        for k, v in found.items()
    }


@benchmark(quick={"samples": 8, "seeds": 1, "steps": 2})
def decoding(
    folder: Path = Path("decoding_models"), samples: int = 200, seeds: int = 3, steps: int = 2500
) -> Iterator[Row]:
    """(trains for ten minutes on two cores) Which order, contrast, guide or rule decodes a masked model best?

    Lines of Python's standard library, 32 letters each, code or docstring. A masked model and a noisy classifier learn
    from one half; the judge and the 5-gram model that measures learn from the other. Every guided method asks for
    docstrings; every rule for a pair of brackets.
    """
    seen, held = corpus()
    masks = gj.Absorbing(len(LETTERS))
    model = train_tokens(folder / "masks", seen, masks, width=96, steps=steps, batch=128, progress=True)
    classifier = train_token_classifier(
        folder / "classifier", seen, masks, width=48, steps=steps // 2, batch=128, progress=True
    )
    judge = train_token_classifier(
        folder / "judge", held, masks, width=48, steps=steps // 2, batch=128, seed=7, progress=True
    )
    apart = 3000  # lines that the 5-grams do not count, to be measured themselves
    grams = Grams(held.tokens[apart:])
    free = gj.Unconditional(model, NULL)
    yield Row(
        {"what": "held-out lines"},
        measures([held.tokens[i : i + samples] for i in range(0, 3 * samples, samples)], judge, grams),
    )
    prose = held.tokens[:apart][held.labels[:apart] == 1]
    yield Row(
        {"what": "held-out docstrings"},
        measures([prose[i : i + samples] for i in range(0, 3 * samples, samples)], judge, grams),
    )

    def run(case, make, levels, calls, population=0):
        drawn = []
        for seed in range(seeds):
            keys, labels = gj.keys(seed, samples), jnp.ones(samples, int)
            if population:
                found = gj.populations(keys, make, levels, (LENGTH,), population, labels)
                drawn.append(np.asarray(found.best()))
            else:
                drawn.append(np.asarray(gj.generate(keys, make, levels, (LENGTH,), labels)))
        return Row(case, measures(drawn, judge, grams), {"calls": calls})

    for count in (8, 16, 32):
        levels = FLOW.levels(count)
        solvers = {
            f.__name__: PlannedUnmasking(order=f) for f in (orders.max_probability, orders.entropy, orders.margin)
        }
        solvers |= {
            "random": PlannedUnmasking(order=orders.random),
            "LLaDA": PlannedUnmasking(order=orders.low_confidence),
        }
        solvers |= {"ancestral": gj.Ancestral(), "remasking": Remasking(eta=0.1)}
        solvers |= {"entropy bound 0.5": PlannedUnmasking(order=orders.entropy, bound=0.5)}
        for name, solver in solvers.items():
            yield run({"order": name, "steps": count}, gj.Reverse(free, solver), levels, count)

    levels, planned, first = FLOW.levels(LENGTH), PlannedUnmasking(), FirstHitting()
    yield run({"guidance": "none"}, gj.Reverse(free, planned), levels, LENGTH)
    yield run({"guidance": "conditional model"}, gj.Reverse(model, planned), levels, LENGTH)
    for scale in (1.5, 2.0, 3.0):
        yield run(
            {"guidance": "D-CFG", "scale": scale}, gj.Reverse(gj.CFG(model, NULL, scale), planned), levels, 2 * LENGTH
        )
        contrast = AdaptiveCFG(model, scale)
        yield run(
            {"guidance": "A-CFG of the conditional", "scale": scale}, gj.Reverse(contrast, planned), levels, 2 * LENGTH
        )
        yield run(
            {"guidance": "TAG", "scale": scale}, gj.Reverse(TAG(free, classifier, scale), planned), levels, 3 * LENGTH
        )
        any_order = AnyOrder(free, classifier, scale, top=4)
        yield run({"guidance": "exact, four candidates", "scale": scale}, any_order, levels, 5 * LENGTH)
        led = gj.SMC(gj.Twisted(free, first, classifier, scale, TAG(free, classifier, scale), noisy=True))
        yield run({"guidance": "twisted, 4 led by TAG", "scale": scale}, led, levels, 16 * LENGTH, 4)
        corrected = gj.SMC(gj.Corrected(gj.CFG(model, NULL, scale), first))
        yield run({"guidance": "corrected D-CFG, 4", "scale": scale}, corrected, levels, 8 * LENGTH, 4)

    rule = Automaton.from_pattern(PATTERN, LETTERS)
    yield run({"rule": "none"}, gj.Reverse(free, planned), levels, LENGTH)
    yield run({"rule": "ratios"}, gj.Reverse(AutomatonGuidance(free, rule), planned), levels, LENGTH)
    yield run({"rule": "joint draws"}, gj.Reverse(free, PlannedUnmasking(within=rule)), levels, LENGTH)
    eight = gj.Reverse(free, PlannedUnmasking(within=rule))
    yield run({"rule": "joint draws, 8 steps"}, eight, FLOW.levels(8), 8)
    twist = gj.Twisted(free, first, AutomatonTwist(free, rule), 1.0, AutomatonGuidance(free, rule), noisy=True)
    yield run({"rule": "twisted, 4"}, gj.SMC(twist), levels, 12 * LENGTH, 4)


SMALL = RotaryTransformer(8192, 512, 1536, 8, 8, 64, 4, query_norm="head", head="tied")


def whole_in_blocks(network, params, x, t, cond):
    return network.read(params, x, 0, None, cond["padding"], 32)[0]


@benchmark(quick={"tokens": 32})
def decoding_speed(tokens: int = 256, prompt: int = 256) -> Iterator[Row]:
    """How many tokens a second does a cache of keys and values decode?

    A random network of Qwen3's kind (8 layers, width 512, 8,192 tokens), one sequence, blocks of 32, two tokens a step.
    """
    key = jax.random.key(0)
    shapes, structure = jax.tree.flatten(SMALL.shapes(), is_leaf=lambda s: isinstance(s, tuple))
    leaves = [0.02 * jax.random.normal(jax.random.fold_in(key, i), s) for i, s in enumerate(shapes)]
    params = jax.tree.unflatten(structure, leaves)
    process = gj.Absorbing(SMALL.vocabulary, mask=0)
    bare = gj.TokenNetwork(params, Bound(whole_in_blocks, SMALL), process, batched=False)
    full = gj.TokenNetwork(params, Bound(lambda n, p, x, t, c: n.apply(p, x, t, c), SMALL), process, batched=False)
    pipeline = TextPipeline(full, SMALL, None, None, 1)
    length = prompt + tokens
    known = np.where(np.arange(length) < prompt, 1 + np.arange(length) % 100, -1).astype(np.int32)[None]
    cond = {"known": known, "padding": np.zeros(1, np.int32)}
    models = {
        "block-causal, no cache": (bare, PlannedUnmasking(0.0, block=32)),
        "block-causal, cache (exact)": (pipeline.in_blocks(32, prompt, causal=True), PlannedUnmasking(0.0)),
        "sees everything, no cache": (full, PlannedUnmasking(0.0, block=32)),
        "sees everything, dual cache": (pipeline.in_blocks(32, prompt, causal=False), PlannedUnmasking(0.0)),
    }
    levels, out, times = pipeline.levels(tokens // 2), {}, collections.defaultdict(list)
    for _ in range(4):  # the first compiles
        for name, (model, solver) in models.items():
            began = time.perf_counter()
            x = gj.generate(gj.keys(0, 1), pipeline.kernel(model, solver), levels, (length,), cond)
            out[name] = np.asarray(x)
            times[name].append(time.perf_counter() - began)
    for name, seconds in times.items():
        same = float(np.mean(out[name] == out[name.split(",")[0] + ", no cache"]))
        rate = tokens / float(np.median(seconds[1:]))
        yield Row({"decoding": name}, {"tokens a second": rate, "same tokens as without cache": same})
