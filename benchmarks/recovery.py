"""How far do language models of antibodies know what is masked?  python -m benchmarks.recovery [--out FILE]

Of the package's own two examples, a human heavy and a mouse light chain, a share of letters is masked; recovery is how
many of them the likeliest letter is right for, and the species head says what it makes of the masked chain.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import write
from guidance_jax.core import CLEAN
from released.antibodies import PROCESS, SPECIES, AntiBERTy, sapiens, tokens_of

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
    return np.where(places, PROCESS.mask, tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("recovery.json"))
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    bert = AntiBERTy(download=True)
    species = jax.jit(jax.vmap(lambda x, label: bert.classifier("species").value(x, CLEAN, label), in_axes=(0, None)))
    asked = [
        ("AntiBERTy", bert.model, "human heavy"),
        ("Sapiens, heavy", sapiens("heavy", download=True), "human heavy"),
        ("AntiBERTy", bert.model, "mouse light"),
    ]
    rows = []
    for model, network, name in asked:
        tokens = tokens_of(CHAINS[name])[0]
        label = jnp.int32(SPECIES.index(name.split()[0]))
        logits = jax.jit(jax.vmap(lambda x, network=network: network.logits(x, CLEAN, None)))
        for share in SHARES:
            x = masked(tokens, share, args.draws)
            right = np.asarray(jnp.argmax(logits(x), -1)) == tokens
            each = [float(r[m].mean()) for r, m in zip(right, x == PROCESS.mask, strict=True)]
            row = {"chain": name, "model": model, "masked": share, "recovery": float(np.mean(each))}
            row["error"] = float(np.std(each, ddof=1) / len(each) ** 0.5)
            if network is bert.model:
                row["species"] = float(jnp.exp(species(jnp.asarray(x), label)).mean())
            rows.append(row)
            print(row, flush=True)
    write(args.out, settings={"draws": args.draws}, rows=rows)


if __name__ == "__main__":
    main()
