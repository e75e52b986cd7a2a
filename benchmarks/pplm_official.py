"""PPLM by its authors' loop and by ours, on one language model."""

import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict
from torch.nn import functional

import guidance_jax as gj
from benchmarks.suite import Row, benchmark
from benchmarks.sweep import estimates
from guidance_jax.discrete import Ancestral, Forbid
from guidance_jax.text import PPLM, positions
from released.sentences import UNKNOWN
from text import POSITIVE, Parts, prepare

TOP, STEPS, FUSION, KL = 10, 10, 0.95, 0.01
RATES = {"theirs": (0.0, 0.02, 0.03, 0.05, 0.1, 0.2), "ours": (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)}


def authors_script(folder: str) -> types.ModuleType:
    """The authors' `run_pplm`, without the modules that it would load a model and a tokenizer with."""
    absent = {
        "transformers": ["GPT2Tokenizer"],
        "transformers.file_utils": ["cached_path"],
        "transformers.modeling_gpt2": ["GPT2LMHeadModel"],
        "tqdm": ["trange"],
    }
    for name, names in absent.items():
        sys.modules[name] = types.ModuleType(name)
        for attribute in names:
            setattr(sys.modules[name], attribute, None)
    sys.path.insert(0, folder)
    import run_pplm

    run_pplm.to_var = lambda x, requires_grad=False, **_: x.clone().requires_grad_(requires_grad)
    return run_pplm


class Mirror:
    """A `GPT2` of ours, unconditional, called as transformers 2 does: (ids, past) -> (logits, past, hidden states)."""

    def __init__(self, model: gj.text.LanguageModel, forbidden: np.ndarray):
        flat = flatten_dict(model.params["params"], sep=".")
        self.weights = {name: torch.tensor(np.asarray(a)) for name, a in flat.items()}
        network = model.apply.module
        self.depth, self.heads, self.forbidden = network.depth, network.heads, torch.tensor(forbidden)
        self.shift = self.weights["wpe"] + self.weights["labels"][model.domain.null_label]

    def resize_token_embeddings(self):
        return types.SimpleNamespace(weight=self.weights["wte"])

    def dense(self, x, name):
        return x @ self.weights[f"{name}.kernel"] + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        return functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.scale"], self.weights[f"{name}.bias"])

    def __call__(self, ids=None, past=None, inputs_embeds=None):
        h = self.weights["wte"][ids] if inputs_embeds is None else inputs_embeds
        begin, length = 0 if past is None else past[0].shape[-2], h.shape[1]
        begin = min(begin, len(self.shift) - length)  # they look one token beyond the last
        h, present = h + self.shift[begin : begin + length], []
        for i in range(self.depth):
            mixed = self.dense(self.norm(h, f"h_{i}.ln_1"), f"h_{i}.attn_c_attn")
            q, k, v = (a.transpose(1, 2) for a in mixed.reshape(*h.shape[:2], 3, self.heads, -1).unbind(2))
            if past is not None:
                k, v = torch.cat([past[i][0], k], -2), torch.cat([past[i][1], v], -2)
            present.append(torch.stack([k, v]))
            seen = torch.ones(length, k.shape[-2], dtype=torch.bool).tril(k.shape[-2] - length)
            out = functional.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).reshape(h.shape)
            h = h + self.dense(out, f"h_{i}.attn_c_proj")
            wide = functional.gelu(self.dense(self.norm(h, f"h_{i}.ln_2"), f"h_{i}.mlp_c_fc"), approximate="tanh")
            h = h + self.dense(wide, f"h_{i}.mlp_c_proj")
        h = self.norm(h, "ln_f")
        return (h @ self.weights["wte"].T).masked_fill(self.forbidden, -1e4), present, (h,)


def difference(mirror: Mirror, model: gj.text.LanguageModel, tokens: np.ndarray) -> float:
    """The largest of the logits' differences over the largest logit: of all tokens at once, one by one with the cache,
    and as one-hot vectors in the place of tokens."""
    network, allowed = model.apply.module, ~mirror.forbidden.numpy()
    expected, _ = network.apply(model.params, jnp.asarray(tokens), jnp.asarray(model.domain.null_label))
    ids = torch.tensor(tokens[None]).long()
    one_by_one, past = [], None
    for i in range(len(tokens)):
        given = {"ids": ids[:, i : i + 1]}
        if i % 2:
            given = {"inputs_embeds": mirror.weights["wte"][None, tokens[i : i + 1]]}
        logits, past, _ = mirror(**given, past=past)
        one_by_one.append(logits[0, 0])
    ways = [mirror(ids)[0][0].numpy(), torch.stack(one_by_one).numpy()]
    return float(max(np.abs(found - expected)[:, allowed].max() for found in ways) / np.abs(expected).max())


def theirs(loop, mirror, parts: Parts, length: int):
    """(n, rate) -> tokens (n, length), one sentence after the other."""
    slope, bias = (torch.tensor(np.asarray(a)) for a in (parts.attribute.weights, parts.attribute.bias))

    def draw(n, rate):
        torch.manual_seed(0)
        found = [
            loop.generate_text_pplm(
                mirror, None, context=[0], device="cpu", classifier=lambda h: h @ slope + bias, class_label=POSITIVE,
                loss_type=loop.PPLM_DISCRIM, length=length - 1, stepsize=rate, top_k=TOP, horizon_length=1, gamma=1.0,
                num_iterations=STEPS if rate else 0, gm_scale=FUSION, kl_scale=KL, verbosity_level=loop.QUIET,
            )[0][0]
            for _ in range(n)
        ]  # fmt: skip
        return np.stack(found).astype(np.int32)

    return draw


def ours(free, parts: Parts, length: int):
    solver = Ancestral(top_k=TOP)

    def draw(n, rate):
        guided = PPLM(free, parts.attribute, 1.0, rate, kl=KL, fusion=FUSION, steps=STEPS, ahead=True)
        kernel = gj.Reverse(guided if rate else free, solver)
        labels = jnp.full(n, POSITIVE)
        return np.asarray(gj.generate(gj.keys(0, n), kernel, positions(length), (length,), labels))

    return draw


@benchmark(quick={"samples": 2}, packages=("jax", "torch"), top=TOP, steps=STEPS, fusion=FUSION, kl=KL)
def pplm_official(
    official: Path,
    data: Path | None = None,
    folder: Path = Path("text_models"),
    samples: int = 240,
    known: list = (),
) -> Iterator[Row]:
    """Does our PPLM do what its authors' loop does, on one language model?

    `--official`: a clone of https://github.com/uber-research/PPLM; `--data`: the folder with
    vaderSentiment-3.3.2.tar.gz. The language model, the discriminator and the judge of `text`. `generate_text_pplm` of
    the authors' `run_pplm.py` runs as it is, on a PyTorch mirror of the network that answers as GPT-2 did in
    transformers 2; only its `to_var`, which asks PyTorch for what it no longer has, is replaced. Both take 10 steps a
    token and draw from the ten likeliest, as the authors do for sentiment. Their changes of the cache stay in it for
    the tokens that follow, ours begin anew. Needs torch.
    """
    parts = prepare(folder, data, width=128, steps=500, progress=True)
    model, length = parts.model, parts.model.context
    forbidden = np.array([w == UNKNOWN for w in parts.seen.alphabet])
    mirror = Mirror(model, forbidden)
    free = gj.Unconditional(Forbid(model, jnp.asarray(forbidden)), model.domain.null_label)

    yield Row({"compared": "logits"}, {"relative difference": difference(mirror, model, parts.held_out.tokens[0])})
    done = {(row["case"].get("code"), row["case"].get("rate")) for row in known}
    ways = {"theirs": theirs(authors_script(str(official)), mirror, parts, length), "ours": ours(free, parts, length)}
    for code, draw in ways.items():
        for rate in RATES[code]:
            if (code, rate) in done:
                continue
            begin = time.perf_counter()
            tokens = draw(samples, rate)
            seconds = (time.perf_counter() - begin) / samples
            report = estimates(parts.judge.read(tokens).summary, len(tokens))
            yield Row({"code": code, "rate": rate}, report, {"seconds a sample": round(seconds, 3)})
