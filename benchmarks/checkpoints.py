"""Do networks of OpenAI's real sizes convert and agree?  python -m benchmarks.checkpoints [--only NAME] [--out FILE]

For each release: its network in PyTorch with random weights, saved as a `.pt`; what `guidance-jax convert` does, on
that file; then both on the same input. Agreement is the largest difference over the largest entry, of the output and,
for classifiers, of grad log p(y | x_t). Needs PyTorch (the `bench` extra) and 9 GB of memory.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

import guidance_jax as gj
from benchmarks.timing import write
from benchmarks.torch_mirrors import RELEASES, Classifier, randomised
from guidance_jax.checkpoints.config import build, read_config
from guidance_jax.zoo.convert import convert
from guidance_jax.zoo.load import load


def inputs(size, glide, seed=0):
    g = np.random.default_rng(seed)
    tokens = np.where(np.arange(128) < 20, g.integers(0, 50257, 128), -1)
    return g.normal(size=(1, 3, size, size)).astype(np.float32), np.float32(417.0), tokens if glide else 7


def relative(got, want):
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def nchw(a):
    return np.moveaxis(np.asarray(a), -1, 0)[None]


def compare(name):
    network = randomised(RELEASES[name]())
    size, count = int(name.split("x")[0]) if "x" in name[:4] else 64, sum(p.numel() for p in network.parameters())
    x, t, cond = inputs(size, "glide" in name)
    record = {"parameters": count}
    inpaint = {}
    if "inpaint" in name:
        image = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
        inpaint = {"image": image, "mask": (image[:, :1] > 0).astype(np.float32)}
    begin = time.perf_counter()
    xt, tt = torch.from_numpy(x), torch.tensor([float(t)])
    if isinstance(network, Classifier):
        xt.requires_grad_(True)
        logits = network(xt, tt)
        torch.log_softmax(logits, -1)[0, cond].backward()
        want = {"logits": logits.detach().numpy()[0], "grad log p": xt.grad.numpy()}
    else:
        with torch.no_grad():
            if "glide" in name:
                extra = {k: torch.from_numpy(v) for k, v in inpaint.items()}
                want = {"output": network(xt, tt, torch.from_numpy(cond)[None], **extra).numpy()}
            elif "uncond" in name:
                want = {"output": network(xt, tt).numpy()}
            else:
                want = {"output": network(xt, tt, torch.tensor([cond])).numpy()}
    record["PyTorch, s"] = round(time.perf_counter() - begin, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.pt"
        torch.save(network.state_dict(), file)
        del network
        begin = time.perf_counter()
        [(kind, flax, domain)] = convert(file, Path(folder) / "models")
        record["convert, s"] = round(time.perf_counter() - begin, 2)
        record["network"], record["domain"] = str(flax), str(domain)
        classifier = kind == "classifier"
        found = load(Path(folder) / "models" / kind, gj.NoisyClassifier if classifier else gj.Network)
        assert build(read_config(Path(folder) / "models" / kind)["network"]) == flax
    image = jnp.asarray(x[0].transpose(1, 2, 0))
    begin = time.perf_counter()
    if classifier:
        level = domain.schedule(jnp.asarray(t))
        logits = jax.jit(found.apply)(found.params, image, t)
        gradient = jax.jit(jax.grad(gj.NoisyClassifier.log_prob, 1))(found, image, level, cond)
        got = {"logits": logits, "grad log p": nchw(gradient)}
    else:
        if inpaint:
            own = {k: jnp.asarray(v[0].transpose(1, 2, 0)) for k, v in inpaint.items()}
            condition = {"tokens": jnp.asarray(cond), **own}
        else:
            condition = None if "uncond" in name else jnp.asarray(cond)
        got = {"output": nchw(jax.jit(found.apply)(found.params, image, t, condition))}
    record["JAX, compiling, s"] = round(time.perf_counter() - begin, 2)
    record["agreement"] = {k: relative(got[k], v) for k, v in want.items()}
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(RELEASES))
    parser.add_argument("--out")
    args = parser.parse_args()
    rows = {}
    for name in args.only:
        rows[name] = compare(name)
        print(name, {k: v for k, v in rows[name].items() if k not in ("network", "domain")}, flush=True)
        write(args.out, rows=rows, torch=torch.__version__, settings=vars(args))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"largest difference {max(max(r['agreement'].values()) for r in rows.values()):.1e}; peak memory {peak:.1f} GB"
    )


if __name__ == "__main__":
    main()
