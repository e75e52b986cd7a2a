"""Do Inception-v3 and the measures agree with torch-fidelity?  python -m benchmarks.evaluation [--out FILE]

torch-fidelity's Inception on its own random initialisation, converted, on the same random images; then FID, Inception
score, precision, recall and kernel distance of both libraries on the same features. Needs the `bench` extra.
"""

import argparse

import jax.numpy as jnp
import numpy as np
import torch
import torch_fidelity
from torch_fidelity import feature_extractor_inceptionv3 as theirs
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from benchmarks.timing import write
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.metrics.frechet import frechet_distance
from guidance_jax.metrics.inception import InceptionExtractor
from guidance_jax.metrics.inception_network import Inception
from guidance_jax.metrics.inception_score import inception_score
from guidance_jax.metrics.kernel_distance import squared_mmd
from guidance_jax.metrics.precision_recall import precision_recall


class RandomInception(theirs.FeatureExtractorInceptionV3):
    """As torch-fidelity builds it, without its file of weights; moments of the normalisations drawn at random."""

    def __init__(self):
        theirs.load_state_dict_from_url = lambda *_, **__: {}
        super().__init__("random", ["2048", "logits_unbiased"])
        for module in self.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.data.uniform_(0.8, 1.5)

    def load_state_dict(self, *_, **__):
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--images", type=int, default=64)
    args = parser.parse_args()
    torch.manual_seed(0)
    network, spatial = RandomInception(), []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, out: spatial.append(out[:, :7].permute(0, 2, 3, 1)))
    state = {k: v.numpy() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    images = np.random.default_rng(0).integers(0, 256, (args.images, 64, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        pool, logits = (a.numpy() for a in network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))
    ours = InceptionExtractor(match_params(state, Inception(), jnp.zeros((64, 64, 3))))(images)

    def relative(a, b):
        return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max())

    agreement = {
        "pool": relative(ours.pool, pool),
        "logits": relative(ours.logits, logits),
        "spatial": relative(ours.spatial, spatial[0].reshape(len(images), -1).numpy()),
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
        print(f"{value:8.1e}  {name}")
    write(args.out, agreement=agreement, torch_fidelity=torch_fidelity.__version__, settings=vars(args))


if __name__ == "__main__":
    main()
