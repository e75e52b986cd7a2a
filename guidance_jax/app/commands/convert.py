"""`guidance-jax convert`: convert published checkpoints to folders that `guidance-jax sample` reads."""

from pathlib import Path
from typing import Annotated

import typer

from guidance_jax.app.schema import SIDE
from guidance_jax.app.terminal import console
from guidance_jax.zoo.convert import convert as convert_files
from guidance_jax.zoo.convert import schedule_named
from guidance_jax.zoo.state_dict import Options


def convert(
    files: Annotated[
        list[Path], typer.Argument(help="A .pt or .safetensors file, a diffusers folder, or a guidance_jax checkpoint.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for models: out/denoiser, out/classifier.")],
    to: Annotated[str, typer.Option(help="safetensors or orbax.")] = "safetensors",
    image_size: Annotated[int | None, typer.Option(min=1, max=SIDE, help="Side of the images.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine or linear, with 1000 steps.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, max=SIDE, help="Attention heads.")] = None,
    head_channels: Annotated[int | None, typer.Option(min=1, max=SIDE, help="Channels of an attention head.")] = None,
    new_attention_order: Annotated[
        bool | None, typer.Option("--new-attention-order/--old-attention-order", help="As the network was trained.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="DiT, SiT, REPA or LightningDiT, for a latent transformer.")
    ] = None,
    null_label: Annotated[
        bool | None, typer.Option("--null-label/--no-null-label", help="Whether the last label means unconditional.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="The network to read from a file that holds several, for example ema.")
    ] = None,
    prediction: Annotated[
        str | None, typer.Option(help="epsilon or v_prediction, for a single file of Stable Diffusion 2.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of CLIP's tokenizer, for a single file.")] = None,
) -> None:
    """Convert published models; no code from a file is run. Reads folders of diffusers, and files of guided-diffusion,
    GLIDE, EDM, DiT, SiT, REPA, LightningDiT and Stable Diffusion.

    The options give what the tensors do not tell. OpenAI's releases are recognised and need none.
    """
    known = Options(image_size, schedule_named(schedule), heads, head_channels, new_attention_order, family, null_label)
    for file in files:
        for name, network, domain in convert_files(
            file, out, to, known, key=key, prediction=prediction, tokenizer=tokenizer
        ):
            what = type(network).__name__ if domain is None else f"{type(network).__name__}, {domain}"
            console.print(f"{file} -> {out / name}: {what}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Next: guidance-jax sample --models {out} --out samples.npz")
