"""A masked language model with its tokenizer: from prompts to sequences to start from, and from samples to text."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.automata import Automaton
from guidance_jax.core import FAILED, Bound, Refused
from guidance_jax.discrete.infill import FREE, Infill
from guidance_jax.discrete.network import TokenNetwork
from guidance_jax.discrete.planned import PlannedUnmasking
from guidance_jax.discrete.process import Absorbing
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.schedules import RectifiedFlow
from guidance_jax.untrusted import read_json
from guidance_jax.zoo.rotary.cached import CachedNetwork
from guidance_jax.zoo.rotary.network import RotaryTransformer
from guidance_jax.zoo.rotary.prompts import BUCKET, LONGEST, encode_prompt, read_tokenizer, special_tokens
from guidance_jax.zoo.rotary.reader import FAMILIES, read_network


def apply_network(network: RotaryTransformer, params: Any, x: Any, t: Any, cond: Any) -> Any:
    return network.apply(params, x, t, cond)


@dataclasses.dataclass(frozen=True)
class TextPipeline:
    """A masked language model, or protein model, as published: `model` is a `TokenNetwork` for every method.

        pipeline = gj.load(folder)
        cond = pipeline.conditions(["Once upon a time"], length=64)
        kernel = pipeline.kernel(discrete.PromptCFG(pipeline.model, "known", 1.5))
        x = generate(keys(0, 1), kernel, pipeline.levels(64), cond["known"].shape[1:], cond)
        print(pipeline.decode(x, cond))

    Attributes:
      model: the denoiser of masked tokens; its condition is a dictionary with `known` (L,) tokens, -1 where free, and
        `padding`, how many tokens from the left are none.
      network: what it is made of.
      tokenizer: of the `tokenizers` package.
      end: the token that ends a text; None if none does.
      pad: the token of padding.
      around: tokens before and after every text, of models that were trained with them.
    """

    model: TokenNetwork
    network: RotaryTransformer
    tokenizer: Any
    end: int | None
    pad: int
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def mask(self) -> int:
        """The number of the mask."""
        process: Any = self.model.process
        return process.mask

    def conditions(self, prompts: Sequence[str], length: int) -> dict[str, np.ndarray]:
        """What each of the prompts knows: `known` (n, L), -1 where the model writes, and `padding` (n,).

        Masks inside a prompt are free too. Prompts are padded on the left to one length, a multiple of 16.

        Args:
          prompts: texts, which come first.
          length: how many tokens follow each.

        Raises:
          Refused: no prompt, a length below 1, a prompt with tokens that the network does not know.
        """
        if not prompts or not 1 <= length <= LONGEST:
            raise Refused(f"a text needs a prompt, which may be empty, and 1 to {LONGEST:,} tokens, got {length:,}")
        rows = []
        for prompt in prompts:
            tokens = encode_prompt(self.tokenizer, prompt, self.network.vocabulary)
            rows.append([*self.around[0], *(FREE if token == self.mask else token for token in tokens)])
        size = -(-max(map(len, rows)) // BUCKET) * BUCKET
        after = self.around[1]
        if size + length + len(after) > LONGEST:
            raise Refused(f"a prompt of {size:,} tokens and {length:,} more are over {LONGEST:,}; shorten them")
        known = np.full((len(rows), size + length + len(after)), FREE, np.int32)
        padding = np.array([size - len(row) for row in rows], np.int32)
        for line, row, pad in zip(known, rows, padding, strict=True):
            line[:pad], line[pad:size] = self.pad, row
            line[size + length :] = after
        return {"known": known, "padding": padding}

    def levels(self, steps: int) -> Any:
        """Levels of the log-linear schedule, on which every step reveals an equal share."""
        return RectifiedFlow().levels(steps)

    def kernel(self, model: Any = None, solver: Any = None) -> Infill:
        """A kernel that keeps the prompts and writes the rest, by `PlannedUnmasking()` unless a solver is given."""
        return Infill(Reverse(self.model if model is None else model, solver or PlannedUnmasking()), "known")

    def in_blocks(self, block: int, begin: int, *, causal: bool, refresh: int | None = None) -> CachedNetwork:
        """The model decoding in blocks with a cache of keys and values; arguments as in `CachedNetwork`."""
        return CachedNetwork(self.model.params, self.network, self.model.process, block, causal, begin, refresh)

    def rule(self, pattern: str, length: int, total: int) -> Automaton:
        """The automaton of a regular expression for the `length` tokens behind the prompts, of `total` in all."""
        rule = Automaton.from_pattern(pattern, self.texts(), self.end)
        return rule.behind(total - length - len(self.around[1]))

    def texts(self) -> list[str | None]:
        """The text of every token; None for special tokens and parts of characters."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        special = {i for i, token in self.tokenizer.get_added_tokens_decoder().items() if token.special}
        found: list[str | None] = [None] * self.network.vocabulary
        by_byte = any(token.startswith("\u0120") for token in vocabulary)
        table = bytes_of_letters() if by_byte else {}
        for token, i in vocabulary.items():
            if i in special or i >= len(found):
                continue
            if by_byte:
                try:
                    found[i] = bytes(table[c] for c in token).decode()
                except (KeyError, UnicodeDecodeError):
                    continue
            else:
                found[i] = token.replace("\u2581", " ")
        return found

    def decode(self, x: Any, cond: Mapping[str, Any] | None = None) -> list[str]:
        """The texts of samples (n, L), up to the token that ends one; with the conditions, what was written alone."""
        texts = []
        for i, row in enumerate(np.asarray(x).tolist()):
            if FAILED in row:
                texts.append("")
                continue
            start = 0 if cond is None else prompt_length(np.asarray(cond["known"])[i])
            tokens = row[start:]
            while cond is None and tokens[:1] == [self.pad]:
                tokens = tokens[1:]
            if self.end is not None and self.end in tokens:
                tokens = tokens[: tokens.index(self.end)]
            texts.append(self.tokenizer.decode(tokens, skip_special_tokens=True))
        return texts


def prompt_length(known: np.ndarray) -> int:
    """How many tokens are given before the first that is free."""
    return int(np.argmax(known == FREE)) if (known == FREE).any() else len(known)


def bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of byte-level tokenizers stands for: printable ones for themselves, others shifted."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def load_text(folder: str | Path, dtype: str | None = None, mask: int | None = None) -> TextPipeline:
    """The masked language model of a folder as published: `config.json`, safetensors, tokenizer. Nothing is executed.

    Args:
      folder: of Qwen2, Qwen3 or Llama trained by diffusion (Dream, Tiny-A2D), LLaDA, MDLM, ModernBERT, ESM-2, ESM-C.
      dtype: in which the network computes and its parameters are kept, such as "bfloat16"; None for float32.
      mask: the number of the mask, where no file of the folder says it.

    Raises:
      Refused: another architecture, missing or damaged files, tensors that do not fit, no mask.
    """
    folder = Path(folder)
    network, params, config = read_network(folder, dtype)
    kind = str(config["model_type"])
    tokenizer = read_tokenizer(folder)
    token = special_tokens(folder, config, tokenizer, network.vocabulary)
    usual = FAMILIES[kind].mask
    usual = network.vocabulary - 1 if usual == -1 else usual
    mask = next((m for m in (mask, token("mask"), usual) if m is not None), None)
    if mask is None or not 0 <= mask < network.vocabulary:
        raise Refused(f"{folder} does not say which token is the mask; write load_text(folder, mask=...)")
    end = token("eos")
    process = Absorbing(network.vocabulary, mask=mask)
    model = TokenNetwork(params, Bound(apply_network, network), process, batched=False)
    around: Any = ((), ())
    if kind in ("modernbert", "esm", "esmc"):
        first = token("cls") if token("cls") is not None else tokenizer.token_to_id("<cls>")
        around = (() if first is None else (first,), () if end is None else (end,))
    pad = next(p for p in (token("pad"), end, 0, 1) if p not in (None, mask))
    return TextPipeline(model, network, tokenizer, end, int(pad or 0), around)


def kind_of_text(folder: str | Path) -> str | None:
    """The `model_type` that the configuration of a Hugging Face folder states; None for other folders."""
    where = Path(folder) / "config.json"
    try:
        kind = read_json(where).get("model_type") if where.is_file() else None
    except Refused:  # whoever reads it says what is wrong
        return None
    return None if kind is None else str(kind)


def is_text(folder: str | Path) -> bool:
    """Whether a folder holds a network of Hugging Face's, whose configuration says its `model_type`."""
    return kind_of_text(folder) is not None
