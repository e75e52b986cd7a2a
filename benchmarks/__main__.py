"""`python -m benchmarks NAME [--quick] [--out FILE] [--SETTING VALUE ...]`, `python -m benchmarks --list`."""

import ast
import difflib
import importlib
import sys
from pathlib import Path

from benchmarks.suite import run


def every() -> dict[str, tuple[str, str]]:
    """name -> (module, question) of the functions that are decorated as benchmarks; none is imported."""
    found = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any("benchmark" in ast.unparse(d) for d in node.decorator_list):
                found[node.name] = file.stem, (ast.get_docstring(node) or "").partition("\n")[0]
    return found


def main() -> None:
    found = every()
    if len(sys.argv) < 2 or sys.argv[1] in ("--list", "--help", "-h"):
        print(__doc__)
        for name, (_, question) in found.items():
            print(f"  {name:20} {question}")
        return
    name = sys.argv[1]
    if name not in found:
        close = difflib.get_close_matches(name, found, 1)
        sys.exit(f"there is no benchmark {name!r}; {f'did you mean {close[0]}' if close else 'see --list'}")
    run(name, getattr(importlib.import_module(f"benchmarks.{found[name][0]}"), name), sys.argv[2:])


if __name__ == "__main__":
    main()
