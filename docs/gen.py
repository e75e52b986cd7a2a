"""Pages that are made, not written: the reference, one page a public name."""

import importlib
import inspect

import mkdocs_gen_files

import guidance_jax as gj


def page(path, text):
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


nav = ["* [Overview](index.md)"]
overview = ["# Reference\n", "Everything public, by group. What everyone needs is in `guidance_jax` itself.\n"]
groups = {"guidance_jax": gj} | {
    f"guidance_jax.{name}": getattr(gj, name) for name in gj.__all__ if inspect.ismodule(getattr(gj, name))
}
# what is around the library, and is imported by its own name
AROUND = ("training", "finetune", "metrics", "checkpoints", "datasets", "jobs", "sharding", "pictures", "methods")
groups |= {name: importlib.import_module(name) for name in (f"guidance_jax.{part}" for part in AROUND)}
for where, module in groups.items():
    names = [n for n in getattr(module, "__all__", vars(module)) if not n.startswith("_")]
    things = {n: getattr(module, n) for n in names}
    own = {
        n: t
        for n, t in things.items()
        if (inspect.isclass(t) or inspect.isfunction(t)) and t.__module__.startswith("guidance_jax")
    }
    if not hasattr(module, "__all__"):  # a single file: what it defines itself
        own = {n: t for n, t in own.items() if getattr(t, "__module__", None) == module.__name__}
    first = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
    overview.append(f"## {where}\n\n{first}\n")
    nav.append(f"* {where}")
    for name in sorted(own, key=str.lower):
        summary = " ".join((inspect.getdoc(own[name]) or "").split("\n\n")[0].split())
        path = f"{where}/{name}.md"
        if where == "guidance_jax" or name not in gj.__all__:
            page(f"reference/{path}", f"# {name}\n\n::: {where}.{name}\n")
            nav.append(f"    * [{name}]({path})")
        else:  # at the top too: its page is there
            path = f"guidance_jax/{name}.md"
        overview.append(f"* [`{name}`]({path}): {summary}")
    overview.append("")
page("reference/index.md", "\n".join(overview))
page("reference/SUMMARY.md", "\n".join(nav) + "\n")
