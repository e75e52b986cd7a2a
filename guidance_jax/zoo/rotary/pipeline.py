"""A masked language model with its tokenizer: prompts become conditions of the sampler, samples become text."""

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
    """A published masked language model or protein model. Its `model`, a `TokenNetwork`, works with every method.

        pipeline = gj.load(folder)
        cond = pipeline.conditions(["Once upon a time"], length=64)
        kernel = pipeline.kernel(discrete.PromptCFG(pipeline.model, "known", 1.5))
        x = generate(keys(0, 1), kernel, pipeline.levels(64), cond["known"].shape[1:], cond)
        print(pipeline.decode(x, cond))

    Attributes:
      model: the denoiser of masked tokens. Its condition is a dictionary: `known` are tokens (L,), -1 where the model
        writes; `padding` is the number of padding tokens on the left.
      network: the `RotaryTransformer` inside `model`.
      tokenizer: a `Tokenizer` of the `tokenizers` package.
      end: the token that ends a text; None if there is no such token.
      pad: the padding token.
      around: (tokens before, tokens after) that enclose every text, for models that were trained with them.
    """

    model: TokenNetwork
    network: RotaryTransformer
    tokenizer: Any
    end: int | None
    pad: int
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def mask(self) -> int:
        """The mask token."""
        process: Any = self.model.process
        return process.mask

    def conditions(self, prompts: Sequence[str], length: int) -> dict[str, np.ndarray]:
        """Return the conditions of n prompts: `known` (n, L), -1 where the model writes, and `padding` (n,).

        The model also writes where a prompt contains the mask token. Prompts are padded on the left to one length, a
        multiple of 16.

        Args:
          prompts: n texts, with which the sequences begin.
          length: the number of tokens that the model writes after each prompt.

        Raises:
          Refused: no prompt; a length below 1; more than 65,536 tokens in all; a prompt with tokens that the network
            does not know.
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
            raise Refused(f"a prompt of {size:,} tokens and {length:,} more exceed {LONGEST:,}; shorten them")
        known = np.full((len(rows), size + length + len(after)), FREE, np.int32)
        padding = np.array([size - len(row) for row in rows], np.int32)
        for line, row, pad in zip(known, rows, padding, strict=True):
            line[:pad], line[pad:size] = self.pad, row
            line[size + length :] = after
        return {"known": known, "padding": padding}

    def levels(self, steps: int) -> Any:
        """Return levels of the log-linear schedule, on which every step reveals an equal share of the tokens."""
        return RectifiedFlow().levels(steps)

    def kernel(self, model: Any = None, solver: Any = None) -> Infill:
        """Return a kernel that keeps the prompts and writes the rest. The default solver is `PlannedUnmasking()`."""
        return Infill(Reverse(self.model if model is None else model, solver or PlannedUnmasking()), "known")

    def in_blocks(self, block: int, begin: int, *, causal: bool, refresh: int | None = None) -> CachedNetwork:
        """Return the model that decodes in blocks with a cache; `CachedNetwork` explains the arguments."""
        return CachedNetwork(self.model.params, self.network, self.model.process, block, causal, begin, refresh)

    def rule(self, pattern: str, length: int, total: int) -> Automaton:
        """Return the automaton of a regular expression for the `length` tokens after the prompts.

        `total` is the length of the sequences, as `conditions` makes them.
        """
        rule = Automaton.from_pattern(pattern, self.texts(), self.end)
        return rule.behind(total - length - len(self.around[1]))

    def texts(self) -> list[str | None]:
        """Return the text of every token; None for special tokens and for tokens that are parts of characters."""
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
        """Return the texts of samples (n, L), each up to its end token. A failed sample gives an empty text.

        With the conditions `cond`, return only what the model wrote after each prompt.
        """
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
    """Return the number of tokens before the first one that the model writes."""
    return int(np.argmax(known == FREE)) if (known == FREE).any() else len(known)


def bytes_of_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level tokenizer stands for.

    Printable letters stand for themselves; the other bytes are the letters from 256 on.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}


def load_text(folder: str | Path, dtype: str | None = None, mask: int | None = None) -> TextPipeline:
    """Load a published masked language model from a folder with `config.json`, safetensors files and a tokenizer.

    No code from the folder is executed.

    Args:
      folder: the path of the folder of a Qwen2, Qwen3 or Llama trained by diffusion (Dream, Tiny-A2D), or of LLaDA,
        MDLM, ModernBERT, ESM-2 or ESM-C.
      dtype: the dtype of the computation and of the parameters, such as "bfloat16"; None for float32.
      mask: the mask token; it overrides the files of the folder. None takes the mask that the files name, else the
        known one of LLaDA or MDLM.

    Raises:
      Refused: an unknown architecture, missing or damaged files, tensors that do not fit, no mask token.
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
        raise Refused(f"{folder} does not state which token is the mask; write load_text(folder, mask=...)")
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
    """Return the `model_type` in the configuration of a Hugging Face folder; None for other folders."""
    where = Path(folder) / "config.json"
    try:
        kind = read_json(where).get("model_type") if where.is_file() else None
    except Refused:  # the function that loads the folder reports what is wrong
        return None
    return None if kind is None else str(kind)


def is_text(folder: str | Path) -> bool:
    """Return whether a folder has a Hugging Face configuration with a `model_type`."""
    return kind_of_text(folder) is not None
