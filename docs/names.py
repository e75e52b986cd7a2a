"""What is public, and where it is defined: for the reference, and for links to it."""

import dataclasses
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import guidance_jax as gj
from guidance_jax import methods

# what is around the library, and is imported by its own name
AROUND = [
    "training",
    "finetune",
    "metrics",
    "checkpoints",
    "datasets",
    "zoo",
    "jobs",
    "sharding",
    "pictures",
    "methods",
]
FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
ARXIV = re.compile(r"(?<![\w./`-])(\d{4}\.\d{5})(?![\d.`]|\])")
NAME = re.compile(r"(?<![\[`\w])`(?:gj\.|guidance_jax\.)?(\w+)`(?!`)")


@cache
def groups():
    """group -> {name: object}: `guidance_jax` itself, the groups that it has, and what is around it."""
    modules = {"guidance_jax": gj}
    modules |= {f"guidance_jax.{n}": getattr(gj, n) for n in gj.__all__ if inspect.ismodule(getattr(gj, n))}
    modules |= {f"guidance_jax.{part}": importlib.import_module(f"guidance_jax.{part}") for part in AROUND}
    return {where: (module, public(module)) for where, module in modules.items()}


def public(module):
    """The classes and functions of ours that a module shows; of a single file, what it defines itself."""
    names = [n for n in getattr(module, "__all__", vars(module)) if not n.startswith("_")]
    things = {n: getattr(module, n) for n in names}
    own = {n: t for n, t in things.items() if inspect.isclass(t) or inspect.isfunction(t)}
    return {
        n: t
        for n, t in own.items()
        if t.__module__ == module.__name__ or (hasattr(module, "__all__") and t.__module__.startswith("guidance_jax"))
    }


def path_of(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


class Spelled:
    """What a row of the table of methods is made from, as one would write it."""

    model, null, scale, weights, schedule, solver = "model", "null", "2.0", "[1.0, 1.0]", "gj.Cosine()", "gj.DDIM(1.0)"
    free = "gj.Unconditional(model, null)"
    reverse, unguided = (f"gj.Reverse({of}, gj.DDIM(1.0))" for of in ("gj.CFG(model, null, 2.0)", free))
    classifier, likelihood, neighbours = "classifier", "log_likelihood", "neighbours"
    value, attribute, weak, embeddings = "value", "attribute", "weak_model", "table"
    operator, mask, std, observed = "operator", "mask", "0.1", "observed"
    per_class, prompt = "{2: 3.0}", "known"

    def part(self, name):
        return spell(methods.METHODS[name])


SCALES = {"CFGPlusPlus": "0.6", "RectifiedCFGPlusPlus": "0.5"}  # whose scale is a share
OTHERS = {  # fields that the table leaves to who asks, and that have no default
    "move": "gj.Steered(gj.Unconditional(model, null), gj.DDIM(1.0), log_likelihood)",
    "scales": "jnp.linspace(1.0, 3.0, 20)",
    "table": "{2: 3.0}",
    "lo": "0.3",
    "hi": "5.0",
    "factor": "2",
    "automaton": "gj.automata.Automaton.count(0, 1, 1, vocabulary=3)",
    "reward": "log_likelihood",
    "likelihood": "gj.inverse.ExactStep(operator, 0.1, observed)",
}


def spell(row):
    """The call that makes the part of a row, in Python."""
    shown = [where for where, (_, own) in groups().items() if own.get(row.name) is row.cls]
    where = min(shown, key=len).replace("guidance_jax", "gj")
    given, in_order = [], True
    for field in dataclasses.fields(row.cls):
        source = row.sources.get(field.name)
        text = source.get(Spelled()) if source is not None and source.get is not None else None
        text = SCALES.get(row.name, text) if field.name == "scale" else text
        if (text is None or dataclasses.is_dataclass(text)) and field.default is dataclasses.MISSING:
            text = OTHERS.get(field.name, field.name)
        in_order = in_order and text is not None and not field.kw_only and len(given) < 2
        in_order = in_order and field.name not in ("scale", "repeats")
        if text is not None:
            given.append(str(text) if in_order else f"{field.name}={text}")
    return f"{where}.{row.name}({', '.join(given)})"


@cache
def paths():
    """name -> where it is defined, of the names that mean one thing."""
    found = {}
    for _, own in groups().values():
        for name, thing in own.items():
            found.setdefault(name, set()).add(path_of(thing))
    return {name: places.pop() for name, places in found.items() if len(places) == 1}


def linked(text, but=""):
    """Markdown in which `Name` and numbers of arXiv, outside code blocks, are links."""

    def link(found):
        place = paths().get(found[1])
        return found[0] if place is None or found[1] == but else f"{{py:obj}}`{found[0].strip('`')} <{place}>`"

    parts = FENCE.split(text)
    plain = (ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", NAME.sub(link, part)) for part in parts[::2])
    return "".join(part if i % 2 else next(plain) for i, part in enumerate(parts))


PAGE_OF = {  # family of the table of methods -> its page
    methods.CONTRAST: "contrast",
    methods.GRADIENT: "gradient",
    methods.KERNEL: "kernels",
    methods.PARTICLES: "particles",
    methods.TOKENS: "tokens",
    methods.TEXT: "text",
    methods.EMBEDDINGS: "text",
    methods.FLOWS: "flows",
    methods.MACHINERY: "kernels",
    "solvers": "solvers",
    "scales": "scales",
    "operators of a measurement": "inverse",
}
SHOWN = re.compile(r"^::: (guidance_jax[\w.]*\.(\w+))$", re.MULTILINE)


def with_methods(page, text):
    """The page of a family with the methods of the table that no page shows yet."""
    written = "\n".join(p.read_text() for p in (Path(__file__).parent / "methods").glob("*.md"))
    shown = {name for _, name in SHOWN.findall(written)}
    own = [row for row in methods.PARTS.values() if PAGE_OF[row.family] == page and row.name not in shown]
    return "\n".join([text, *(f"## {row.name}\n\n::: {path_of(row.cls)}\n" for row in own)])
