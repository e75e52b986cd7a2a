"""Weights of the words of a caption, written as "a (red:1.3) cat".

state' = state of "" + weight (state - state of "")        of each token, as in ComfyUI
"""

import re

from guidance_jax.core import Refused

WEIGHED = re.compile(r"\(([^():]+):\s*(-?\d+(?:\.\d+)?|-?\.\d+)\)")
LARGEST = 10.0


def read_weights(caption: str) -> tuple[str, list[float]]:
    """Return the caption without its brackets, and the weight of each of its characters: 1 outside "(words:weight)".

    Raises:
      Refused: brackets that are not closed or are nested, a weight above 10 or below -10.

    >>> read_weights("a (red:1.5) cat")
    ('a red cat', [1.0, 1.0, 1.5, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0])
    """
    plain, weights, end = "", [], 0
    for found in WEIGHED.finditer(caption):
        words, weight = found[1], float(found[2])
        if abs(weight) > LARGEST:
            raise Refused(f"the weight of a word is at most {LARGEST:g}, got {found[0][:60]!r}")
        before = caption[end : found.start()]
        plain, end = plain + before + words, found.end()
        weights += [1.0] * len(before) + [weight] * len(words)
    rest = caption[end:]
    if re.search(r"[()]", re.sub(WEIGHED, "", caption)) is not None:
        raise Refused(
            f"the weights of {caption[:60]!r} must be written (words:1.3) and not nested; correct the brackets"
        )
    return plain + rest, weights + [1.0] * len(rest)
