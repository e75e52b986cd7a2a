"""The architecture of a network of OpenAI's guided-diffusion code, inferred from the names and shapes of its tensors.

ADM, GLIDE and Stable Diffusion share this architecture. Shapes determine the widths, the levels, where attention is,
the classes, the learned variance and how images are resampled. They do not determine the number of heads, the order of
a head's projections, the image size and the noise schedule. Widths and depths identify OpenAI's releases, for which
these facts are known.
"""

import dataclasses
from collections.abc import Mapping

from guidance_jax.core import Refused
from guidance_jax.models import parameterizations
from guidance_jax.schedules import Schedule
from guidance_jax.zoo.state_dict import Options, shape_of


def architecture(
    shapes: Mapping[str, tuple[int, ...]], image_channels: tuple[int, ...] = (1, 3, 4)
) -> tuple[dict, int]:
    """Return (the constructor's arguments that shapes determine, the channels of x) of a state dict."""
    channels, first = shape_of(shapes, "time_embed.0.weight", 2)[1], shape_of(shapes, "input_blocks.0.0.weight", 4)
    if first[1] not in image_channels:
        raise Refused(
            f"the network takes {first[1]} channels: an upsampler or another model on two images, which cannot be "
            f"converted; base models take {' or '.join(map(str, image_channels))}"
        )
    classifier = is_classifier(shapes)
    blocks = _blocks(shapes, "input_blocks")
    depth = _encoder_depth(blocks) if classifier else _decoder_depth(shapes)
    if depth < 1 or len(blocks) % (depth + 1):
        raise Refused(f"not a guided-diffusion checkpoint: {len(blocks)} input blocks do not form levels of {depth}")
    levels = len(blocks) // (depth + 1)
    starts = [1 + level * (depth + 1) for level in range(levels)]
    widths = [blocks[i].width for i in starts]
    multiples = tuple(w // channels if w % channels == 0 else w / channels for w in widths)
    embedding = shape_of(shapes, "input_blocks.1.0.emb_layers.1.weight", 2)[0]
    out = shape_of(shapes, *(_classifier_out(shapes) if classifier else ("out.2.weight", 4)))
    return {
        "model_channels": channels,
        "out_channels": out[0],
        "num_res_blocks": depth,
        "attention_resolutions": tuple(2**level for level, i in enumerate(starts) if blocks[i].attention),
        "channel_mult": multiples,
        "use_scale_shift_norm": embedding == 2 * blocks[1].width,
        "resblock_updown": not any(b.plain for b in blocks),
    }, first[1]


def parameterization(fields: dict, image_channels: int) -> parameterizations.Parameterization:
    """Return eps, with a learned variance if the network returns twice the channels of the image."""
    learned = fields["out_channels"] == 2 * image_channels
    return parameterizations.LearnedRange() if learned else parameterizations.eps


@dataclasses.dataclass(frozen=True)
class _Block:
    width: int
    attention: bool
    plain: bool  # a resampling convolution without a residual block
    same: bool  # in and out channels are equal


def _blocks(shapes: Mapping[str, tuple[int, ...]], group: str) -> list[_Block]:
    found, i = [_Block(shapes[f"{group}.0.0.weight"][0], False, False, False)], 1
    while any(k.startswith(f"{group}.{i}.") for k in shapes):
        plain = f"{group}.{i}.0.op.weight" in shapes
        out, into, *_ = shape_of(shapes, f"{group}.{i}.0.{'op' if plain else 'in_layers.2'}.weight", 4)
        attention = any(f"{group}.{i}.1.{name}.weight" in shapes for name in ("qkv", "proj_in"))
        found.append(_Block(out, attention, plain, out == into))
        i += 1
    return found


def _decoder_depth(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of residual blocks per level. Every decoder level but the last ends with an upsampler."""
    i = 0
    while f"output_blocks.{i}.0.in_layers.2.weight" in shapes:
        extra = [f"output_blocks.{i}.{j}." for j in (1, 2)]
        if any(k.startswith(e) and k[len(e) :].startswith(("in_layers", "conv")) for e in extra for k in shapes):
            return i
        i += 1
    return i - 1


def _encoder_depth(blocks: list[_Block]) -> int:
    """Return the number of residual blocks per level of a network without a decoder: the one that makes levels uniform.

    The blocks of a uniform level have one width, and all or none have attention. Between two levels lies one block that
    keeps the width and has no attention.
    """
    n = len(blocks)
    fits = []
    for depth in range(1, n):
        if n % (depth + 1):
            continue
        levels = [blocks[1 + i : 1 + i + depth] for i in range(0, n, depth + 1)]
        between = [blocks[i] for i in range(depth + 1, n, depth + 1)]
        uniform = all(len({(b.width, b.attention) for b in level}) == 1 for level in levels)
        inner = all(b.same for level in levels for b in level[1:])
        if uniform and inner and all(b.same and not b.attention for b in between):
            fits.append(depth)
    plain = [i for i, b in enumerate(blocks) if b.plain]
    if plain:
        fits = [d for d in fits if plain == list(range(d + 1, n, d + 1))]
    if not fits:
        raise Refused("not a guided-diffusion classifier: its blocks form no levels of equal depth")
    if len(fits) > 1:
        raise Refused(f"the classifier's blocks may form levels of {' or '.join(map(str, fits))} blocks each")
    return fits[0]


def is_classifier(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return not any(k.startswith("output_blocks.") for k in shapes)


def _classifier_out(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """Return the name of the tensor whose rows are the classes, and its number of axes."""
    for name, axes in (("out.2.c_proj.weight", 3), ("out.3.weight", 4)):
        if name in shapes:
            return name, axes
    raise Refused("not a guided-diffusion classifier: its pooling is neither attention nor adaptive")


def signature(fields: dict) -> tuple:
    """Return the numbers that identify a release: (channels, blocks per level, channel multiples)."""
    return fields["model_channels"], fields["num_res_blocks"], fields["channel_mult"]


def complete(known: Options, fields: dict) -> tuple[int, Schedule, dict]:
    """Return (image size, schedule, the constructor's arguments about heads). Raise `Refused` if one is unknown."""
    heads = known.num_heads if known.num_head_channels is None else known.num_head_channels
    wanted = {
        "image_size": known.image_size,
        "schedule": known.schedule,
        "num_heads or num_head_channels": heads,
        "use_new_attention_order": known.use_new_attention_order,
    }
    missing = [k for k, v in wanted.items() if v is None]
    if missing:
        channels, depth, multiples = signature(fields)
        raise Refused(
            f"a network of {channels} channels, {depth} blocks per level, multiples {multiples} is not one of "
            f"OpenAI's releases, and its tensors do not determine everything; pass {', '.join(missing)}"
        )
    assert known.image_size is not None
    assert known.schedule is not None
    name = "num_heads" if known.num_head_channels is None else "num_head_channels"
    return known.image_size, known.schedule, {name: heads, "use_new_attention_order": known.use_new_attention_order}
