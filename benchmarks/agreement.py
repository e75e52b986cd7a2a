"""Do networks and measures of ours agree with the code that they come from? Largest difference over largest entry."""

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import guidance_jax as gj
from benchmarks.suite import Row, benchmark
from guidance_jax.checkpoints.config import build, read_config
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.metrics.frechet import frechet_distance
from guidance_jax.metrics.inception import InceptionExtractor
from guidance_jax.metrics.inception_network import Inception
from guidance_jax.metrics.inception_score import inception_score
from guidance_jax.metrics.kernel_distance import squared_mmd
from guidance_jax.metrics.precision_recall import precision_recall
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


def convert_and_compare(name: str) -> Row:
    """A release: its network in PyTorch with random weights, what is converted from its file, both on one input."""
    import torch

    from benchmarks.torch_mirrors import RELEASES, Classifier, randomised

    network = randomised(RELEASES[name]())
    size, count = int(name.split("x")[0]) if "x" in name[:4] else 64, sum(p.numel() for p in network.parameters())
    x, t, cond = inputs(size, "glide" in name)
    cost: dict[str, Any] = {"parameters": count}
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
    cost["PyTorch, s"] = round(time.perf_counter() - begin, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.pt"
        torch.save(network.state_dict(), file)
        del network
        begin = time.perf_counter()
        [(kind, flax, domain)] = convert(file, Path(folder) / "models")
        cost["convert, s"] = round(time.perf_counter() - begin, 2)
        cost["network"], cost["domain"] = str(flax), str(domain)
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
    cost["JAX, compiling, s"] = round(time.perf_counter() - begin, 2)
    return Row({"network": name}, {k: relative(got[k], v) for k, v in want.items()}, cost)


@benchmark(quick={"only": ("64x64_classifier",)}, packages=("jax", "torch"))
def checkpoints(only: tuple[str, ...] = ()) -> Iterator[Row]:
    """Do networks of OpenAI's, GLIDE's and EDM's real sizes convert and agree?

    For each release (all, unless some are named): its network in PyTorch with random weights, saved as a `.pt`; what
    `guidance-jax convert` does, on that file; then both on the same input: the output and, for classifiers, grad log
    p(y | x_t). Needs PyTorch (the `bench` extra) and 9 GB of memory.
    """
    from benchmarks.torch_mirrors import RELEASES

    for name in only or RELEASES:
        yield convert_and_compare(name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield Row({"process": "all of them"}, {}, {"peak memory, GB": round(peak, 1)})


def random_inception() -> Any:
    """Inception as torch-fidelity builds it, without its file of weights; moments of the normalisations at random."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Random(theirs.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            return None

    theirs.load_state_dict_from_url = lambda *_, **__: {}
    network = Random("random", ["2048", "logits_unbiased"])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.8, 1.5)
    return network


@benchmark(quick={"images": 2}, packages=("jax", "torch", "torch-fidelity"))
def evaluation(images: int = 64) -> Iterator[Row]:
    """Do Inception-v3 and the measures agree with torch-fidelity?

    torch-fidelity's Inception on its own random initialisation, converted, on the same random images; then FID,
    Inception score, precision, recall and kernel distance of both libraries on the same features. Needs the `bench`
    extra.
    """
    import torch
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    torch.manual_seed(0)
    network, spatial = random_inception(), []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, out: spatial.append(out[:, :7].permute(0, 2, 3, 1)))
    state = {k: v.numpy() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    pictures = np.random.default_rng(0).integers(0, 256, (images, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        pool, logits = (a.numpy() for a in network(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())))
    ours = InceptionExtractor(match_params(state, Inception(), jnp.zeros((64, 64, 3))))(pictures)

    agreement = {
        "pool": relative(ours.pool, pool),
        "logits": relative(ours.logits, logits),
        "spatial": relative(ours.spatial, spatial[0].reshape(len(pictures), -1).numpy()),
    }
    g = np.random.default_rng(1)
    x, y = (g.normal(size=(2000, 64)) @ g.normal(size=(64, 64)) for _ in range(2))
    x, y, scores = (a.astype(np.float32) for a in (x, y, 3 * g.normal(size=(2000, 20))))
    tx, ty, ts = map(torch.from_numpy, (x, y, scores))
    fid = fid_statistics_to_metric(fid_features_to_statistics(tx), fid_features_to_statistics(ty), False)
    score = isc_features_to_metric(ts, splits=10, shuffle=False)
    pr = prc_features_to_metric(tx, ty, prc_neighborhood=3, prc_batch_size=10000, save_cpu_ram=False, verbose=False)
    kid = kid_features_to_metric(tx, ty, kid_subsets=1, kid_subset_size=2000, verbose=False, rng_seed=0,
                                 kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
                                 kid_kernel_poly_coef0=1.0)  # fmt: skip
    agreement |= {
        "FID": relative(frechet_distance(x, y), fid["frechet_inception_distance"]),
        "IS": relative(inception_score(scores, 200)[0], score["inception_score_mean"]),
        "precision, recall": relative(precision_recall(x, y), [pr["precision"], pr["recall"]]),
        "KID": relative(squared_mmd(x, y), kid["kernel_inception_distance_mean"]),
    }
    for name, value in agreement.items():
        yield Row({"quantity": name}, {"difference": value})
