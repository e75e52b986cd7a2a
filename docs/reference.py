"""The reference: from docstrings, by griffe, to pages of MyST, one for each public name."""

import ast
import importlib
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path

import griffe
from docstrings import Docstrings
from names import groups, path_of

import guidance_jax as gj

TITLES = {
    griffe.DocstringSectionKind.parameters: "Arguments",
    griffe.DocstringSectionKind.attributes: "Attributes",
    griffe.DocstringSectionKind.raises: "Raises",
    griffe.DocstringSectionKind.returns: "Returns",
    griffe.DocstringSectionKind.yields: "Yields",
}
ORPHAN = "---\norphan: true\n---"  # in no sidebar: five hundred names in each would take minutes
DOCS = Path(__file__).parent
PYTHON = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)

FORMULA = re.compile(r"(?!(?:.|\n)*\. [A-Z])[^`\n ].* (=|<-|~|\+=) (?:.|\n)*[^.:`;]$")  # prose has sentences


@cache
def package():
    """guidance_jax as griffe reads it, with its docstrings as pages have them."""
    options = {"warn_unknown_params": False, "warn_missing_types": False, "returns_multiple_items": False}
    extensions = griffe.load_extensions(Docstrings)
    return griffe.load("guidance_jax", docstring_parser="google", docstring_options=options, extensions=extensions)


def find(path):
    """The object of a path such as `guidance_jax.guidance.CFG`, where it is defined."""
    found = package()[path.removeprefix("guidance_jax.")]
    if found.is_module and found.name in found.members:  # a file that is called as what is in it
        found = found[found.name]
    return found.final_target if found.is_alias else found


def fenced(text):
    """Sessions of an interpreter as blocks of code, paragraphs that are formulas indented, as formulas are."""
    text = PROMPT.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
    return "\n\n".join(textwrap.indent(part, "    ") if FORMULA.match(part) else part for part in text.split("\n\n"))


def described(thing):
    """The docstring of an object as MyST."""
    if thing.docstring is None:
        return ""
    parts = []
    for section in thing.docstring.parsed:
        if section.kind is griffe.DocstringSectionKind.text:
            parts.append(fenced(section.value))
        elif section.kind is griffe.DocstringSectionKind.examples:
            for kind, text in section.value:
                code = kind is griffe.DocstringSectionKind.examples
                parts.append(f"```pycon\n{text}\n```" if code else text)
        elif section.kind is griffe.DocstringSectionKind.admonition:
            parts.append(f"**{section.title}.** {section.value.contents}")
        else:
            parts.append(f"**{TITLES[section.kind]}**\n")
            parts.append("\n".join(item(one) for one in section.value))
    return "\n\n".join(parts)


def item(one):
    """An argument, attribute or exception, as an entry of a list."""
    name = getattr(one, "name", "") or str(one.annotation or "")
    text = "\n  ".join(one.description.split("\n"))
    return f"* **`{name}`**: {text}" if name else f"* {text}"


def signature(thing):
    """`(a: int, b=2) -> float` of a function or of the making of a class."""
    if thing.is_class and "__init__" not in thing.all_members:
        return ""
    call = thing.all_members["__init__"] if thing.is_class else thing
    shown, mark = [], None
    for p in call.parameters:
        if p.name in ("self", "cls"):
            continue
        text = {"variadic positional": "*", "variadic keyword": "**"}.get(p.kind.value, "") + p.name
        if p.kind.value == "keyword-only" and mark is None and "*" not in "".join(s[0] for s in shown):
            shown.append("*")
        mark = "*" if p.kind.value in ("keyword-only", "variadic positional") else mark
        note = plain(p.annotation)
        text += f": {note}" if note else ""
        if p.default is not None and p.kind.value not in ("variadic positional", "variadic keyword"):
            text += f" = {p.default}" if note else f"={p.default}"
        shown.append(text)
    returns = "" if thing.is_class else plain(call.returns)
    return f"({', '.join(shown)})" + (f" -> {returns}" if returns else "")


def plain(annotation):
    """An annotation as it is written, arrays with their shapes; nothing for `Any`."""
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", str(annotation or ""))
    return "" if text == "Any" else " ".join(text.split())


def nested(kind, thing, name, inside, depth, options=()):
    """A directive of Sphinx's Python domain. `depth` says how many directives are inside."""
    fence = "`" * (3 + depth)
    about = [f":module: {thing.module.path}", *options]
    return "\n".join([f"{fence}{{py:{kind}}} {name}", *about, "", inside, fence])


def body(path, index=False):
    """Signature, docstring and methods of an object; `index` where links to it lead."""
    thing = find(path)
    options = () if index else (":no-index:",)
    if thing.is_module:
        own = [n for n, one in thing.members.items() if not one.is_alias and one.is_function and n[0] != "_"]
        return "\n\n".join([described(thing), *(body(f"{path}.{name}") for name in own)])
    if thing.is_function:
        return nested("function", thing, f"{thing.name}{signature(thing)}", described(thing), 1, options)
    inside = [described(thing)]
    for name, member in thing.members.items() if index else ():
        if name.startswith("_") or member.is_alias or member.docstring is None:
            continue
        if member.is_function or "property" in member.labels:
            kind = "property" if "property" in member.labels else "method"
            own = [":classmethod:"] if "classmethod" in member.labels else []
            call = "" if kind == "property" else signature(member)
            inside.append(nested(kind, thing, f"{thing.name}.{name}{call}", described(member), 1, own))
    return nested("class", thing, f"{thing.name}{signature(thing)}", "\n\n".join(inside), 2, options)


@cache
def statements():
    """(objects, lines, where) of pieces of code, shortest first: of pages, of tests, of the library."""
    pages, tests, library = [], [], []
    for path in sorted(DOCS.rglob("*.md")):
        page, imports = path.relative_to(DOCS).with_suffix(""), {}
        for code in PYTHON.findall(path.read_text()) if page.parts[0] not in ("reference", "notebooks") else ():
            found = parsed(textwrap.dedent(code), ast.stmt, imports)
            pages += [(*one, f"on the page {{doc}}`/{page}`") for one in found]
    for found, folders in ((tests, ("examples", "tests", "benchmarks")), (library, ("guidance_jax",))):
        for path in sorted(path for folder in folders for path in (DOCS.parent / folder).rglob("*.py")):
            own, imports = path.relative_to(DOCS.parent), {}
            if found is library:
                module = ".".join(own.with_suffix("").parts).removesuffix(".__init__")
                imports = {name: f"{module}.{name}" for name in vars(importlib.import_module(module))}
            kinds = MAKING if found is tests else SHOWING
            found += [(*one, f"in `{own}`") for one in parsed(path.read_text(), kinds, imports)]
    return [one for found in (pages, tests, library) for one in sorted(found, key=lambda one: len(one[1]))]


MAKING = ast.Assign | ast.Assert | ast.With | ast.Return | ast.Expr
SHOWING = ast.Assign | ast.Return | ast.Expr | ast.If | ast.ClassDef | ast.FunctionDef


def parsed(code, kinds, imports):
    """(paths, lines) of the short statements of these kinds; of a class or a function of the library its first line.

    `imports` maps names to what they stand for; the imports in the code are added to it.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in tree.body if kinds is ast.stmt else ast.walk(tree):
        if not isinstance(node, kinds) or isinstance(node, ast.Import | ast.ImportFrom):
            continue
        inside, end = list(ast.walk(node)), node.end_lineno
        if kinds is SHOWING and isinstance(node, ast.ClassDef | ast.FunctionDef | ast.If):
            heads = {ast.ClassDef: "bases", ast.FunctionDef: "returns", ast.If: "test"}
            head = getattr(node, heads[type(node)])
            inside = [n for part in (head if isinstance(head, list) else [head]) if part for n in ast.walk(part)]
            end = node.body[0].lineno - 1
        used = {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        used -= {n.id for n in inside if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        used |= {ast.unparse(n) for n in inside if isinstance(n, ast.Attribute)}
        used = {
            defined(imports[first] + name[len(first) :]) for name in used if (first := name.split(".")[0]) in imports
        }
        lines = code.split("\n")[node.lineno - 1 : max(end, node.lineno)]
        if len(lines) < 12:
            yield used, textwrap.dedent("\n".join(lines))


@cache
def defined(path):
    """The path where an object is defined that a path such as `guidance_jax.training.fit` leads to; None of others."""
    if not path.startswith("guidance_jax"):
        return None
    found, so_far = gj, "guidance_jax"
    for name in path.split(".")[1:]:
        so_far = f"{so_far}.{name}"
        try:  # a file may have the name of what it defines
            found = importlib.import_module(so_far)
        except ImportError:
            found = getattr(found, name, None)
    found = getattr(found, so_far.split(".")[-1], found) if inspect.ismodule(found) else found
    return path_of(found) if inspect.isclass(found) or inspect.isfunction(found) else None


def in_use(path):
    """Where an object that has no example of its own is used."""
    for used, lines, where in statements():
        if path in used:
            return f"In use, {where}:\n\n```python\n{lines}\n```"
    return ""


def write(out):
    """The pages of the reference; those that did not change are left as they are, and are not read again."""
    pages = {"index": ["# Reference", "Everything public, by group. What everyone needs is in `guidance_jax` itself."]}
    tree = []
    for where, (module, own) in groups().items():
        first = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
        overview = [f"# {where}", first]
        for name in sorted(own, key=str.lower):
            summary = " ".join((inspect.getdoc(own[name]) or "").split("\n\n")[0].split())
            here = where == "guidance_jax" or getattr(gj, name, None) is not own[name]
            page = f"{where if here else 'guidance_jax'}/{name}"
            if here:
                text = body(path_of(own[name]), index=True)
                pages[page] = [ORPHAN, f"# {name}", text, "" if ">>>" in text else in_use(path_of(own[name]))]
            overview.append(f"* [`{name}`](/reference/{page}.md): {summary}")
        pages[f"{where}/index"] = overview
        tree.append(f"{where}/index")
        pages["index"].append(f"* [{where}](/reference/{where}/index.md): {first}")
    pages["index"].append("\n".join(["```{toctree}", ":hidden:", "", *tree, "```"]))
    for page, parts in pages.items():
        path, text = out / f"{page}.md", "\n\n".join(parts) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    for path in out.rglob("*.md"):  # of names that are gone
        if str(path.relative_to(out).with_suffix("")) not in pages:
            path.unlink()
