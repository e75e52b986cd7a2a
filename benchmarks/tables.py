"""Writes the tables of speed and checkpoints in `docs` from `results/`.  python benchmarks/tables.py [--check]"""

import argparse
import json
import re
import sys
from pathlib import Path

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parent.parent / "docs"
TASKS = {
    "adm": "classifier guidance, ADM of 8 M + 0.8 M, 32 x 32, batch 8",
    "small 32": "classifier guidance, 7 convolutions of 32 channels, 64 of 8 x 8",
    "small 64": "classifier guidance, 7 convolutions of 64 channels, 64 of 8 x 8",
    "small 128": "classifier guidance, 7 convolutions of 128 channels, 64 of 8 x 8",
    "cfg": "CFG, the ADM of 8 M",
    "cfg in turn": "CFG, the ADM of 8 M, conditions in turn",
}
PEERS = {
    "networks alone": ("guidance_jax", "networks alone"),
    "PyTorch loop": ("torch", "whole"),
    "diffusers": ("diffusers", "whole"),
    "azula": ("azula", "whole"),
    "hackable-diffusion": ("hackable", "whole"),
}


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def speed():
    rows = []
    for file in sorted(RESULTS.glob("peers_jax_*.json")):
        for task, found in json.loads(file.read_text()).items():
            step, over = found["milliseconds per step"], found["over ours"]
            cells = [f"{over[f'{n}, {w}']:.2f}" if f"{n}, {w}" in over else "" for n, w in PEERS.values()]
            jax = found["about"]["guidance_jax"]["jax"]
            rows.append([TASKS[task], jax, f"{step['guidance_jax, whole']:.1f}", *cells])
    return table(["a guided step", "JAX", "ours, ms", *(f"{name} / ours" for name in PEERS)], rows)


def checkpoints():
    found = json.loads((RESULTS / "checkpoints.json").read_text())["rows"]
    rows = [
        [
            f"`{name}`",
            f"{row['parameters'] / 1e6:.0f} M",
            ", ".join(f"{k} {v:.0e}" for k, v in row["agreement"].items()),
        ]
        for name, row in found.items()
    ]
    return table(["network", "parameters", "largest difference / largest entry"], rows)


def latent():
    found = json.loads((RESULTS / "latent_models.json").read_text())["rows"]
    parts = ("network", "text", "encoder", "decoder", "10 guided steps")
    rows = [
        [
            f"`{name}`",
            f"{row['parameters'] / 1e6:,.0f} M",
            *(f"{v:.0e}" if v else "" for v in map(row["agreement"].get, parts)),
        ]
        for name, row in found.items()
    ]
    return table(["model", "parameters", *parts], rows)


def demo(name):
    """The table of a demo as it wrote it."""

    def make():
        rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
        measures = list(rows[0]["measures"])

        def shown(value):
            return "" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

        lines = [
            [
                row["method"].strip("()"),
                f"{row['scale']:g}",
                *(shown(row["measures"][m]) for m in measures),
                f"{row['model_calls']} + {row['classifier_calls']}" if row["model_calls"] else "",
            ]
            for row in rows
        ]
        header = ["method", "scale", *(m.replace("|", "\\|") for m in measures), "calls of model + guide"]
        return table(header, lines)

    return make


TABLES = [
    ("benchmarks.md", "speed", speed),
    ("checkpoints.md", "checkpoints", checkpoints),
    ("checkpoints.md", "latent", latent),
    *(("tutorial/released_models.md", name, demo(name)) for name in ("faces", "antibodies", "proteins", "terrain")),
]


def filled(text, name, make):
    pattern = rf"(<!-- {name}: benchmarks/tables.py -->\n).*?(<!-- end -->)"
    text, found = re.subn(pattern, lambda m: m[1] + make() + "\n" + m[2], text, flags=re.DOTALL)
    if found != 1:
        raise ValueError(f"there are {found} places for the table {name}, expected one")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are what it would write")
    args = parser.parse_args()
    for page, name, make in TABLES:
        old = (DOCS / page).read_text()
        new = filled(old, name, make)
        if args.check and old != new:
            sys.exit(f"docs/{page} has another table than benchmarks/results; run benchmarks/tables.py")
        (DOCS / page).write_text(new)


if __name__ == "__main__":
    main()
