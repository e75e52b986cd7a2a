"""Prompts as tokens: the tokenizer of a folder, its special tokens, and texts that a network must know."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from guidance_jax.core import Refused
from guidance_jax.untrusted import read_json, reading, whole_number
from guidance_jax.zoo.tokenizer import package, text_of

BUCKET = 16  # prompts are padded to a multiple of this many tokens, so that few lengths are compiled
LONGEST = 2**16  # the largest number of tokens of a sequence


def encode_prompt(tokenizer: Any, prompt: str, vocabulary: int) -> list[int]:
    """Return the tokens of a prompt, without special tokens around it.

    Raises:
      Refused: a prompt that is not text; tokens outside the vocabulary.
    """
    with reading(f"the prompt {str(prompt)[:40]!r}", "check that it is text and that the tokenizer is complete"):
        tokens = tokenizer.encode(prompt, add_special_tokens=False).ids
    if max(tokens, default=0) >= vocabulary:
        raise Refused(
            f"the prompt {prompt[:40]!r} has the token {max(tokens)}, the network has {vocabulary:,} tokens; the "
            "tokenizer belongs to another model"
        )
    return tokens


def special_tokens(
    folder: Path, config: Mapping[str, Any], tokenizer: Any, vocabulary: int
) -> Callable[[str], int | None]:
    """Return a function that maps a role, such as "eos", to the number of its token, or to None.

    The number is read from the configuration, or else from the tokenizer.

    Raises:
      Refused: a tokenizer with tokens outside the vocabulary. The function refuses numbers outside it.
    """
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= vocabulary:
        raise Refused(
            f"the tokenizer of {folder} has tokens up to {largest:,}, the network has {vocabulary:,} tokens; it "
            "belongs to another model"
        )
    named: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).exists():
            named |= {k: v for k, v in read_json(folder / name).items() if k.endswith("_token") and v}

    def token(role: str) -> int | None:
        number = config.get(f"{role}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if number is None:
            text = named.get(f"{role}_token")
            text = text.get("content") if isinstance(text, dict) else text
            number = tokenizer.token_to_id(text) if isinstance(text, str) else None
        return None if number is None else whole_number({role: number}, role, folder / "config.json", 0, vocabulary - 1)

    return token


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder, from `tokenizer.json` or from the `vocab.txt` of protein models.

    With `vocab.txt` every letter is one token.

    Raises:
      Refused: neither file exists, a file is damaged, or the package `tokenizers` is missing.
    """
    kit = package()
    if (folder / "tokenizer.json").exists():
        with reading(f"the tokenizer in {folder}"):
            return kit.Tokenizer.from_str(text_of(folder / "tokenizer.json"))
    if not (folder / "vocab.txt").exists():
        raise Refused(f"{folder} holds no tokenizer that can be read: no tokenizer.json, no vocab.txt; fetch it")
    with reading(f"the tokenizer in {folder}"):
        words = [line.strip() for line in text_of(folder / "vocab.txt").splitlines() if line.strip()]
        rule = kit.Tokenizer(kit.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
        rule.pre_tokenizer = kit.pre_tokenizers.Split("", "isolated")
        rule.decoder = kit.decoders.Fuse()
        rule.add_special_tokens([w for w in words if w.startswith("<")])
        return rule
