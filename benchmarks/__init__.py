"""What is measured, and how: `python -m benchmarks --list` names the questions."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "examples"))  # whose models and data some benchmarks use
