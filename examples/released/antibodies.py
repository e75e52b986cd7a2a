"""Language models of antibodies: AntiBERTy (antiberty 0.1.3, MIT; Ruffolo et al. 2021, arXiv 2112.07782), 26 M
parameters, and Sapiens (sapiens 1.0.5, MIT; Prihoda et al. 2022, mAbs 14), 0.6 M.

AntiBERTy is a denoiser of masked sequences with heads that tell species and chain from the same masked input: noisy
classifiers. It was trained with 15 % of masks; far more of them extrapolates. Sapiens was trained on human sequences
alone and shares nothing with it, so it can judge what AntiBERTy was guided to.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.checkpoints.torch_file import read_torch
from guidance_jax.core import CLEAN, Bound, Refused, log_softmax
from guidance_jax.datasets.sequences import AMINO_ACIDS, encode
from guidance_jax.discrete.network import HiddenNetwork, TokenNetwork
from guidance_jax.discrete.nos import ValueHead
from guidance_jax.discrete.process import Absorbing
from guidance_jax.models.network import NoisyClassifier
from released.bert import BERT
from released.carried import Carried, Package

ANTIBERTY = Carried(
    Package("antiberty", "0.1.3", "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a"),
    "antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin",
    "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
)
HUMAN = Package("sapiens", "1.0.5", "af1a8d445e9d7ab9f5f04512cf325acdfd9dd0930eb957b63ec234df1f141a8b")
SAPIENS = {
    "heavy": Carried(
        HUMAN,
        "sapiens/models/v1/checkpoint_vh.pt",
        "43254666e9ac0d5aa8fc120f12ac02b6ff082cd1f107c389023c1b947f214825",
    ),
    "light": Carried(
        HUMAN,
        "sapiens/models/v1/checkpoint_vl.pt",
        "570a63a6bdd60750c2cc2d280a419c300fafff8ab83f343f8e3847fd07903f6e",
    ),
}
PROCESS = Absorbing(len(AMINO_ACIDS))
SPECIES = ("camel", "human", "mouse", "rabbit", "rat", "rhesus")
CHAINS = ("heavy", "light")
HEADS = (("species", len(SPECIES)), ("chain", len(CHAINS)), ("graft", 2))
SIZES = {"width": 128, "depth": 4, "mlp_width": 256, "epsilon": 1e-5, "first": 4, "mask": 24, "begin": 0}
NAMES = (  # of both packages, in the order in which they are replaced
    (r"^bert\.|^cls\.|^decoder\.sentence_encoder\.|^decoder\.(?=lm_head)", ""),
    (r"^embeddings\.word_embeddings|^embed_tokens", "word"),
    (r"^embeddings\.position_embeddings|^embed_positions", "position"),
    (r"^embeddings\.LayerNorm|^emb_layer_norm", "norm"),
    (r"^encoder\.layer\.|^layers\.", "layer."),
    (r"attention\.self\.|self_attn\.(?=[qkv]_proj)", ""),
    (r"\.q_proj", ".query"),
    (r"\.k_proj", ".key"),
    (r"\.v_proj", ".value"),
    (r"attention\.output\.dense|self_attn\.out_proj", "out"),
    (r"attention\.output\.LayerNorm|self_attn_layer_norm", "out_norm"),
    (r"intermediate\.dense|\.fc1", ".up"),
    (r"(?<=\d)\.output\.dense|\.fc2", ".down"),
    (r"(?<=\d)\.output\.LayerNorm|\.final_layer_norm", ".down_norm"),
    (r"\.\.", "."),
    (r"^predictions\.transform\.dense|^lm_head\.dense", "transform"),
    (r"^predictions\.transform\.LayerNorm|^lm_head\.layer_norm", "transform_norm"),
    (r"^predictions\.decoder|^lm_head", "decoder"),
    (r"^pooler\.dense", "pooler"),
    (r"^(species|chain|graft)(?=\.)", r"head_\1"),
)


def tokens_of(*chains: str) -> np.ndarray:
    """Chains of one length as tokens (n, L); an underscore is a mask.

    Raises:
      Refused: letters that are no amino acids.
    """
    unknown = sorted(set("".join(chains)) - {*AMINO_ACIDS, "_"})
    if unknown:
        raise Refused(f"amino acids are {''.join(AMINO_ACIDS)}, and _ masks one; got {unknown[0]!r}")
    return encode(list(chains), (*AMINO_ACIDS, "_"))


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors by the names of `BERT`, without what is stored twice."""
    found = {}
    for name, tensor in state.items():
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        found[name] = tensor
    kinds = found.pop("embeddings.token_type_embeddings.weight", None)
    if kinds is not None:  # every token is of the first type
        found["position.weight"] = found["position.weight"] + kinds[0]
    return {k: v for k, v in found.items() if k not in ("embeddings.position_ids", "predictions.bias")}


def _states(network, params, x, t, cond):
    return network.apply(params, x, method="states")


def _decode(network, params, h, t, cond):
    return network.apply(params, h, method="decode")


def _classify(network, name, params, x, t):
    return _value(network, name, params, network.apply(params, x, method="states"))


def _value(network, name, params, h):
    return network.apply(params, h, name, method="classify")


def _logits(network, params, x, t, cond):
    return network.apply(params, x)[0]


class AntiBERTy:
    """The network with its heads.

    Attributes:
      model: a `HiddenNetwork` of masked chains of any length up to 510; hidden states are those before layer `cut`.

    Raises:
      Refused: its file is missing (the message says how to get it) or another one.
    """

    def __init__(self, path: str | Path | None = None, *, cut: int = 4, download: bool = False):
        network = BERT(labels=HEADS, cut=cut)
        params = match_params(renamed(read_torch(ANTIBERTY.read(path, download=download))), network, jnp.zeros(4, int))
        self.params, self.network = jax.device_put(params), network
        encode, decode = Bound(_states, network), Bound(_decode, network)
        self.model = HiddenNetwork(self.params, encode, decode, PROCESS)

    def classifier(self, name: str) -> NoisyClassifier:
        """log p(label | masked chain) by the head "species" or "chain", of tokens or one-hot vectors."""
        return NoisyClassifier(self.params, Bound(_classify, self.network, name), batched=False)

    def value(self, name: str) -> ValueHead:
        """The same of hidden states, for `NOS` and `LaMBO`."""
        return ValueHead(self.params, Bound(_value, self.network, name))


def sapiens(chain: str = "heavy", path: str | Path | None = None, *, download: bool = False) -> TokenNetwork:
    """A denoiser of human chains, "heavy" or "light", of at most 142 letters.

    Raises:
      Refused: another chain; its file is missing (the message says how to get it) or another one.
    """
    if chain not in SAPIENS:
        raise Refused(f"the chains are {', '.join(SAPIENS)}, got {chain!r}")
    network = BERT(**SIZES, end=2, positions=146, offset=2)
    state = read_torch(SAPIENS[chain].read(path, download=download), key="model")
    return TokenNetwork(
        jax.device_put(match_params(renamed(state), network, jnp.zeros(4, int))),
        Bound(_logits, network),
        PROCESS,
        batched=False,
    )


@partial(jax.jit, static_argnames="batch")
def pseudo_log_likelihood(model: Any, x: Any, batch: int = 16) -> Any:
    """The mean over positions of log p(x_l | the other letters), in nats, of one chain (L,): every letter masked once.

    The usual score of a masked language model (Salazar et al. 2020, arXiv 1910.14659); `L` network calls.
    """

    def one(i):
        logits = model.logits(x.at[i].set(PROCESS.mask), CLEAN, None)
        return log_softmax(logits)[i, x[i]]

    return jnp.mean(jax.lax.map(one, jnp.arange(len(x)), batch_size=batch))
