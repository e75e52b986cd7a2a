"""What is public, and where its page is: for the reference, and for links to it."""

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


@cache
def paths():
    """name -> where it is defined, of the names that mean one thing."""
    found = {}
    for _, own in groups().values():
        for name, thing in own.items():
            found.setdefault(name, set()).add(path_of(thing))
    return {name: places.pop() for name, places in found.items() if len(places) == 1}


def linked(text, but=""):
    """Markdown in which `Name`, outside code blocks, links to its page."""

    def link(found):
        place = paths().get(found[1])
        return found[0] if place is None or found[1] == but else f"[{found[0]}][{place}]"

    parts = FENCE.split(text)
    return "".join(part if i % 2 else NAME.sub(link, part) for i, part in enumerate(parts))


PAGE_OF = {  # family of the table of methods -> its page
    methods.CONTRAST: "contrast",
    methods.GRADIENT: "gradient",
    methods.KERNEL: "kernels",
    methods.PARTICLES: "particles",
    methods.TOKENS: "tokens",
    methods.TEXT: "text",
    methods.EMBEDDINGS: "text",
    methods.MACHINERY: "kernels",
    "solvers": "solvers",
    "scales": "scales",
    "operators of a measurement": "inverse",
}
SHOWN = re.compile(r"^::: guidance_jax[\w.]*\.(\w+)$", re.MULTILINE)


def with_methods(page, text):
    """The page of a family with the methods of the table that no page shows yet."""
    written = "\n".join(p.read_text() for p in (Path(__file__).parent / "methods").glob("*.md"))
    shown = set(SHOWN.findall(written))
    own = [row for row in methods.PARTS.values() if PAGE_OF[row.family] == page and row.name not in shown]
    return "\n".join([text, *(f"## {row.name}\n\n::: {path_of(row.cls)}\n" for row in own)])


def on_page_markdown(markdown, page, **_):
    """A hook of mkdocs: pages that are written link to the reference, and those of methods have all of the table."""
    folder, _, name = page.file.src_uri.rpartition("/")
    if folder == "methods":
        markdown = with_methods(name.removesuffix(".md"), markdown)
    return markdown if folder.startswith("reference") else linked(markdown)
