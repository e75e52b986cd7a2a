"""Writes tables, figures and curves of `docs` from `results/`: `python -m benchmarks.tables [--check | --pictures]`."""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from benchmarks import figures, sweep
from benchmarks.figures import RESULTS, only, result, rows, value
from benchmarks.sweep import REPORTED, told

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
    lines = []
    for file in sorted(RESULTS.glob("peers_jax_*.json")):
        tasks = dict.fromkeys(row["case"]["task"] for row in rows(file.stem))
        for task in tasks:
            found = {(r["case"]["library"], r["case"]["part"]): r for r in rows(file.stem, task=task)}
            ours = found["guidance_jax", "whole"]
            cells = [f"{value(found[peer], 'over ours'):.2f}" if peer in found else "" for peer in PEERS.values()]
            lines.append([TASKS[task], ours["cost"]["jax"], f"{value(ours, 'step'):.1f}", *cells])
    return table(["a guided step", "JAX", "ours, ms", *(f"{name} / ours" for name in PEERS)], lines)


def checkpoints():
    lines = [
        [f"`{row['case']['network']}`", f"{row['cost']['parameters'] / 1e6:.0f} M",
         ", ".join(f"{k} {m['value']:.0e}" for k, m in row["measures"].items())]
        for row in rows("checkpoints", network=...)
    ]  # fmt: skip
    return table(["network", "parameters", "largest difference / largest entry"], lines)


def latent():
    parts = ("network", "text", "encoder", "decoder", "10 guided steps")
    lines = [
        [f"`{row['case']['model']}`", f"{row['cost']['parameters'] / 1e6:,.0f} M",
         *(f"{value(row, part):.0e}" if part in row["measures"] else "" for part in parts)]
        for row in rows("latent_models")
    ]  # fmt: skip
    return table(["model", "parameters", *parts], lines)


def demo(name):
    """The table of an example as it wrote it."""

    def make():
        found = rows(name)

        def shown(x):
            return "" if x is None else f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"

        def called(cost):
            return f"{cost['model calls']} + {cost['classifier calls']}" if cost["model calls"] else ""

        columns = list(found[0]["measures"])
        lines = [
            [r["case"]["method"].strip("()"), f"{r['case']['scale']:g}", *(shown(value(r, c)) for c in columns),
             called(r["cost"])]
            for r in found
        ]  # fmt: skip
        header = ["method", "scale", *(c.replace("|", "\\|") for c in columns), "calls of model + guide"]
        return table(header, lines)

    return make


def tuned(name, method):
    """What is reported of a method of a sweep at its chosen strength."""
    return next(r["measures"] for r in sweep.chosen(result(name)) if r["case"]["method"] == method)


NOS = "NOS, KL weight 0.1, one inner step"


def systems():
    """Paper's claim, paper's number, ours, the gap and its reason: a row a system."""
    antibody = {m: tuned("antibodies_tuned", m) for m in ("no guidance", "best of 6", NOS)}
    nos = "; ".join(f"{m} {told(v['human'])}, {told(v['judge'])}" for m, v in antibody.items())
    ends = {name: [t[-1] for t in ts] for r in ("ehrlich", "ehrlich_official") for name, ts in traces(r)[1].items()}
    black_box = "; ".join(f"{name} {spread(best)} ({len(best)} seeds)" for name, best in ends.items())

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
    real = only(result("text")["rows"], "sentences=positive")["measures"]

    def sentiment(row):
        return f"judged positive {told(row['positive'])} at perplexity {told(row['perplexity'])}"

    def sites(row):
        return f"{told(row['top'])} in the top tenth at KL {told(row['kl'])}, diversity {told(row['diversity'])}"

    lines = [
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
    return table(["system", "its claim", "its number", "ours", "gap and reason"], lines)


def spread(values):
    """Mean and standard error over seeds."""
    mean = sum(values) / len(values)
    error = (sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)) ** 0.5 if len(values) > 1 else 0.0
    return f"{mean:.3g} ± {error:.1g}"


def pplm_official():
    """PPLM by the authors' loop and by ours on the same model, by rate."""
    columns = ("positive", "perplexity", "distinct")
    lines = [
        [r["case"]["code"], f"{r['case']['rate']:g}", *(told(r["measures"][c]) for c in columns)]
        for r in rows("pplm_official", code=...)
    ]
    return table(["code", "rate", "judged positive", "perplexity", "distinct pairs"], lines)


PUBLISHED = {  # 2503.02819, table A1, as a reproduction of it has copied it
    "tempering alone": ("their target score", "", "0.49", "11.3", "15.7", ""),
    "corrected, systematic": ("theirs, systematic resampling", "", "0.37", "6.3", "11.3", ""),
}


def over_seeds(found, columns):
    """method -> the columns, mean and standard error over its seeds."""
    methods = dict.fromkeys(row["case"]["method"] for row in found)
    cells = {}
    for method in methods:
        own = [row["measures"] for row in found if row["case"]["method"] == method]
        cells[method] = [spread([m[c]["value"] for m in own]) if c in own[0] else "" for c in columns]
    return cells


def mixture():
    columns = ["energy W2", "TV", "W1", "W2", "log evidence"]
    lines = []
    for name, cells in over_seeds(rows("toys", toy="mixture", seed=...), columns).items():
        lines.append([name, *cells])
        lines += [PUBLISHED[name]] if name in PUBLISHED else []
    exact = only(result("toys")["rows"], "toy=mixture & method=exact")
    lines.append(["exact", *[""] * 4, f"{value(exact, 'log evidence'):.3f}"])
    return table(["method", *columns], lines)


def ising():
    lines = []
    for exact in rows("toys", toy="Ising", method="exact"):
        name, columns = exact["case"]["inverse temperature"], list(exact["measures"])
        found = rows("toys", toy="Ising", seed=..., **{"inverse temperature": name})
        lines += [[name, method, *cells] for method, cells in over_seeds(found, columns).items()]
        lines.append([name, "exact", *(f"{value(exact, c):.4g}" for c in columns)])
    return table(["inverse temperature", "method", *columns], lines)


def official_fractal():
    """The authors' toy by their sampler, what it measures by ours where that is shown to differ, and by how much."""

    def cells(row):
        share = 100 * value(row, "outliers")
        return [f"{value(row, 'median log density'):.2f}", f"{share:.1f} %", f"{value(row, 'spread'):.2f}"]

    lines = []
    for theirs in rows("fractal_official", by="the authors"):
        (ours,) = rows("fractal_official", method=theirs["case"]["method"], by="this library")
        apart = [f"{value(ours, f'{which} difference'):.0e}" for which in ("median", "largest")]
        lines.append([theirs["case"]["method"], *cells(theirs), *cells(ours), *apart])
    lines.append(["exact samples", *cells(*rows("fractal_official", method="exact samples")), *[""] * 5])
    header = ["median log density", "outliers", "spread"]
    return table(["method", *header, *(f"{h}, ours" for h in header), "median difference", "largest"], lines)


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
    columns = ("mean log density", "outliers", "spread")
    lines = []
    for row in rows("fractal", method=...):
        density, *more = (value(row, c) if c in row["measures"] else None for c in columns)
        share, spread = more
        last = ["", ""] if share is None else [f"{100 * share:.2f} %", f"{spread:.2f}"]
        lines.append([row["case"]["method"], f"{density:.2f}", *last])
    return table(["method", *columns], lines)


def memory_and_time():
    """What claims about memory and time were measured to be."""
    size = {r["case"]["program"]: f"{value(r, 'temporary memory'):,.0f}" for r in rows("memory")}

    def ratio(name, compared):
        return value(rows(name, compared=compared)[0], "ratio")

    def particles(kind):
        found = [size[f"{kind}, {how}"] for how in ("1000 particles, 10 at a time", "10 particles, at once",
                                                    "1000 particles, at once")]  # fmt: skip
        return "`{}` {} against {} MB ({} at once)".format(kind.capitalize(), *found)

    draws = [size[f"LGD, {how}"] for how in ("128 draws, 8 at a time", "8 draws, at once", "128 draws, at once")]
    gradient = [size[f"gradient through the network, 16 samples, remat {how}"] for how in ("on", "off")]
    quarter = [
        ratio("guidance_cost", f"{kind}, quarter over unguided + a quarter of the guidance")
        for kind in ("CFG", "classifier")
    ]
    compiles = value(rows("token_speed", run="decoding")[0], "compiles")
    lines = [
        ("1,000 particles of a 28 x 28 model, 10 at a time, against 10", f"{particles('steered')}; "
         f"{particles('twisted')}"),
        ("128 Monte Carlo draws of `LGD`, 8 at a time, against 8", "{} against {} MB ({} at once)".format(*draws)),
        ("gradient through the network with `ADMUNet(remat=True)`", "{} instead of {} MB".format(*gradient)),
        ("guidance in a window of a quarter of the steps, over unguided + a quarter of the cost",
         "{:.2f} (CFG), {:.2f} (classifier)".format(*quarter)),
        ("a classifier gradient every fourth step", f"{share(ratio('guidance_cost', 'reuse over the guidance time'))} "
         "of the guidance time"),
        ("a step with exact rates over one with Taylor rates, 75 tokens of 4 letters",
         f"{ratio('token_speed', 'exact over Taylor rates'):.0f} times (`microbatch` 256)"),
        ("decoding 256 sequences of 128 tokens", f"{compiles} compile; time of the second half "
         f"over the first {ratio('token_speed', 'second half over first'):.2f}"),
    ]  # fmt: skip
    return table(["claim", "measured"], lines)


def fashion_guidance():
    """Dhariwal and Nichol's table on Fashion-MNIST."""
    columns = ["accuracy", "frechet", "precision", "recall", "diversity"]
    lines = [
        [r["case"]["method"], f"{r['case']['scale']:g}",
         *(f"{m['value']:.3f} ± {m['error']:.3f}" for m in map(r["measures"].get, columns))]
        for r in rows("classifier_guidance", method=...)
    ]  # fmt: skip
    return table(["method", "scale", *columns], lines)


def fashion_curve():
    """The same trade-off by the tuned comparison: every strength of both forms and of CFG, at equal cost."""
    columns = ["accuracy", "precision", "recall", "frechet"]
    wanted = ("no guidance, not conditional", "classifier, score form", "classifier, mean form", "CFG")
    lines = [
        [method, f"{r['case']['strength']:g}", *(told(r["measures"][c]) for c in columns)]
        for method in wanted
        for r in rows("quality", method=method, drawn=REPORTED)
    ]
    return table(["method", "scale", *columns], lines)


def classifiers():
    """The two classifiers of it, level by level."""
    columns = ("accuracy", "loss", "calibration_error", "roughness", "scale",
               "cosine of the implied gradient", "length of the implied gradient")  # fmt: skip
    lines = [
        [r["case"]["classifier"], f"{r['case']['sigma / alpha']:g}", *(f"{value(r, c):.2f}" for c in columns)]
        for r in rows("classifier_guidance", classifier=...)
    ]
    header = ["classifier", "sigma / alpha", "accuracy", "loss, nats", "calibration error", "roughness",
              "suggested scale", "cosine with the implied gradient", "length over its"]  # fmt: skip
    return table(header, lines)


def traces(name):
    """(calls, {method: the best value after these calls, a list a seed})."""
    found: dict[str, list] = {}
    for row in rows(name):
        found.setdefault(row["case"]["method"], []).append([m["value"] for m in row["measures"].values()])
    return list(map(int, row["measures"])), found


def black_boxes(name):
    """The best value found by calls, mean and standard error over the seeds of each method."""
    calls, found = traces(name)
    at = [len(calls) // 4, len(calls) // 2, -1]
    lines = [
        [method, len(seeds), *(spread([t[i] for t in seeds]) for i in at), ", ".join(f"{t[-1]:.2f}" for t in seeds)]
        for method, seeds in found.items()
    ]
    return table(["method", "seeds", *(f"{calls[i]:,} calls" for i in at), "each seed at the end"], lines)


def rewards():
    """Methods for rewards by scale: what they sample, and at what cost."""
    lines = []
    for r in rows("rewards", method=...):
        calls, training = r["cost"]["calls"], r["cost"]["calls of training"]
        cells = [f"{value(r, 'distance'):.4f}", f"{value(r, 'spread'):.2f}", f"{value(r, 'reward'):.2f}"]
        last = [calls or "", f"{training / 1e6:.1f}" if training else ""]
        lines.append([r["case"]["method"], f"{r['case']['scale']:g}", *cells, *last])
    header = ["method", "scale", "distance", "spread", "mean reward", "calls", "calls of training, millions"]
    return table(header, lines)


def reward_memory():
    """Memory of the gradient through a chain, by how many steps and whether they are computed again."""
    found = {
        (r["case"]["DRaFT, last"], r["case"]["remat"]): f"{value(r, 'temporary memory'):.0f} MB"
        for r in rows("rewards", remat=...)
    }
    lasts = sorted({last for last, _ in found})
    lines = [[f"DRaFT-{last}", found[last, True], found[last, False]] for last in lasts]
    return table(["through a U-Net on 28 x 28, chains of 50 steps", "remat", "without"], lines)


def particle_count():
    """How often the class is met, by the number of particles."""
    lines = []
    for r in rows("particle_count"):
        ess, met = value(r, "effective share"), [told(r["measures"][who]) for who in ("another judge", "the guide")]
        last = "" if ess is None else f"{ess:.2f}"
        lines.append([r["case"]["method"], r["case"]["particles"], r["cost"]["calls"], *met, last])
    share_of = "effective share at the end"
    return table(["method", "particles", "calls", "met, by another judge", "met, by the guide", share_of], lines)


def recovery():
    """How many masked letters are found, by the share that is masked."""
    lines: dict[tuple, list] = {}
    for r in rows("recovery"):
        found, masked = r["measures"]["recovery"], r["case"]["masked"]
        own = f", p(species) {value(r, 'p(species)'):.2f}" if "p(species)" in r["measures"] else ""
        error = f" ± {found['error']:.1g}" if masked < 1 else ""  # all masked: every draw is the same
        lines.setdefault((r["case"]["chain"], r["case"]["model"]), []).append(f"{found['value']:.3f}{error}{own}")
    shares = sorted({r["case"]["masked"] for r in rows("recovery")})
    return table(["chain", "model", *(f"{share(s)} masked" for s in shares)], [[*k, *v] for k, v in lines.items()])


def lessons():
    """What the networks that learned guidance cost to train, and how much of what CFG changes they miss."""
    settings, scales = result("learned")["settings"], (1.25, 1.5, 2.0, 3.0)
    missed = {
        (r["case"]["method"], r["case"]["strength"]): f"{value(r, 'missed'):.2f}" for r in rows("learned", beside=...)
    }
    lines = []
    for r in rows("learned", lesson=...):
        name, cost = r["case"]["lesson"], r["cost"]
        sizes = [f"{cost['parameters']:,}", f"{cost['evaluations']:,}", f"{cost['seconds']:.0f}"]
        lines.append([name, *sizes, *(missed.get((name, s), "") for s in scales)])
    header = ["training", "parameters trained", "evaluations", "seconds", *(f"missed at {s:g}" for s in scales)]
    about = f"Each for {settings['training']} steps, from a denoiser trained for {settings['base']}; a backward pass "
    about += "counts as two evaluations."
    return about + "\n\n" + table(header, lines)


def calls(cost):
    return f"{cost['model calls']} + {cost['classifier calls']}"


IMAGES = {"frechet": "Frechet"} | {name: name for name in ("accuracy", "precision", "recall", "diversity")}
FIDELITY = ("recall", "recall (diversity)"), ("accuracy", "accuracy under the reporting judge (fidelity)")
SWEEPS = {  # goal, whether lower is better, measures, cost, axes of the picture
    "quality": ("frechet", True, IMAGES, lambda cost: f"{cost['steps']} steps", *FIDELITY),
    "learned": ("frechet", True, IMAGES, lambda cost: f"{cost['evaluations']} evaluations", *FIDELITY),
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


def judged(name, measure="accuracy"):
    """The two judges of a comparison, and how many images they were tried on."""
    found = [rows(name, judge=who)[0] for who in ("judge", "validation")]
    return [share(value(row, measure)) for row in found], found[0]["cost"].get("images")


def about_quality(s):
    (judge, validation), images = judged("quality")
    return (
        f"{s['budget']} evaluations a sample, {len(s['seeds'])} x {s['n']} samples a row; of {images:,} held-out "
        f"images the reporting judge knows {judge}, the validation judge {validation}."
    )


def about_splice(s):
    every, truth = (only(result("splice")["rows"], f"sites={which}") for which in ("every", "the top tenth"))
    return (
        f"{len(s['seeds'])} x {s['samples']} samples a row; of all measured sites {share(value(every, 'top'))} are in "
        f"the top tenth. The truth, p(x | top tenth): inclusion {told(truth['measures']['inclusion'])}, diversity "
        f"{told(truth['measures']['diversity'])}."
    )


def about_text(s):
    (judge, validation), _ = judged("text")
    real = ", ".join(
        f"{r['case']['sentences']} sentences: judged positive {told(r['measures']['positive'])}, perplexity "
        f"{told(r['measures']['perplexity'])}"
        for r in rows("text", sentences=...)
    )
    return (
        f"{len(s['seeds'])} x {s['samples']} samples a row; the reporting judge knows {judge} of sentences, the "
        f"validation judge {validation}. Real {real}."
    )


ABOUT = {  # of the settings: what was run, and how far the judges can be trusted
    "quality": about_quality,
    "learned": lambda s: f"{s['steps']} DDIM steps, {len(s['seeds'])} x {s['n']} samples a row, from the same noise.",
    "splice": about_splice,
    "text": about_text,
    "antibodies_tuned": lambda s: f"{len(s['seeds'])} x {s['samples']} samples a row, about 48 calls each.",
}


def swept(name):
    """The table of a sweep, what was run, what is best, and what cannot be told from it."""

    def make():
        goal, lower, measures, cost, *_ = SWEEPS[name]
        found = result(name)
        near, ties = sweep.tied(sweep.chosen(found), goal, lower)
        best, *tied = (r["case"] for r in near[:ties])
        others = ", ".join(f"{case['method']} ({case['strength']:g})" for case in tied)
        verdict = f"Best by {measures[goal]}: **{best['method']}** at {best['strength']:g}; " + (
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
    lines: dict[str, list] = {}
    for i, budget in enumerate(BUDGETS):
        near, ties = sweep.tied(sweep.chosen(found[budget]), "frechet", True)
        for place, row in enumerate(near):
            values, case = row["measures"], row["case"]
            mark = " (best)" if place == 0 else " (tie)" if place < ties else ""
            cell = f"{told(values['frechet'])}{mark}, {values['accuracy']['value']:.2f}, at {case['strength']:g}"
            lines.setdefault(case["method"], [""] * len(BUDGETS))[i] = cell
    order = [row["case"]["method"] for row in near]  # by the last budget, which all can take
    return table(["method", *(f"{b} evaluations" for b in BUDGETS)], [[m, *lines[m]] for m in order])


def everything(found):
    return found


def natural(found):
    """Without those that the judge finds less natural than unguided ones, by more than twice the error."""
    free = next(r["measures"]["judge"] for r in found if r["case"]["method"] == "no guidance")

    def worse(judge):
        return free["value"] - judge["value"] > 2 * (free["error"] ** 2 + judge["error"] ** 2) ** 0.5

    return [r for r in found if not worse(r["measures"]["judge"])]


def of_the_language_model(found):
    """Without those of the other models of text, several times as perplexing."""
    return [r for r in found if not r["case"]["method"].startswith(("Diffusion-LM: ", "CDCD: "))]


ASKED = {  # of the sweeps, for the table of winners: what is compared, by what, and which rows
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
    lines = []
    for name, (title, admitted) in ASKED.items():
        goal, lower, *_ = SWEEPS[name]
        found, ties = sweep.tied(admitted(sweep.chosen(result(name))), goal, lower)
        names = [f"{r['case']['method']} {told(r['measures'][goal])}" for r in found[: min(ties, 4)]]
        more = f"and {ties - 4} more" if ties > 4 else ""
        lines.append([title, names[0], "; ".join(filter(None, [*names[1:], more]))])
    return table(["compared", "best", "tied with it"], lines)


def pictures():
    for name in ("quality", "learned", "splice", "text"):
        *_, x, y = SWEEPS[name]
        found = result(name)
        counts = Counter(r["case"]["method"] for r in sweep.drawn(found["rows"], REPORTED))
        sweep.plot(found, DOCS / "pictures" / f"{name}_trade_off.png", x, y, [m for m, n in counts.items() if n > 1])


def flow_quality():
    """Ways to guide an autoregressive flow and a diffusion model, by scale."""
    lines = []
    for row in rows("flows", way=...):
        measures = [told(row["measures"][name]) for name in ("accuracy", "frechet", "recall", "diversity")]
        lines.append([row["case"]["way"], f"{row['case']['scale']:g}", *measures, f"{row['cost']['ms an image']:.0f}"])
    return table(["model, guidance", "scale", "accuracy", "Frechet", "recall", "diversity", "ms an image"], lines)


def flow_numbers():
    """Density, weights and speed of the flow."""
    lines = [[f"bits a number: {r['case']['density']}", f"{value(r, 'bits'):.3f}"] for r in rows("flows", density=...)]
    for row in rows("flows", weights=...):
        what = f"effective share of {row['cost']['samples']} weighed samples: {row['case']['weights']}, scale"
        lines.append([f"{what} {row['case']['scale']:g}", f"{value(row, 'effective share'):.3f}"])
    for row in rows("flows", speed=...):
        rate, off = value(row, "patches a second"), value(row, "off by")
        lines.append([f"patches a second, {row['case']['speed']}", f"{rate:,.0f} (off by {off:.0e})"])
    return table(["measured", "result"], lines)


DECODED = {
    "p(prose) of the judge": "p(docstring)",
    "nats a letter of 5-grams": "nats a letter",
    "different 4-grams": "4-grams",
}


def decoding():
    """Orders, guidance and rules of a masked model of text, under an independent judge and an independent model."""
    lines = []
    for row in rows("decoding"):
        case = dict(row["case"])
        name = " ".join(str(case.pop(k)) for k in ("what", "order", "guidance", "rule") if k in case)
        more = ", ".join(f"{k} {v:g}" for k, v in case.items())
        kind = next((k for k in ("order", "guidance", "rule") if k in row["case"]), "")
        measured = [told(row["measures"][k]) for k in (*DECODED, "follow the pattern")]
        lines.append([f"{kind}: {name}" if kind else name, more, *measured, f"{row['cost'].get('calls', '')}"])
    return table(["decoded by", "setting", *DECODED.values(), "brackets", "calls"], lines)


def decoding_speed():
    """Tokens a second with and without a cache."""
    lines = [
        [r["case"]["decoding"], f"{value(r, 'tokens a second'):.1f}", share(value(r, "same tokens as without cache"))]
        for r in rows("decoding_speed")
    ]
    return table(["decoding", "tokens a second", "same tokens as without cache"], lines)


def exact_restoration(prior):
    """Mean, spread and energy distance of every method against the exact posterior, by operator."""

    def make():
        found = {(r["case"]["method"], r["case"]["operator"]): r for r in rows("restoration_exact", prior=prior)}
        methods, operators = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
        floor = max(value(r, "floor") for r in found.values())

        def cell(row):
            return ", ".join(f"{value(row, k):.2g}" for k in ("mean off", "spread", "energy distance"))

        lines = [
            [m if m == "no guidance" else f"`{m}`", *(cell(found[m, o]) for o in operators),
             value(found[m, operators[0]], "calls")]
            for m in methods
        ]  # fmt: skip
        own = f"\n\nTwo sets of exact draws are {floor:.2g} apart at most."
        return table(["method", *operators, "calls"], lines) + own

    return make


def restoration(linear):
    """The PSNR of samples of every method, by operator, and how their spread fits their error."""
    bent = ("high dynamic range", "phase retrieval")

    def make():
        found = {
            (r["case"]["method"], r["case"]["operator"]): r
            for r in rows("restoration")
            if (r["case"]["operator"] not in bent) == linear
        }
        methods, operators = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
        best = {o: max(value(r, "PSNR of a sample") for (_, at), r in found.items() if at == o) for o in operators}

        def cell(key):
            if key not in found:
                return ""
            row = found[key]
            text = f"{value(row, 'PSNR of a sample'):.1f} ± {row['measures']['PSNR of a sample']['error']:.1g}"
            text = f"**{text}**" if value(row, "PSNR of a sample") == best[key[1]] else text
            return f"{text}; {value(row, 'SSIM of a sample'):.2f}; {value(row, 'spread / error'):.2f}"

        def cost(method):
            row = next(r for (m, _), r in found.items() if m == method)
            pulls = value(row, "gradients")
            return f"{value(row, 'calls')}" + (f", {pulls} pull-backs" if pulls else "")

        lines = [[f"`{m}`", *(cell((m, o)) for o in operators), cost(m)] for m in methods]
        return table(["method", *operators, "calls"], lines)

    return make


TABLES = [
    ("benchmarks.md", "winners", winners),
    *(("benchmarks.md", name, swept(name)) for name in SWEEPS if name not in ("antibodies_tuned", "learned")),
    ("papers.md", "antibodies_tuned", swept("antibodies_tuned")),
    ("benchmarks.md", "black boxes", lambda: black_boxes("ehrlich")),
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
    ("benchmarks.md", "flow quality", flow_quality),
    ("benchmarks.md", "flow numbers", flow_numbers),
    ("benchmarks.md", "exact restoration, smooth", exact_restoration("Gaussian")),
    ("benchmarks.md", "exact restoration, mixture", exact_restoration("mixture")),
    ("benchmarks.md", "restoration", restoration(True)),
    ("benchmarks.md", "restoration, not linear", restoration(False)),
    ("benchmarks.md", "decoding", decoding),
    ("benchmarks.md", "decoding speed", decoding_speed),
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
