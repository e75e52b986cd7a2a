"""Byte-pair tokenizers of captions, CLIP's and GLIDE's, built with the `tokenizers` package."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.untrusted import file_at, read_json, reading, unzip

BYTES = 2**26  # the largest size of a tokenizer's file

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<|startoftext|>", "<|endoftext|>"


def package() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise Refused('captions need a tokenizer; pip install "guidance_jax[pretrained]"') from None
    return tokenizers


class Tokenizer:
    """Turn n captions into padded tokens (n, length).

    Attributes:
      rule: a `Tokenizer` of the `tokenizers` package.
      length: the number of tokens of a caption, start, end and padding tokens included.
      pad: the padding token, which fills up after the end token.
      vocabulary: the number of tokens that the network knows; None if that is unknown.
      around: (text before, text after) every caption: the chat template of a language model.
    """

    def __init__(
        self, rule: Any, length: int, pad: int, vocabulary: int | None = None, around: Sequence[str] = ("", "")
    ):
        self.rule, self.length, self.pad, self.vocabulary = rule, length, pad, vocabulary
        self.around = tuple(around)
        self.rule.no_padding()
        self.rule.no_truncation()

    def __call__(self, captions: Sequence[str], cut: bool = False) -> np.ndarray:
        """Return the tokens of each caption. If `cut`, a caption that is too long keeps its first tokens and its end.

        Raises:
          Refused: a caption that is too long, or has a token that the network does not know.
        """
        found = np.full((len(captions), self.length), self.pad, np.int32)
        for row, caption in zip(found, captions, strict=True):
            with reading(
                f"the caption {str(caption)[:40]!r}", "check that it is text and that the tokenizer is complete"
            ):
                tokens = self.rule.encode(caption.join(self.around)).ids
            if self.vocabulary is not None and max(tokens, default=0) >= self.vocabulary:
                raise Refused(
                    f"the caption {caption[:40]!r} has the token {max(tokens)}, the network has {self.vocabulary} "
                    "tokens; the tokenizer belongs to another model"
                )
            if cut and len(tokens) > self.length:
                tokens = [*tokens[: self.length - 1], tokens[-1]]
            if len(tokens) > self.length:
                raise Refused(
                    f"the caption {caption[:40]!r}... has {len(tokens)} tokens, at most {self.length} are accepted; "
                    "shorten it"
                )
            row[: len(tokens)] = tokens
        return found

    def split(self, caption: str, chunks: int) -> list[tuple[int, int]]:
        """Cut a long caption between words into at most `chunks` pieces that fit.

        Return each piece as (start, end), the slice of its characters.

        Raises:
          Refused: a caption that needs more chunks, a word that does not fit into one chunk.
        """
        with reading(f"the caption {caption[:40]!r}"):
            found = self.rule.encode(caption)
        marks = found.word_ids.count(None)
        words: dict[int, list[tuple[int, int]]] = {}
        for word, span in zip(found.word_ids, found.offsets, strict=True):
            if word is not None:
                words.setdefault(word, []).append(span)
        starts, tokens = [0], 0
        for spans in words.values():
            tokens += len(spans)
            if tokens > self.length - marks:
                starts.append(spans[0][0])
                tokens = len(spans)
            if tokens > self.length - marks:
                raise Refused(f"the caption {caption[:40]!r}... has a word of {tokens} tokens; shorten it")
        if len(starts) > chunks:
            raise Refused(
                f"the caption {caption[:40]!r}... needs {len(starts)} chunks, got chunks={chunks}; use "
                f"chunks={len(starts)}"
            )
        return list(zip(starts, [*starts[1:], len(caption)], strict=True))

    def weigh(self, caption: str, weights: Sequence[float]) -> np.ndarray:
        """Return the weights (length,) of the tokens, from the `weights` of the characters of `caption`.

        A token has the weight of its first character that is not a space. Start, end and padding tokens have 1.

        Raises:
          Refused: a tokenizer with text `around` captions.
        """
        if any(self.around):
            raise Refused("word weights need CLIP or T5, and this model encodes captions with a language model")
        found = np.ones(self.length, np.float32)
        with reading(f"the caption {caption[:40]!r}"):
            spans = self.rule.encode(caption).offsets
        for i, (start, end) in enumerate(spans[: self.length]):
            letters = [w for w, letter in zip(weights[start:end], caption[start:end], strict=False) if letter.strip()]
            found[i] = letters[0] if letters else 1.0
        return found

    def within(self, vocabulary: int, padding: bool = False) -> "Tokenizer":
        """Return the same tokenizer for a network of `vocabulary` tokens, which reads -1 too if `padding`.

        Raises:
          Refused: a tokenizer with more tokens, or with a padding token that the network does not read.
        """
        with reading("the vocabulary of the tokenizer"):
            largest = max(self.rule.get_vocab(with_added_tokens=True).values(), default=0)
        if max(largest, self.pad) >= vocabulary or self.pad < (-1 if padding else 0):
            raise Refused(
                f"the tokenizer has tokens up to {max(largest, self.pad)}, pads with {self.pad}, the network has "
                f"tokens 0 to {vocabulary - 1}{', and -1' if padding else ''}; it belongs to another model"
            )
        own = copy.copy(self)
        own.vocabulary = vocabulary
        return own

    @classmethod
    def clip(cls, folder: str | Path, length: int) -> "Tokenizer":
        """Read CLIP's tokenizer from a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`.

        The padding token is that of `tokenizer_config.json` or `special_tokens_map.json`, else the end token.

        Raises:
          Refused: a folder with neither, damaged files, or a missing package.
        """
        folder = Path(folder)
        if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
            raise Refused(f"{folder} holds no tokenizer that can be read: no tokenizer.json, no vocab.json; fetch it")
        with reading(f"the tokenizer in {folder}"):
            if (folder / "tokenizer.json").exists():
                rule = package().Tokenizer.from_str(text_of(folder / "tokenizer.json"))
            else:
                rule = clip_rule(folder / "vocab.json", folder / "merges.txt")
            about, pad = folder / "tokenizer_config.json", None
            if about.exists() and "pad" in (own := read_json(about)):  # written by `save`
                if type(own["pad"]) is not int or abs(own["pad"]) > 2**31 - 1:
                    raise Refused(f"{about} has pad = {str(own['pad'])[:80]!r}, expected a token; restore it")
                around = own.get("around", ["", ""])
                if not isinstance(around, list) or len(around) != 2 or not all(isinstance(a, str) for a in around):
                    raise Refused(f"{about} has around = {str(around)[:80]!r}, expected two texts; restore it")
                return cls(rule, length, own["pad"], around=around)
            for name in ("special_tokens_map.json", "tokenizer_config.json"):
                if (folder / name).exists():
                    pad = read_json(folder / name).get("pad_token") or pad
            pad = pad["content"] if isinstance(pad, dict) else pad
            token = rule.token_to_id(pad or END)
        if token is None:
            raise Refused(f"{folder}: the tokenizer has no token {pad or END!r} to pad with")
        return cls(rule, length, token)

    @classmethod
    def glide(cls, folder: str | Path, length: int) -> "Tokenizer":
        """Read GLIDE's tokenizer from a folder with its `encoder.json` and `vocab.bpe`.

        It puts text into lower case, adds no start and end tokens, and pads with -1.

        Raises:
          Refused: files that cannot be read, or a missing package.
        """
        kit = package()
        with reading(f"encoder.json and vocab.bpe in {folder} are not valid byte-pair files: one"):
            words = json.loads(text_of(Path(folder) / "encoder.json"))
            pairs = [tuple(line.split()) for line in text_of(Path(folder) / "vocab.bpe").splitlines()[1:] if line]
            rule = kit.Tokenizer(kit.models.BPE(words, pairs))
        rule.normalizer = kit.normalizers.Lowercase()
        rule.pre_tokenizer = kit.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return cls(rule, length, -1)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, and `tokenizer_config.json` with `pad` and `around`, for `Tokenizer.clip`."""
        self.rule.save(str(folder / "tokenizer.json"))
        text = json.dumps({"pad": self.pad} | ({"around": list(self.around)} if any(self.around) else {}))
        (folder / "tokenizer_config.json").write_text(text)


def text_of(path: Path) -> str:
    """Return the content of a text file, or of its compressed version `path`.gz if only that exists.

    Raises:
      Refused: neither file exists, or it is larger than 64 MiB.
    """
    packed = path.with_name(f"{path.name}.gz")
    if not path.exists() and not packed.exists():
        raise Refused(f"there is neither {path} nor {packed.name}")
    source = file_at(packed if packed.exists() else path)
    if source.stat().st_size > BYTES:
        raise Refused(
            f"{source} has {source.stat().st_size:,} bytes, at most {BYTES:,} are accepted; check that it is the right "
            "file"
        )
    with reading(source), source.open("rb") as file:
        raw = unzip(file, source.stat().st_size, source) if source == packed else file.read()
        return raw.decode()


def clip_rule(vocabulary: Path, merges: Path) -> Any:
    """Build OpenAI's CLIP tokenizer: lower case, words by its pattern, byte pairs, start and end tokens."""
    kit = package()
    for path in (vocabulary, merges):
        text_of(path)  # check the file first: the package opens a file of any size
    rule = kit.Tokenizer(
        kit.models.BPE.from_file(str(vocabulary), str(merges), end_of_word_suffix="</w>", unk_token=END)
    )
    rule.normalizer = kit.normalizers.Sequence(
        [
            kit.normalizers.NFC(),
            kit.normalizers.Replace(kit.Regex(r"\s+"), " "),
            kit.normalizers.Lowercase(),
        ]
    )
    rule.pre_tokenizer = kit.pre_tokenizers.Sequence(
        [
            kit.pre_tokenizers.Split(kit.Regex(CLIP_WORDS), behavior="removed", invert=True),
            kit.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    rule.add_special_tokens([START, END])
    marks = [(mark, rule.token_to_id(mark)) for mark in (END, START)]
    rule.post_processor = kit.processors.RobertaProcessing(*marks, add_prefix_space=False, trim_offsets=False)
    return rule
