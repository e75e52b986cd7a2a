"""Formulas as they are typed in docstrings and pages, set as formulas: Greek letters, indices, powers, columns."""

import html
import re

NAMES = ["alpha", "beta", "gamma", "delta", "eps", "eta", "theta", "lambda", "mu", "rho", "sigma", "phi", "Delta"]
GREEK = dict(zip([*NAMES, "Sigma", "Phi"], "αβγδεηθλμρσφΔΣΦ", strict=True))
SIGNS = {"grad": "∇", "sum": "∑", "sqrt": "√", "int": "∫", "mean": "mean"}
RELATIONS = {"<-": "←", "->": "→", "<=": "≤", ">=": "≥", "...": "…", "..": "…", "*": "·"}
RELATIONS |= {"~": "\N{TILDE OPERATOR}", "-": "\N{MINUS SIGN}", "'": "\N{PRIME}"}
CODE = re.compile(r"\bdef |\breturn\b|\bimport\b|\w\.\w+\(|\(\[|-> ?\w+:|[a-z_]\w+\[|//|=\[")
FILES = re.compile(
    r"--[a-z]|guidance[-_]jax|\.(npz|npy|pt|json|png|safetensors|txt)\b|</"
)  # commands and layouts of folders
FENCE = re.compile(r"^( *)```(.*)$", re.MULTILINE)
LINK = re.compile(r"\{py:obj\}`(\S+) <\S+>`")
TOKEN = re.compile(
    r"`(?P<code>[^`]+)`|(?P<name>(?!std_)[A-Za-z]{3,}_[a-z]{2,}|[A-Za-z]{2,}[-'][a-z]+)"
    r"|(?P<word>[A-Za-z]+)(?P<number>\d+)?(?P<tilde>~(?=[(_ ]))?"
    r"|(?P<index>[_^])(?P<what>\{[^{}]*\}|\((?:[^()]|\([^()]*\))*\)|-?[A-Za-z]+\d*|-?\d+(?:\.\d+)?)"
    r"|(?P<sign><-|->|<=|>=|\.\.\.|\.\.|[~*'-])"
    r"|(?P<other>.)",
    re.DOTALL,
)


def is_formula(text):
    """Whether an indented block is no code, as far as its letters tell."""
    return (
        CODE.search(text) is None
        and FILES.search(text) is None
        and not text.lstrip().startswith((">>>", "$", "guidance-jax"))
    )


def name_languages(text):
    """Return a page in which fenced blocks without a language are text, so that only indented blocks are formulas."""
    inside = False

    def name(found):
        nonlocal inside
        inside = not inside
        return f"{found[1]}```text" if inside and not found[2] else found[0]

    return FENCE.sub(name, text)


def typeset(text):
    """A block of lines as HTML, a table where lines have columns."""
    lines = [line for line in LINK.sub(r"\1", text).rstrip().split("\n") if line.strip()]
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    rows = [[one(cell) for cell in re.split(r" {2,}", line[margin:])] for line in lines]
    if len(rows) == 1:
        return f'<div class="formula">{"&emsp; ".join(rows[0])}</div>'
    wide = f' colspan="{max(map(len, rows))}"'
    cells = ("".join(f"<td{wide if len(row) == 1 else ''}>{cell}</td>" for cell in row) for row in rows)
    return '<table class="formula">' + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def one(text):
    """A piece of a formula as HTML."""
    return "".join(map(shown, TOKEN.finditer(text)))


def shown(found):
    if found["code"]:
        return f"<code>{html.escape(found['code'])}</code>"
    if found["name"]:
        return html.escape(found["name"], quote=False)
    if word := found["word"]:
        letter = GREEK.get(word) or SIGNS.get(word) or (f"<i>{word}</i>" if len(word) == 1 else word)
        number = f"<sub>{found['number']}</sub>" if found["number"] else ""
        return letter + ("\N{COMBINING TILDE}" if found["tilde"] else "") + number
    if index := found["index"]:
        what = found["what"]
        inside = what[1:-1] if what[0] in "{(" else what
        tag = "sub" if index == "_" else "sup"
        return f"<{tag}>{one(inside)}</{tag}>"
    return RELATIONS[found["sign"]] if found["sign"] else html.escape(found["other"])
