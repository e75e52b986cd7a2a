"""Pages that are made, not written: the reference, one page a public name."""

import inspect
import sys
from pathlib import Path

import mkdocs_gen_files

import guidance_jax as gj

sys.path.append(str(Path(__file__).parent))
from names import groups, path_of

OPTIONS = """
    options:
      show_root_heading: true
      show_root_full_path: false
      show_root_toc_entry: true
      heading_level: 1
      show_source: true
      members: null
      filters: ["!^_"]
      members_order: source
      show_if_no_docstring: false
"""


def page(path, text):
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


nav = ["* [Overview](index.md)"]
overview = ["# Reference\n", "Everything public, by group. What everyone needs is in `guidance_jax` itself.\n"]
for where, (module, own) in groups().items():
    first = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
    overview.append(f"## {where}\n\n{first}\n")
    nav.append(f"* {where}")
    for name in sorted(own, key=str.lower):
        summary = " ".join((inspect.getdoc(own[name]) or "").split("\n\n")[0].split())
        path = f"{where}/{name}.md"
        if where == "guidance_jax" or name not in gj.__all__:
            page(f"reference/{path}", f"::: {path_of(own[name])}{OPTIONS}")
            nav.append(f"    * [{name}]({path})")
        else:  # at the top too: its page is there
            path = f"guidance_jax/{name}.md"
        overview.append(f"* [`{name}`]({path}): {summary}")
    overview.append("")
page("reference/index.md", "\n".join(overview))
page("reference/SUMMARY.md", "---\nsearch:\n  exclude: true\n---\n\n" + "\n".join(nav) + "\n")
