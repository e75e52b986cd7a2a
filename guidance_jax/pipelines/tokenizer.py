"""Byte-pair tokenizers of captions: CLIP's and GLIDE's, by the `tokenizers` package."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
START, END = "<|startoftext|>", "<|endoftext|>"


def package() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise Refused('captions need a tokenizer; pip install "guidance_jax[pretrained]"') from None
    return tokenizers


class Tokenizer:
    """From captions to tokens (n, length), padded.

    Attributes:
      rule: of the `tokenizers` package.
      length: tokens of a caption, those that mark its start and end included.
      pad: the token after the end.
    """

    def __init__(self, rule: Any, length: int, pad: int):
        self.rule, self.length, self.pad = rule, length, pad
        self.rule.no_padding()
        self.rule.no_truncation()

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Tokens of each caption.

        Raises:
          Refused: a caption that is too long.
        """
        found = np.full((len(captions), self.length), self.pad, np.int32)
        for row, caption in zip(found, captions, strict=True):
            tokens = self.rule.encode(caption).ids
            if len(tokens) > self.length:
                raise Refused(
                    f"the caption {caption[:40]!r}... has {len(tokens)} tokens, {self.length} are read; shorten it"
                )
            row[: len(tokens)] = tokens
        return found

    @classmethod
    def clip(cls, folder: str | Path, length: int) -> "Tokenizer":
        """CLIP's, from a folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`.

        The padding is that of `tokenizer_config.json` or `special_tokens_map.json`, else the token that ends a text.

        Raises:
          Refused: a folder with neither, damaged files, or a missing package.
        """
        folder = Path(folder)
        try:
            if (folder / "tokenizer.json").exists():
                rule = package().Tokenizer.from_file(str(folder / "tokenizer.json"))
            else:
                rule = clip_rule(folder / "vocab.json", folder / "merges.txt")
            about, pad = folder / "tokenizer_config.json", None
            if about.exists() and "pad" in (own := json.loads(about.read_text())):  # written by `save`
                return cls(rule, length, own["pad"])
            for name in ("special_tokens_map.json", "tokenizer_config.json"):
                if (folder / name).exists():
                    pad = json.loads((folder / name).read_text()).get("pad_token") or pad
            pad = pad["content"] if isinstance(pad, dict) else pad
            token = rule.token_to_id(pad or END)
        except Refused:
            raise
        except Exception as error:  # the package raises plain exceptions of its own
            raise Refused(f"{folder} holds no tokenizer that can be read ({error})") from None
        if token is None:
            raise Refused(f"{folder}: the tokenizer has no token {pad or END!r} to pad with")
        return cls(rule, length, token)

    @classmethod
    def glide(cls, folder: str | Path, length: int) -> "Tokenizer":
        """GLIDE's, from a folder with its `encoder.json` and `vocab.bpe`: lower case, no marks, padded with -1.

        Raises:
          Refused: files that cannot be read, or a missing package.
        """
        kit = package()
        try:
            words = json.loads(text_of(Path(folder) / "encoder.json"))
            pairs = [tuple(line.split()) for line in text_of(Path(folder) / "vocab.bpe").splitlines()[1:] if line]
            rule = kit.Tokenizer(kit.models.BPE(words, pairs))
        except Refused:
            raise
        except Exception as error:  # as above
            raise Refused(f"encoder.json and vocab.bpe in {folder} are no byte-pair files ({error})") from None
        rule.normalizer = kit.normalizers.Lowercase()
        rule.pre_tokenizer = kit.pre_tokenizers.ByteLevel(add_prefix_space=False)
        return cls(rule, length, -1)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and what pads into `folder`, as `Tokenizer.clip` reads them."""
        self.rule.save(str(folder / "tokenizer.json"))
        text = json.dumps({"pad": self.pad})
        (folder / "tokenizer_config.json").write_text(text)


def text_of(path: Path) -> str:
    """A text file, or the same compressed beside it.

    Raises:
      Refused: neither is there.
    """
    packed = path.with_name(f"{path.name}.gz")
    if packed.exists():
        return gzip.decompress(packed.read_bytes()).decode()
    if not path.exists():
        raise Refused(f"there is no {path}, nor {packed.name}")
    return path.read_text()


def clip_rule(vocabulary: Path, merges: Path) -> Any:
    """The rule of OpenAI's CLIP: lower case, words by its pattern, bytes, pairs, marks around."""
    kit = package()
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
