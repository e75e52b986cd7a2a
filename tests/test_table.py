"""Nothing public is missing from the tables of laws, the pages or its docstring; the house keeps its layers."""

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import pytest

import guidance_jax as gj
from guidance_jax import methods
from tests import parts, table, token_table
from tests.laws.test_flows import SOLVERS as OF_FLOWS

PACKAGE = Path(gj.__file__).parent
GROUPS = (
    "core",
    "models",
    "schedules",
    "solvers",
    "guidance",
    "operators",
    "inverse",
    "kernels",
    "particles",
    "resampling",
)
GROUPS += (
    "search",
    "automata",
    "discrete",
    "text",
    "embeddings",
    "flows",
    "oracles",
    "diagnostics",
    "parameterizations",
)


def public(module):
    """The names that a group shows, with what they are."""
    named = vars(module).get("__all__")
    own = [n for n, v in vars(module).items() if vars_module(v) == module.__name__ and not n.startswith("_")]
    return {name: vars(module)[name] for name in named or own}


def vars_module(thing):
    return thing.__module__ if inspect.isclass(thing) or inspect.isfunction(thing) else None


# what is around the library, and is imported by its own name
HOUSE = ("training", "finetune", "metrics", "checkpoints", "datasets", "zoo", "jobs", "sharding", "pictures", "methods")
PUBLIC = {f"{group}.{n}": v for group in GROUPS for n, v in public(getattr(gj, group)).items()}
PUBLIC |= {
    f"{name}.{n}": v for name in HOUSE for n, v in public(importlib.import_module(f"guidance_jax.{name}")).items()
}
PUBLIC |= {name: thing for name, thing in public(gj).items() if not inspect.ismodule(thing)}
DOCUMENTED = {n: v for n, v in PUBLIC.items() if inspect.isclass(v) or inspect.isfunction(v)}


def made_of(group, *kinds):
    return {c for c in public(getattr(gj, group)).values() if inspect.isclass(c) and issubclass(c, kinds)}


def rows(table):
    return {row for row in table if not isinstance(row, str)}


def test_every_part_has_a_row():
    """Of `guidance_jax.methods`, from which the command line, the laws and the pages take them."""
    groups = ("guidance", "inverse", "kernels", "particles", "discrete", "text", "embeddings", "flows", "solvers")
    kinds = gj.guidance.Guidance, gj.Kernel, gj.Move, gj.Solver
    abstract = {gj.guidance.Guidance, gj.guidance.Contrast, gj.guidance.TwoConditions}
    public = set().union(*(made_of(group, *kinds) for group in groups)) - abstract
    assert public == {row.cls for row in (methods.METHODS | methods.SOLVERS).values()}
    assert made_of("guidance", gj.guidance.Scale) - {gj.guidance.Scale} == {r.cls for r in methods.SCALES.values()}
    assert rows(table.SOLVERS) | rows(token_table.ROWS) | set(OF_FLOWS) >= {row.cls for row in methods.SOLVERS.values()}
    assert rows(token_table.PARTICLES) <= rows(table.POPULATIONS)


def test_a_row_names_fields_of_its_class():
    """What it names is there, and what it does not name has a default, so that nothing is found by its name."""
    for row in methods.PARTS.values():
        fields = {field.name: field for field in dataclasses.fields(row.cls)}
        assert set(row.sources) | set(row.off or {}) <= set(fields), row.name
        bare = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in row.sources]
        assert bare == [], (row.name, bare)
        assert row.same in ("conditional", "unconditional")


def test_every_method_is_paired_with_all_others():
    named = {*parts.METHODS, *parts.KERNELS, *parts.WRAPPERS, *(type(s).__name__ for s in parts.SOLVERS.values())}
    assert {*methods.METHODS, *methods.SOLVERS} - named == set()


def test_every_method_is_in_the_list_of_laws():
    listed = (PACKAGE.parent / "docs" / "methods" / "index.md").read_text()
    assert [name for name in (*methods.METHODS, *methods.SOLVERS) if f"`{name}" not in listed] == []


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_say_what_it_does_and_what_every_field_is(name):
    """Its own docstring, not one that `dataclass` wrote or a base class has, and every field or parameter in it."""
    thing = DOCUMENTED[name]
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert own, f"{name} has no docstring"
    if inspect.isclass(thing):
        assert not own.startswith(f"{thing.__name__}("), f"{name} has the docstring that dataclass writes"
        fields = [f.name for f in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else []
        fields = [name for name in fields if name not in ("parent", "name") or not issubclass(thing, nn.Module)]
        if issubclass(thing, tuple) and hasattr(thing, "_fields"):
            fields = [*thing._fields]
    else:
        fields = [p for p in inspect.signature(thing).parameters if p not in ("args", "kwargs")]
    if "fields as in" in own.lower():
        return
    missing = [f for f in fields if not re.search(rf"\b{f}\b", own)]
    assert missing == [], f"{name} does not mention {missing}"


RAISES = [n for n, v in DOCUMENTED.items() if inspect.isclass(v) and "raise Refused" in inspect.getsource(v)]


@pytest.mark.parametrize("name", RAISES)
def test_docstrings_of_what_refuses_say_so(name):
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    methods = " ".join(inspect.getdoc(m) or "" for m in vars(DOCUMENTED[name]).values() if inspect.isfunction(m))
    assert "Refuse" in text + methods


def test_public_methods_of_public_classes_have_docstrings():
    """Their own, or that of the contract that they fill."""
    bare = [
        f"{name}.{method}"
        for name, thing in DOCUMENTED.items()
        if inspect.isclass(thing) and thing.__module__.startswith("guidance_jax")
        for method, f in vars(thing).items()
        if inspect.isfunction(f) and not method.startswith("_") and not inspect.getdoc(vars_of(thing, method))
    ]
    assert bare == []


def vars_of(cls, name):
    """The first attribute of that name, along the bases, that has a docstring."""
    found = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
    return next((f for f in found if f.__doc__), found[0])


def test_structures_name_their_class():
    """Two classes with the same fields are two structures: `jit` must never take the program of the one for the other.

    JAX's own `register_dataclass` compares them as equal (0.10.2, 0.12.0), and then it does, now and then.
    """
    made = {name: cls for name, cls in DOCUMENTED.items() if inspect.isclass(cls) and dataclasses.is_dataclass(cls)}
    structures = {}
    for name, cls in made.items():
        node = object.__new__(cls)  # of every class, whatever it refuses: all fields None or 1
        for field in dataclasses.fields(cls):
            object.__setattr__(node, field.name, None if field.metadata.get("static") else 1.0)
        if jax.tree.leaves(node) != [node]:  # a pytree, not a plain value
            structures[name] = jax.tree.structure(node)
    assert len(structures) > 70
    same = [(a, b) for a in structures for b in structures if made[a] is not made[b] and structures[a] == structures[b]]
    assert same == []


def test_the_top_is_small():
    names = [n for n in gj.__all__ if not inspect.ismodule(getattr(gj, n))]
    assert len(names) <= 72
    assert set(gj.__all__) <= set(dir(gj))


def test_method_files_stay_small():
    """One formula, one class, one screen: at most 110 lines of code and prose a method."""
    shared = {"base.py", "smc.py", "populations.py", "scales.py", "implicit.py"}
    large = {
        "discrete/process.py",
        "discrete/lambo.py",
        "particles/twisted.py",
        "discrete/planned.py",
        "particles/gibbs.py",
    }
    folders = ("guidance", "solvers", "kernels", "particles", "discrete", "text", "embeddings", "flows")
    files = [p for f in folders for p in (PACKAGE / f).glob("*.py") if p.name not in shared]
    assert len(files) > 60
    sizes = {
        f"{p.parent.name}/{p.name}": len(p.read_text().splitlines()) / max(1, p.read_text().count("@pytree"))
        for p in files
    }
    assert {n: size for n, size in sizes.items() if size > 110 and n not in large} == {}


def imports():
    """(importing module, imported module) of the package, at the top or inside functions."""
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("guidance_jax."):
                yield own, node.module.removeprefix("guidance_jax.")


def folder(module):
    return module.split(".")[0]


def test_no_import_goes_round_in_a_circle():
    """Between folders: follow the arrows from any of them and it is not met again."""
    arrows = {}
    for own, other in imports():
        if own != "__init__" and folder(own) != folder(other):
            arrows.setdefault(folder(own), set()).add(folder(other))

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for to in arrows.get(todo.pop(), ()):
                if to not in seen:
                    seen.add(to)
                    todo.append(to)
        return seen

    assert {f for f in arrows if f in reached(f)} == set()


# the circles of the house: the first imports nothing of the second
LIBRARY = {"core", "sample", "schedules", "solvers", "guidance", "kernels", "particles", "search", "discrete", "text"}
LIBRARY |= {
    "embeddings",
    "flows",
    "models",
    "oracles",
    "automata",
    "inverse",
    "operators",
    "diagnostics",
    "sharding",
    "jobs",
    "claims",
    "files",
    "progress",
    "pictures",
}
LIBRARY |= {"methods", "untrusted", "places", "_typing"}
AROUND = {"training", "finetune", "metrics", "checkpoints", "datasets", "zoo", "app"}


def test_the_library_does_not_know_what_is_around_it():
    pairs = {(folder(own), folder(other)) for own, other in imports() if own != "__init__"}
    assert {name for pair in pairs for name in pair} == LIBRARY | AROUND
    assert {(own, other) for own, other in pairs if own in LIBRARY and other in AROUND} == set()
    assert {(own, other) for own, other in pairs if other == "app" and own != "app"} == set()


def test_a_family_of_networks_does_not_know_another():
    families = {p.parent.name for p in (PACKAGE / "zoo").glob("*/__init__.py")} - {"diffusers"}
    assert families >= {"adm", "dit", "glide", "gpt2", "stable_diffusion"}
    pairs = [
        (own.split(".")[1:2], other.split(".")[1:2]) for own, other in imports() if "zoo." in own and "zoo." in other
    ]
    assert [(a, b) for [a], [b] in pairs if a != b and {a, b} <= families] == []


# what these functions are called by in the papers and in JAX: kinds of things, not what was done to them
KINDS = {
    "converted",
    "stratified",
    "shifted",
    "spaced",
    "fixed_small",
    "fixed_large",
    "learned_range",
    "elapsed",
    "mirrored",
}
KINDS |= {
    "squared",
    "squared_distances",
    "squared_mmd",
    "smoothed_gradient",
    "expected_calibration_error",
    "measured_shape",
}
KINDS |= {"marked", "counted", "asked", "perturbed_attention"}


def test_functions_are_verbs():
    """A past participle says what was done to something, not what the function does."""
    names = {
        node.name.strip("_")
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and not any("property" in ast.unparse(d) for d in node.decorator_list)
    }
    first = {n: n.split("_")[0] for n in names}
    irregular = {"drawn", "told", "found", "shown", "made", "kept", "written"}
    done = {
        n for n, word in first.items() if (word.endswith("ed") and word not in ("embed", "need")) or word in irregular
    }
    assert done - KINDS == set()


def test_keys_are_named_after_what_they_are_for():
    """What `jax.random.split` is taken apart into ends with `_key`."""
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {name.id}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("jax.random.split(")
        for target in node.targets
        if isinstance(target, ast.Tuple)
        for name in target.elts
        if not name.id.endswith("_key") and name.id != "_"
    ]
    assert wrong == []


def test_what_is_sniffed_is_little_and_has_its_reason_beside_it():
    lines = [
        f"{p.relative_to(PACKAGE)}: {line.strip()}"
        for p in PACKAGE.rglob("*.py")
        for line in p.read_text().splitlines()
        if re.search(r"\b(hasattr|getattr)\(", line)
    ]
    assert len(lines) <= 12
    assert [line for line in lines if "#" not in line] == []


@pytest.mark.slow
def test_the_tables_of_the_pages_are_the_results():
    command = [sys.executable, "-m", "benchmarks.tables", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


def test_a_figure_in_a_sentence_is_the_result_with_its_digits(monkeypatch):
    from benchmarks import figures

    def row(scale, found, **cost):
        return {"case": {"method": "a", "scale": scale}, "measures": {"found": {"value": found}}, "cost": cost}

    written = {"settings": {"small": 2.4e-6}, "rows": [row(1.0, 0.4351), row(2.0, 8192, calls=3)]}
    monkeypatch.setattr(figures, "result", lambda name: written)
    for old, place, new in (
        ("0.99", "f / method=a & scale=1 / found", "0.44"),
        ("9 %", "f / method=a & scale=1 / found", "44 %"),
        ("1,000", "f / scale=2 / found", "8,192"),
        ("9e-7", "f / settings / small", "2e-6"),
        ("0.0", "f / scale=2 / calls divided by 5", "0.6"),
        ("-1", "f / scale=2 / calls divided by f / scale=2 / calls", "1"),
    ):
        assert figures.with_figures(f"of {old}<!-- = {place} --> or so") == f"of {new}<!-- = {place} --> or so"
    with pytest.raises(ValueError, match="2 rows have method=a"):
        figures.with_figures("1<!-- = f / method=a / found -->")
    with pytest.raises(ValueError, match="1 comments of a figure have no figure"):
        figures.with_figures("one <!-- = f / settings / small -->")
