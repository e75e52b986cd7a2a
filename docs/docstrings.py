"""How docstrings become pages: the formula of a file goes to its only class, "a, b: as in X" to each name, and classes
that a decorator of ours makes have the signature that they have when they run."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import griffe

sys.path.append(str(Path(__file__).parent))
from names import linked, path_of, spell

from guidance_jax import methods

GROUP = re.compile(r"^( +)(\w+(?:, \w+)+): (.*)$", re.MULTILINE)


def each(match):
    return "\n".join(f"{match[1]}{name}: {match[3]}" for name in match[2].split(", "))


ENTRY = re.compile(r"^( +)(\w+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
ELSEWHERE = re.compile(r"as in `(\w+)`\.?")


def entries(text):
    """name -> what is said of it, of attributes and arguments."""
    return {found[2]: " ".join(found[3].split()) for found in ENTRY.finditer(GROUP.sub(each, text))}


def said_here(text, known):
    """The text with `name: as in X` replaced by what X says of the name, and what is added kept."""

    def resolve(found):
        indent, name, what = found.groups()
        for _ in range(4):  # X may say "as in Y"
            at = ELSEWHERE.match(what)
            if at is None or name not in known.get(at[1], {}):
                break
            added = what[at.end() :].lstrip(" ;,.")
            what = f"{known[at[1]][name].rstrip('.')}; {added}" if added else known[at[1]][name]
        return f"{indent}{name}: {what}"

    return ENTRY.sub(resolve, text)


def signature_of(cls):
    """The parameters of a class as it runs, `self` first; None of what cannot be called."""
    try:
        made = getattr(importlib.import_module(cls.module.path), cls.name)
        found = inspect.signature(made)
    except (AttributeError, ImportError, TypeError, ValueError):
        return None
    parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
    for p in found.parameters.values():
        kind = getattr(griffe.ParameterKind, p.kind.name.lower())
        default = None if p.default is p.empty else shown(p.default)
        parameters.append(griffe.Parameter(p.name, annotation=annotation(p), kind=kind, default=default))
    return griffe.Parameters(*parameters)


def annotation(parameter):
    """As it is written; nothing for `Any`, which says nothing."""
    if parameter.annotation is parameter.empty:
        return None
    text = parameter.annotation
    text = text if isinstance(text, str) else inspect.formatannotation(text)
    text = text.replace("guidance_jax.", "").replace("collections.abc.", "").replace("typing.", "")
    return None if text == "Any" else re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def shown(default):
    text = default.__name__ if inspect.isfunction(default) or inspect.isclass(default) else repr(default)
    return text if len(text) < 60 and "<" not in text else "..."


class Docstrings(griffe.Extension):
    """Changes texts and signatures before they are read into sections."""

    def on_package(self, *, pkg, **kwargs):
        self.known = {}
        self.collect(pkg)
        self.visit(pkg)

    def collect(self, module):
        for member in module.members.values():
            if member.is_alias:
                continue
            if member.is_module:
                self.collect(member)
            elif (member.is_class or member.is_function) and member.docstring is not None:
                self.known.setdefault(member.name, entries(member.docstring.value))

    def visit(self, module):
        classes = [c for n, c in module.members.items() if not n.startswith("_") and not c.is_alias and c.is_class]
        for member in module.members.values():
            if member.is_alias:
                continue
            if member.is_module:
                self.visit(member)
                continue
            if member.is_class and "__init__" not in member.members and (parameters := signature_of(member)):
                lines = {"lineno": member.lineno, "endlineno": member.endlineno}
                member.set_member("__init__", griffe.Function("__init__", parameters=parameters, **lines))
            if member.docstring is not None and (member.is_class or member.is_function):
                text = said_here(GROUP.sub(each, member.docstring.value), self.known)
                if classes == [member] and module.docstring is not None:
                    first, _, rest = text.partition("\n\n")
                    text = f"{first}\n\n{module.docstring.value}\n\n{rest}"
                row = methods.PARTS.get(member.name)
                if row is not None and path_of(row.cls) == member.path and ">>>" not in text:
                    text = f"{text.rstrip()}\n\nExamples:\n    >>> part = {spell(row)}\n"
                member.docstring.value = linked(text, member.name)
