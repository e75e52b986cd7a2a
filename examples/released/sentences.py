"""Sentences rated by people (Hutto & Gilbert 2014), carried by vaderSentiment's source distribution.

10,605 snippets of film reviews, 5,190 of editorials, 4,200 tweets, 3,708 of product reviews, mean ratings from -4 to 4.
"""

import io
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.sequences import Sequences
from released.carried import Carried, Package

RATED = Carried(
    Package(
        "vaderSentiment",
        "3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        source=True,
    ),
    "additional_resources/hutto_ICWSM_2014.tar.gz",
    "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
)
SOURCES = {"films": "movieReviewSnippets", "editorials": "nytEditorialSnippets", "tweets": "tweets",
           "products": "amazonReviewSnippets"}  # fmt: skip
START, UNKNOWN = "<s>", "<unk>"  # a sequence starts with the first token and is filled up with it
WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[.,!?;:]")


def words(sentence: str) -> list[str]:
    """Lower-case words, numbers and punctuation."""
    return WORDS.findall(sentence.lower().replace("''", '"').replace("\u2019", "'"))


def rated(path: str | Path | None = None, source: str | None = None) -> tuple[list[str], np.ndarray]:
    """(sentences, mean ratings) of one of `SOURCES`, or of all.

    Raises:
      Refused: an unknown source; the file is missing (the message says how to get it) or another one.
    """
    if source is not None and source not in SOURCES:
        raise Refused(f"the sources are {', '.join(SOURCES)}, got {source!r}")
    sentences, ratings = [], []
    with tarfile.open(fileobj=io.BytesIO(RATED.read(path))) as archive:
        for name in [SOURCES[source]] if source else SOURCES.values():
            member = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            assert member is not None
            for line in member.read().decode("latin1").splitlines():
                _, rating, sentence = line.split("\t", 2)
                sentences.append(sentence)
                ratings.append(float(rating))
    return sentences, np.asarray(ratings, np.float32)


def sentences(
    path: str | Path | None = None,
    source: str | None = None,
    length: int = 24,
    seen: int = 3,
    neutral: float = 0.5,
) -> Sequences:
    """Sentences as words, (n, length): label 1 if rated above `neutral`, 0 if below -`neutral`; the others are left
    out.

    A sequence is the start token, at most `length - 1` words, and start tokens. Longer sentences are left out, words
    seen fewer than `seen` times are unknown. `values` are the ratings.

    Raises:
      Refused: as `rated`; nothing left.
    """
    texts, ratings = rated(path, source)
    split = [words(t) for t in texts]
    kept = [i for i, w in enumerate(split) if 3 <= len(w) <= length - 1 and abs(ratings[i]) > neutral]
    if not kept:
        raise Refused(f"no sentence of at most {length - 1} words is left; raise length")
    counts = Counter(word for i in kept for word in split[i])
    common = sorted((w for w, n in counts.items() if n >= seen), key=lambda w: (-counts[w], w))
    alphabet = (START, UNKNOWN, *common)
    index = {word: i for i, word in enumerate(alphabet)}
    tokens = np.zeros((len(kept), length), np.int32)
    for row, i in enumerate(kept):
        tokens[row, 1 : len(split[i]) + 1] = [index.get(word, 1) for word in split[i]]
    labels = (ratings[kept] > 0).astype(np.int32)
    return Sequences(tokens, labels, ("negative", "positive"), alphabet, ratings[kept])
