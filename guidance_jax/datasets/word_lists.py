"""Words by language, from the frequency lists that the package wordfreq carries (data: CC BY-SA 4.0)."""

import gzip
from pathlib import Path

import numpy as np

from guidance_jax.carried import Carried, Package
from guidance_jax.core import Refused
from guidance_jax.datasets.sequences import Sequences

WORDFREQ = Package("wordfreq", "3.1.1", "4b1c6ecffc6198be3396d5cf871c4423ca71c907c231348d352dd54d62b97473")
SHA256 = {
    "en": "f94a80cba6a3857b260d0666b5432bb7ea9b85315574dee9c306e87f61298247",
    "de": "2115b5bb4adb671a3352555a480b9c2f5b03493e9f7e4047997361d62310017a",
    "fr": "8fbbf619ff2e6ff5b3d99d41e69c105daf5795771ce8ef36529f210d571abe6e",
    "es": "ff5853040f65bcc9cb3ed3721d1d09d4405389c1741ebbf529612220829ff5af",
    "it": "07a4355d735d9cc864ce9fe679d94a13dee4cefa2495b6b013ecdb214b231c66",
    "nl": "ae0d64f10e9d11898b2b9481c0b20698ec40c79b8025edfdd70856bd593ad4b0",
    "pt": "fe4e551f6da739583d66cd5ef4fca28a1ccfa2ae5a53a5cbf48aa73dd7c91e0c",
    "fi": "7c33d07743908b9ae43347d96f60e4d1d30fa3529f59fdefcbf16441040183d7",
    "pl": "95691a55cc2afe0719c11f187fe55a8956bef0654ec476e945af3c495b4aa285",
    "tr": "10980704ee3ac5b52f226579251905412a04ead57092a12182dd0b8be6a765df",
}
LETTERS = tuple(" abcdefghijklmnopqrstuvwxyz")


def word_lists(
    path: str | Path | None = None, languages: tuple[str, ...] = ("en", "de", "fr", "it", "fi"), length: int = 12
) -> Sequences:
    """Words of 3 to `length` letters a to z, filled up with spaces, (n, length); the label is the language.

    Raises:
      Refused: an unknown language; a file that is missing (the message says how to get it) or another one.
    """
    import msgpack  # what flax stores with

    unknown = [language for language in languages if language not in SHA256]
    if unknown:
        raise Refused(f"the languages are {', '.join(SHA256)}, got {unknown[0]!r}")
    rows, labels = [], []
    for label, language in enumerate(languages):
        file = Carried(WORDFREQ, f"wordfreq/data/small_{language}.msgpack.gz", SHA256[language])
        _, *bins = msgpack.unpackb(gzip.decompress(file.read(path)), raw=False)
        found = [
            w for bin in bins for w in bin if 3 <= len(w) <= length and w.isascii() and w.isalpha() and w.islower()
        ]
        rows += [[ord(c) - 96 for c in w] + [0] * (length - len(w)) for w in found]
        labels += [label] * len(found)
    return Sequences(np.asarray(rows, np.int32), np.asarray(labels, np.int32), languages, LETTERS)
