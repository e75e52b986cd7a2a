"""How docstrings become pages: the formula of a file goes to its only class, "a, b: as in X" to each name."""

import re

import griffe

GROUP = re.compile(r"^( +)(\w+(?:, \w+)+): (.*)$", re.MULTILINE)


def each(match):
    return "\n".join(f"{match[1]}{name}: {match[3]}" for name in match[2].split(", "))


class Docstrings(griffe.Extension):
    """Changes texts before they are read into sections."""

    def on_package(self, *, pkg, **kwargs):
        self.visit(pkg)

    def visit(self, module):
        classes = [c for n, c in module.members.items() if not n.startswith("_") and not c.is_alias and c.is_class]
        for member in module.members.values():
            if member.is_alias:
                continue
            if member.is_module:
                self.visit(member)
            elif member.docstring is not None and (member.is_class or member.is_function):
                text = GROUP.sub(each, member.docstring.value)
                if classes == [member] and module.docstring is not None:
                    first, _, rest = text.partition("\n\n")
                    text = f"{first}\n\n{module.docstring.value}\n\n{rest}"
                member.docstring.value = text
