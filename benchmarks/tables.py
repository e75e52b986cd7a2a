"""Writes tables, figures and curves of `docs` from `results/`:  python -m benchmarks.tables [--check | --pictures]"""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

from benchmarks import figures, sweep
from benchmarks.figures import RESULTS, result
from benchmarks.sweep import told

DOCS = Path(__file__).parent.parent / "docs"
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
    found = result("checkpoints")["rows"]
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
    found = result("latent_models")["rows"]
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
        rows = result(name)["rows"]
        measures = list(rows[0]["measures"])

        def shown(value):
            return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

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


def measures(name, method, scale=None):
    """The measures of the row of a method, at a scale if it has several."""
    rows = [r for r in result(name)["rows"] if r["method"] == method and scale in (None, r["scale"])]
    return rows[0]["measures"]


def tuned(name, method):
    """What is reported of a method of a sweep at its chosen strength."""
    return next(r["report"] for r in sweep.chosen(result(name)) if r["method"] == method)


NOS = "NOS, KL weight 0.1, one inner step"


def systems():
    """Paper's claim, paper's number, ours, the gap and its reason: a row a system."""
    antibody = {m: tuned("antibodies_tuned", m) for m in ("no guidance", "best of 6", NOS)}
    nos = "; ".join(f"{m} {told(v['human'])}, {told(v['judge'])}" for m, v in antibody.items())
    ours = {k: spread([t[-1] for t in v]) for k, v in result("ehrlich")["traces"].items()}
    theirs = {k: spread([t[-1] for t in v]) for k, v in result("ehrlich_official")["traces"].items()}
    seeds = {k: len(v) for r in ("ehrlich", "ehrlich_official") for k, v in result(r)["traces"].items()}
    black_box = "; ".join(f"{name} {value} ({seeds[name]} seeds)" for name, value in (ours | theirs).items())

    def text(method):
        return tuned("text", method)

    free, fudge = map(text, ("no guidance", "FUDGE"))
    ten, pplm = map(text, ("no guidance, top 10", "PPLM, top 10 (scale: its rate)"))
    steps = "Diffusion-LM: Diffusion-LM steps (strength: their rate)"
    lm, cdcd = (
        [text(m) for m in ("Diffusion-LM: no guidance", steps)],
        [text(f"CDCD: {m}") for m in ("no guidance", "CFG")],
    )

    def site(method):
        return tuned("splice", method)

    plain, masked, unrolled, hidden = map(
        site, ("no guidance", "Mask-Predict on D-CFG, 4 steps", "SUNDAE, D-CFG, 24 steps", "NOS, KL weight 0.1")
    )
    real = result("text")["settings"]["real"]["positive"]

    def sentiment(row):
        return f"judged positive {told(row['positive'])} at perplexity {told(row['perplexity'])}"

    def sites(row):
        return f"{told(row['top'])} in the top tenth at KL {told(row['kl'])}, diversity {told(row['diversity'])}"

    rows = [
        ("NOS (2305.20009)", "gradients into hidden states beat autoregressive guidance at equal likelihood",
         "figures only", f"antibody framework, p(human) of the guide, log p a letter of the judge: {nos}; splice "
         f"sites: {sites(hidden)}; unguided {sites(plain)}",
         "beats no guidance and best-of-n at equal calls; on splice sites no rate moves anything"),
        ("LaMBO-2 (2305.20009)", "NOS with edits where the value is most sensitive improves antibodies in few edits",
         "99 % expressed, 40 % bound in the last round (figure 7)",
         f"Ehrlich functions, best of 8,500 calls: {black_box}",
         "no wet laboratory; theirs reduced to what two cores allow, see `ehrlich_official.py`"),
        ("PPLM (1912.02164)", "gradients into the cache steer a frozen language model",
         "on sentiment 39.6 %, unguided 19.3 %, re-ranked too 73.7 % (authors' files)",
         f"of the ten likeliest tokens: {sentiment(pplm)}; unguided {sentiment(ten)}",
         "holds within twice the perplexity, as with the authors' code on this model (below); 6,155 sentences, theirs "
         "GPT-2"),
        ("Diffusion-LM (2205.14217)", "gradients on word embeddings control what plug-and-play methods cannot",
         "semantic control 81.2 %, FUDGE 69.9, PPLM 9.9 (table 2)",
         f"{sentiment(lm[1])}; unguided {sentiment(lm[0])}; FUDGE {sentiment(fudge)}",
         "the model has seen 6,155 sentences for 1,000 steps, theirs 50,000; positive at the cost of diversity"),
        ("CDCD (2211.15089)", "score interpolation keeps classifier-free guidance for language",
         "AR-NLL 4.39, 4.16, 3.93 at scale 1, 2, 4 (table 2)",
         f"{sentiment(cdcd[1])}; unguided {sentiment(cdcd[0])}",
         "the same direction, on sentiment in the place of likelihood"),
        ("CMLM, Mask-Predict (1904.09324), guided", "few parallel passes come near to left to right",
         "BLEU 27.03 in 10 passes en-de, 18.05 in one (as quoted by others); guided: none",
         f"splice sites, 4 passes: {sites(masked)}; unguided {sites(plain)}",
         "finds modes, which are not the distribution"),
        ("SUNDAE (2112.06749), guided", "training on its own outputs makes few steps enough",
         "its table could not be read; guided: none",
         f"splice sites: {sites(unrolled)}", "no published number beside it"),
        ("FUDGE (2104.05218)", "a classifier of prefixes controls generation through the logits alone",
         "in Diffusion-LM's table 2: semantic control 69.9 %",
         f"{sentiment(fudge)}; unguided {sentiment(free)}; real positive sentences {sentiment(real)}",
         "holds; its 100 candidates make it repetitive"),
    ]  # fmt: skip
    return table(["system", "its claim", "its number", "ours", "gap and reason"], rows)


def spread(values):
    """Mean and standard error over seeds."""
    mean = sum(values) / len(values)
    error = (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5 if len(values) > 1 else 0.0
    return f"{mean:.3g} ± {error:.1g}"


def pplm_official():
    """PPLM by the authors' loop and by ours on the same model, by rate."""
    columns = ("positive", "perplexity", "distinct")
    rows = [
        [r["code"], f"{r['rate']:g}", *(told(r["report"][c]) for c in columns)] for r in result("pplm_official")["rows"]
    ]
    return table(["code", "rate", "judged positive", "perplexity", "distinct pairs"], rows)


PUBLISHED = {  # 2503.02819, table A1, as a reproduction of it has copied it
    "tempering alone": ("their target score", "", "0.49", "11.3", "15.7", ""),
    "corrected, systematic": ("theirs, systematic resampling", "", "0.37", "6.3", "11.3", ""),
}


def mixture():
    found = result("toys")
    columns = ["energy W2", "TV", "W1", "W2", "log evidence"]
    rows = []
    for name, seeds in found["mixture"].items():
        rows.append([name, *(spread([row[c] for row in seeds]) if c in seeds[0] else "" for c in columns)])
        rows += [PUBLISHED[name]] if name in PUBLISHED else []
    rows.append(["exact", *[""] * 4, f"{found['log_normaliser']:.3f}"])
    return table(["method", *columns], rows)


def ising():
    rows = []
    for name, found in result("toys")["ising"].items():
        columns = list(found["exact"])
        for method, seeds in found["rows"].items():
            rows.append([name, method, *(spread([s[c] for s in seeds]) if c in seeds[0] else "" for c in columns)])
        rows.append([name, "exact", *(f"{found['exact'][c]:.4g}" for c in columns)])
    return table(["inverse temperature", "method", *columns], rows)


def official_fractal():
    """The authors' toy by their sampler, what it measures by ours where that is shown to differ, and by how much."""
    found = result("fractal_official")
    keys = ("median_log_density", "outliers", "spread")

    def cells(m):
        return [f"{m['median_log_density']:.2f}", f"{100 * m['outliers']:.1f} %", f"{m['spread']:.2f}"]

    rows = [
        [r["method"], *cells(r["official"]), *cells(r["ours"]), f"{r['median_difference']:.0e}",
         f"{r['largest_difference']:.0e}"]
        for r in found["rows"]
    ]  # fmt: skip
    rows.append(["exact samples", *cells({k: found["exact_samples"][k] for k in keys}), *[""] * 5])
    header = ["median log density", "outliers", "spread"]
    return table(["method", *header, *(f"{h}, ours" for h in header), "median difference", "largest"], rows)


def digits():
    """Accuracy and diversity of guided digits by scale, a column a form."""
    forms = {"score": "score form (Algorithm 2)", "mean": "mean form (Algorithm 1)", "cfg": "classifier-free"}
    cells = {}
    for r in result("demo")["rows"]:
        accuracy, diversity = r["report"]["accuracy"], r["report"]["diversity"]
        cells[r["scale"], r["algorithm"]] = (
            f"{accuracy['value']:.3f} ± {accuracy['error']:.3f}, {diversity['value']:.2f}"
        )
    scales = sorted({scale for scale, _ in cells})
    return table(["scale", *forms.values()], [[f"{s:g}", *(cells[s, form] for form in forms)] for s in scales])


def fractal():
    found = result("fractal")
    rows = [
        [r["method"], f"{r['mean_log_density']:.2f}", f"{100 * r['outliers']:.2f} %", f"{r['spread']:.2f}"]
        for r in found["rows"]
    ]
    rows.append(["exact samples", f"{found['exact_mean_log_density']:.2f}", "", ""])
    return table(["method", "mean log density", "outliers", "spread"], rows)


def memory_and_time():
    """What claims about memory and time were measured to be."""
    size = {name: f"{found:,.0f}" for name, found in result("memory")["megabytes"].items()}
    ratios, speed = result("guidance_cost")["ratios"], result("token_speed")

    def particles(kind):
        found = [size[f"{kind}, {how}"] for how in ("1000 particles, 10 at a time", "10 particles, at once",
                                                    "1000 particles, at once")]  # fmt: skip
        return "`{}` {} against {} MB ({} at once)".format(kind.capitalize(), *found)

    draws = [size[f"LGD, {how}"] for how in ("128 draws, 8 at a time", "8 draws, at once", "128 draws, at once")]
    gradient = [size[f"gradient through the network, 16 samples, remat {how}"] for how in ("on", "off")]
    rows = [
        ("1,000 particles of a 28 x 28 model, 10 at a time, against 10", f"{particles('steered')}; "
         f"{particles('twisted')}"),
        ("128 Monte Carlo draws of `LGD`, 8 at a time, against 8", "{} against {} MB ({} at once)".format(*draws)),
        ("gradient through the network with `ADMUNet(remat=True)`", "{} instead of {} MB".format(*gradient)),
        ("guidance in a window of a quarter of the steps, over unguided + a quarter of the cost",
         f"{ratios['CFG, quarter']:.2f} (CFG), {ratios['classifier, quarter']:.2f} (classifier)"),
        ("a classifier gradient every fourth step", f"{share(ratios['reuse, share of the guidance time'])} of the "
         "guidance time"),
        ("a step with exact rates over one with Taylor rates, 75 tokens of 4 letters",
         f"{speed['exact_over_taylor']:.0f} times (`microbatch` 256)"),
        ("decoding 256 sequences of 128 tokens", f"{speed['decoding']['compiles']} compile; time of the second half "
         f"over the first {speed['decoding']['second_over_first']:.2f}"),
    ]  # fmt: skip
    return table(["claim", "measured"], rows)


def fashion_guidance():
    """Dhariwal and Nichol's table on Fashion-MNIST."""
    columns = ["accuracy", "frechet", "precision", "recall", "diversity"]
    rows = [
        [r["method"], f"{r['scale']:g}", *(f"{r[c]['value']:.3f} ± {r[c]['error']:.3f}" for c in columns)]
        for r in result("classifier_guidance")["rows"]
    ]
    return table(["method", "scale", *columns], rows)


def fashion_curve():
    """The same trade-off by the tuned comparison: every strength of both forms and of CFG, at equal cost."""
    columns = ["accuracy", "precision", "recall", "frechet"]
    wanted = ("no guidance, not conditional", "classifier, score form", "classifier, mean form", "CFG")
    rows = [
        [r["method"], f"{r['strength']:g}", *(told(r["report"][c]) for c in columns)]
        for m in wanted
        for r in result("quality")["rows"]
        if r["method"] == m and "report" in r
    ]
    return table(["method", "scale", *columns], rows)


def classifiers():
    """The two classifiers of it, level by level."""
    found = result("classifier_guidance")
    rows = []
    for name, levels in found["classifiers"].items():
        for level, implied in zip(levels, found["implied"][name], strict=True):
            keys = ("accuracy", "loss", "calibration_error", "roughness", "scale")
            rows.append([name, f"{level['ratio']:g}", *(f"{level[k]:.2f}" for k in keys),
                         f"{implied['cosine']:.2f}", f"{implied['length']:.2f}"])  # fmt: skip
    header = ["classifier", "sigma / alpha", "accuracy", "loss, nats", "calibration error", "roughness",
              "suggested scale", "cosine with the implied gradient", "length over its"]  # fmt: skip
    return table(header, rows)


def black_boxes(found):
    """The best value found by calls, mean and standard error over the seeds of each method."""
    calls, at = found["calls"], [len(found["calls"]) // 4, len(found["calls"]) // 2, -1]
    rows = [
        [name, len(traces), *(spread([t[i] for t in traces]) for i in at), ", ".join(f"{t[-1]:.2f}" for t in traces)]
        for name, traces in found["traces"].items()
    ]
    return table(["method", "seeds", *(f"{calls[i]:,} calls" for i in at), "each seed at the end"], rows)


def rewards():
    """Methods for rewards by scale: what they sample, and at what cost."""
    found = result("rewards")["rows"]
    rows = [
        [r["method"], f"{r['scale']:g}", f"{r['distance']:.4f}", f"{r['spread']:.2f}", f"{r['reward']:.2f}",
         r["calls"] or "", f"{r['training'] / 1e6:.1f}" if r["training"] else ""]
        for r in found
    ]  # fmt: skip
    return table(["method", "scale", "distance", "spread", "mean reward", "calls", "calls of training, millions"], rows)


def reward_memory():
    """Memory of the gradient through a chain, by how many steps and whether they are computed again."""
    found = {(r["last"], r["remat"]): f"{r['megabytes']:.0f} MB" for r in result("rewards")["memory"]}
    lasts = sorted({last for last, _ in found})
    rows = [[f"DRaFT-{last}", found[last, True], found[last, False]] for last in lasts]
    return table(["through a U-Net on 28 x 28, chains of 50 steps", "remat", "without"], rows)


def particle_count():
    """How often the class is met, by the number of particles."""
    rows = [
        [r["method"], r["particles"], r["calls"], told(r["accuracy"]), told(r["guide"]),
         "" if r["ess"] is None else f"{r['ess']:.2f}"]
        for r in result("particle_count")["rows"]
    ]  # fmt: skip
    header = [
        "method",
        "particles",
        "calls",
        "met, by another judge",
        "met, by the guide",
        "effective share at the end",
    ]
    return table(header, rows)


def recovery():
    """How many masked letters are found, by the share that is masked."""
    rows: dict[tuple, list] = {}
    shares = sorted({r["masked"] for r in result("recovery")["rows"]})
    for r in result("recovery")["rows"]:
        own = f", p(species) {r['species']:.2f}" if "species" in r else ""
        error = f" ± {r['error']:.1g}" if r["masked"] < 1 else ""  # all masked: every draw is the same
        rows.setdefault((r["chain"], r["model"]), []).append(f"{r['recovery']:.3f}{error}{own}")
    return table(["chain", "model", *(f"{share(s)} masked" for s in shares)], [[*k, *v] for k, v in rows.items()])


def lessons():
    """What the networks that learned guidance cost to train, and how much of what CFG changes they miss."""
    settings = result("learned")["settings"]
    trained, scales = settings["training"], (1.25, 1.5, 2.0, 3.0)
    missed = {(r["method"], r["strength"]): f"{r['missed']:.2f}" for r in settings["missed"]}
    rows = [
        [name, f"{cost['parameters']:,}", f"{cost['evaluations']:,}", f"{cost['seconds']:.0f}",
         *(missed.get((name, s), "") for s in scales)]
        for name, cost in trained["lessons"].items()
    ]  # fmt: skip
    header = ["training", "parameters trained", "evaluations", "seconds", *(f"missed at {s:g}" for s in scales)]
    about = f"Each for {trained['steps']} steps, from a denoiser trained for {trained['base']}; a backward pass counts "
    about += "as two evaluations."
    return about + "\n\n" + table(header, rows)


def calls(row):
    return f"{row['model calls']} + {row['classifier calls']}"


IMAGES = {"frechet": "Frechet"} | {name: name for name in ("accuracy", "precision", "recall", "diversity")}
FIDELITY = ("recall", "recall (diversity)"), ("accuracy", "accuracy under the reporting judge (fidelity)")
SWEEPS = {  # goal, whether lower is better, measures, cost, axes of the picture
    "quality": ("frechet", True, IMAGES, lambda row: f"{row['steps']} steps", *FIDELITY),
    "learned": ("frechet", True, IMAGES, lambda row: f"{row['evaluations']} evaluations", *FIDELITY),
    "splice": (
        "kl", True,
        {"kl": "KL to the truth", "top": "in the top tenth", "inclusion": "log inclusion", "diversity": "diversity",
         "unmeasured": "unmeasured"},
        calls,
        ("diversity", "diversity"), ("top", "share in the measured top tenth (fidelity)"),
    ),
    "antibodies_tuned": (
        "human", False,
        {"human": "p(human), the guide", "judge": "log p a letter, the judge", "diversity": "diversity"},
        calls,
        ("diversity", "diversity"), ("human", "p(human) of the guide"),
    ),
    "text": (
        "positive", False,
        {"positive": "judged positive", "perplexity": "perplexity", "distinct": "distinct pairs", "words": "words"},
        calls,
        ("perplexity", "perplexity"), ("positive", "share judged positive"),
    ),
}  # fmt: skip


def share(x):
    return f"{100 * float(x):.0f} %"


ABOUT = {  # of the settings: what was run, and how far the judges can be trusted
    "quality": lambda s: f"{s['budget']} evaluations a sample, {len(s['seeds'])} x {s['n']} samples a row; of "
    f"{s['held_out']:,} held-out images the reporting judge knows {share(s['judges']['judge'])}, the validation judge "
    f"{share(s['judges']['validation'])}.",
    "learned": lambda s: f"{s['steps']} DDIM steps, {len(s['seeds'])} x {s['n']} samples a row, from the same noise.",
    "splice": lambda s: f"{len(s['seeds'])} x {s['samples']} samples a row; of all measured sites "
    f"{share(s['unguided']['top'])} are in the top tenth. The truth, p(x | top tenth): inclusion "
    f"{told(s['truth']['inclusion'])}, diversity {told(s['truth']['diversity'])}.",
    "text": lambda s: f"{len(s['seeds'])} x {s['samples']} samples a row; the reporting judge knows "
    f"{share(s['accuracy']['judge'])} of sentences, the validation judge {share(s['accuracy']['validation'])}. Real "
    + ", ".join(
        f"{name} sentences: judged positive {told(m['positive'])}, perplexity {told(m['perplexity'])}"
        for name, m in s["real"].items()
    )
    + ".",
    "antibodies_tuned": lambda s: f"{len(s['seeds'])} x {s['samples']} samples a row, about 48 calls each.",
}


def swept(name):
    """The table of a sweep, what was run, what is best, and what cannot be told from it."""

    def make():
        goal, lower, measures, cost, *_ = SWEEPS[name]
        found = result(name)
        rows, ties = sweep.tied(sweep.chosen(found), goal, lower)
        others = ", ".join(f"{r['method']} ({r['strength']:g})" for r in rows[1:ties])
        verdict = f"Best by {measures[goal]}: **{rows[0]['method']}** at {rows[0]['strength']:g}; " + (
            f"within twice the error of the difference, so tied: {others}."
            if others
            else "nothing else within the error."
        )
        return "\n\n".join([ABOUT[name](found["settings"]), sweep.table(found, goal, lower, measures, cost), verdict])

    return make


BUDGETS = (10, 20, 40)


def budgets():
    """Frechet distance and accuracy of each method at its chosen strength, by evaluations a sample."""
    found = {budget: result(f"quality_{budget}") for budget in BUDGETS}
    rows: dict[str, list] = {}
    for i, budget in enumerate(BUDGETS):
        near, ties = sweep.tied(sweep.chosen(found[budget]), "frechet", True)
        for place, row in enumerate(near):
            values = row["report"]
            mark = " (best)" if place == 0 else " (tie)" if place < ties else ""
            cell = f"{told(values['frechet'])}{mark}, {values['accuracy']['value']:.2f}, at {row['strength']:g}"
            rows.setdefault(row["method"], [""] * len(BUDGETS))[i] = cell
    order = [row["method"] for row in near]  # by the last budget, which all can take
    return table(["method", *(f"{b} evaluations" for b in BUDGETS)], [[m, *rows[m]] for m in order])


def everything(rows):
    return rows


def natural(rows):
    """Without those that the judge finds less natural than unguided ones, by more than twice the error."""
    free = next(r["report"]["judge"] for r in rows if r["method"] == "no guidance")

    def worse(judge):
        return free["value"] - judge["value"] > 2 * (free["error"] ** 2 + judge["error"] ** 2) ** 0.5

    return [r for r in rows if not worse(r["report"]["judge"])]


def of_the_language_model(rows):
    """Without those of the other models of text, several times as perplexing."""
    return [r for r in rows if not r["method"].startswith(("Diffusion-LM: ", "CDCD: "))]


ASKED = {  # of the sweeps on the README: what is compared, by what, and which rows
    "quality": ("images (Fashion-MNIST): Frechet distance", everything),
    "splice": ("tokens (splice sites): KL to the measured truth", everything),
    "antibodies_tuned": (
        "designs (antibody framework), no less natural than unguided ones: p(human) of the guide", natural),
    "text": (
        "text (film reviews, a language model): judged positive, within twice the unguided perplexity",
        of_the_language_model,
    ),
}  # fmt: skip


def winners():
    """What is best in each comparison, and what cannot be told from it."""
    rows = []
    for name, (title, admitted) in ASKED.items():
        goal, lower, *_ = SWEEPS[name]
        found, ties = sweep.tied(admitted(sweep.chosen(result(name))), goal, lower)
        names = [f"{r['method']} {told(r['report'][goal])}" for r in found[: min(ties, 4)]]
        more = f"and {ties - 4} more" if ties > 4 else ""
        rows.append([title, names[0], "; ".join(filter(None, [*names[1:], more]))])
    return table(["compared", "best", "tied with it"], rows)


def pictures():
    for name in ("quality", "learned", "splice", "text"):
        *_, x, y = SWEEPS[name]
        found = result(name)
        counts = Counter(r["method"] for r in found["rows"] if "report" in r)
        sweep.plot(found, DOCS / "pictures" / f"{name}_trade_off.png", x, y, [m for m, n in counts.items() if n > 1])


TABLES = [
    ("README.md", "winners", winners),
    *(("benchmarks.md", name, swept(name)) for name in SWEEPS if name not in ("antibodies_tuned", "learned")),
    ("papers.md", "antibodies_tuned", swept("antibodies_tuned")),
    ("benchmarks.md", "black boxes", lambda: black_boxes(result("ehrlich"))),
    ("benchmarks.md", "budgets", budgets),
    ("benchmarks.md", "speed", speed),
    ("benchmarks.md", "digits", digits),
    ("benchmarks.md", "fractal", fractal),
    ("benchmarks.md", "memory and time", memory_and_time),
    ("checkpoints.md", "checkpoints", checkpoints),
    ("checkpoints.md", "latent", latent),
    *(("tutorial/released_models.md", name, demo(name)) for name in ("faces", "antibodies", "proteins", "terrain")),
    ("tutorial/learned.md", "learned", swept("learned")),
    ("tutorial/learned.md", "lessons", lessons),
    ("tutorial/learned.md", "rewards", rewards),
    ("tutorial/learned.md", "reward memory", reward_memory),
    ("tutorial/released_models.md", "recovery", recovery),
    ("papers.md", "systems", systems),
    ("papers.md", "pplm", pplm_official),
    ("papers.md", "mixture", mixture),
    ("papers.md", "ising", ising),
    ("papers.md", "particle count", particle_count),
    ("benchmarks.md", "classifiers", classifiers),
    ("benchmarks.md", "fashion guidance", fashion_guidance),
    ("benchmarks.md", "fashion curve", fashion_curve),
    ("benchmarks.md", "official fractal", official_fractal),
]


def with_table(text, name, make):
    pattern = rf"(<!-- {name}: benchmarks/tables.py -->\n).*?(<!-- end -->)"
    text, found = re.subn(pattern, lambda m: m[1] + make() + "\n" + m[2], text, flags=re.DOTALL)
    if found != 1:
        raise ValueError(f"there are {found} places for the table {name}, expected one")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are what it would write")
    parser.add_argument("--pictures", action="store_true", help="draw the trade-off curves too")
    args = parser.parse_args()
    if args.pictures:
        pictures()
    pages = {page.relative_to(DOCS).as_posix(): page for page in sorted(DOCS.rglob("*.md"))}
    pages["README.md"] = DOCS.parent / "README.md"
    for name, page in pages.items():
        old = new = page.read_text()
        for page_name, title, make in TABLES:
            if page_name == name:
                new = with_table(new, title, make)
        new = figures.with_figures(new)
        if args.check and old != new:
            sys.exit(f"{name} has other figures than benchmarks/results; run benchmarks/tables.py")
        if old != new:
            page.write_text(new)


if __name__ == "__main__":
    main()
