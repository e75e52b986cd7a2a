"""Latent models of the field, at their real sizes, beside PyTorch, each part in a process of its own."""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.suite import Row, benchmark

DIFFUSERS = ("dit_xl_2", "sd_1_5", "sd_2_1", "sd_xl")
AUTHORS = ("sit_xl_2", "lightningdit_xl_1")
MULTIMODAL = ("sd_3_5_medium", "flux_1_dev", "z_image")  # real widths, few blocks: whole they need 10 to 48 GB
CAPTIONS, NEGATIVE = ["the red cat", "a dog, running"], "the dog"
SIDE, STEPS = 32, 10
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def randomised(network, seed=0, scale=0.02):
    """Normal weights, so that no part returns zero, as fresh ones often do; gains about 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, value in network.named_parameters():
        if name != "pos_embed":
            value.data.normal_(0, scale, generator=generator)
            if value.ndim == 1 and name.endswith("weight"):
                value.data += 1
    return network.eval()


def folder_of(name, folder):
    """The pipeline of diffusers', saved."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens, vocabulary = tokenizer(folder)

    def text(cls=CLIPTextModel, **fields):
        about = {"vocab_size": 49408, "eos_token_id": vocabulary - 1, "bos_token_id": vocabulary - 2, **fields}
        return randomised(cls(CLIPTextConfig(**about)))

    large = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32}
    middle = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23}
    small = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    autoencoder = randomised(
        diffusers.AutoencoderKL(**kinds, block_out_channels=(128, 256, 512, 512), layers_per_block=2)
    )
    ddim = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False)
    empty = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if name == "dit_xl_2":
        network = randomised(diffusers.DiTTransformer2DModel(sample_size=SIDE, out_channels=8))
        for block in network.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(network.transformer_blocks[0].norm1.emb.state_dict())
        pipeline = diffusers.DiTPipeline(network, autoencoder, diffusers.DDIMScheduler(clip_sample=False))
    elif name == "sd_1_5":
        network = diffusers.UNet2DConditionModel(sample_size=SIDE, cross_attention_dim=768, attention_head_dim=8)
        encoder = text(**small, hidden_act="quick_gelu")
        pipeline = diffusers.StableDiffusionPipeline(autoencoder, encoder, tokens, randomised(network), ddim, **empty)
    elif name == "sd_2_1":
        network = diffusers.UNet2DConditionModel(
            sample_size=SIDE, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
        scheduler = diffusers.DDIMScheduler(
            **BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
        )
        encoder = text(**middle, hidden_act="gelu")
        pipeline = diffusers.StableDiffusionPipeline(
            autoencoder, encoder, tokens, randomised(network), scheduler, **empty
        )
    else:
        network = diffusers.UNet2DConditionModel(
            sample_size=SIDE,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        encoders = (
            text(**small, hidden_act="quick_gelu"),
            text(CLIPTextModelWithProjection, **large, hidden_act="gelu", projection_dim=1280),
        )
        scheduler = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")
        pipeline = diffusers.StableDiffusionXLPipeline(
            autoencoder, encoders[0], encoders[1], tokens, tokens, randomised(network), scheduler
        )
    pipeline.save_pretrained(folder, max_shard_size="20GB")


def tokenizer(folder):
    """A small tokenizer of CLIP's kind, and the size of its vocabulary."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(c) for c in [*printable, *range(256, 256 + 256 - len(printable))]]
    merges = ["t h", "th e</w>", "c a", "ca t</w>"]
    words = [*letters, *(c + "</w>" for c in letters), *(m.replace(" ", "") for m in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    files = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
    files[0].write_text(json.dumps({word: i for i, word in enumerate(words)}))
    files[1].write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(*map(str, files), model_max_length=77), len(words)


def reference(name, folder):
    """What PyTorch says, as reference.npz in the folder."""
    import diffusers
    import torch

    random = np.random.default_rng(0)
    noise = random.normal(size=(2, 4, SIDE, SIDE)).astype(np.float32)
    picture = random.normal(size=(1, 3, 8 * SIDE, 8 * SIDE)).astype(np.float32)
    x, begin = torch.from_numpy(noise), time.perf_counter()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    found = {"noise": noise, "picture": picture, "loading": time.perf_counter() - begin}
    with torch.no_grad():
        latent = pipeline.vae.encode(torch.from_numpy(picture)).latent_dist
        found |= {"encoded": latent.mean.numpy(), "log_variance": latent.logvar.numpy()}
        found["decoded"] = pipeline.vae.decode(x[:1]).sample.numpy()
        begin = time.perf_counter()
        if name == "dit_xl_2":
            diffusers.pipelines.dit.pipeline_dit.randn_tensor = lambda *_, **__: x.clone()
            pipeline.vae.decode = lambda latents: seen.append(latents) or original(latents[:1])
            seen, original = [], type(pipeline.vae).decode.__get__(pipeline.vae)
            pipeline(class_labels=[3, 7], guidance_scale=4.0, num_inference_steps=STEPS, output_type="pt")
            found["sampled"] = (seen[0] * pipeline.vae.config.scaling_factor).numpy()
            network = pipeline.transformer
            labels = torch.tensor([3, 1000])
            call = lambda: network(x, timestep=torch.tensor([500, 20]), class_labels=labels).sample  # noqa: E731
        else:
            asked = {"prompt": CAPTIONS, "negative_prompt": [NEGATIVE] * 2}
            own = {"guidance_scale": 5.0, "num_inference_steps": STEPS, "output_type": "latent"}
            found["sampled"] = pipeline(**asked, **own, latents=x.clone()).images.numpy()
            network, more = pipeline.unet, {}
            if name == "sd_xl":
                context, null, pooled, _ = pipeline.encode_prompt(**asked)
                sizes = torch.tensor([[8.0 * SIDE, 8 * SIDE, 0, 0, 8 * SIDE, 8 * SIDE]] * 2)
                more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
                found["pooled"] = pooled.numpy()
            else:
                context, null = pipeline.encode_prompt(CAPTIONS, "cpu", 1, True, [NEGATIVE] * 2)
            found |= {"context": context.numpy(), "null": null[:1].numpy()}
            call = lambda: network(x, torch.tensor([500, 20]), encoder_hidden_states=context, **more).sample  # noqa: E731
        found["sampling"] = time.perf_counter() - begin
        begin = time.perf_counter()
        found["network"] = call().numpy()
        found["step"] = time.perf_counter() - begin
    found["parameters"] = sum(p.numel() for p in network.parameters())
    np.savez(Path(folder) / "reference.npz", **found)


def relative(got, want):
    return float(np.abs(np.asarray(got) - want).max() / np.abs(want).max())


def agreement(name, folder):
    """How far this library is from it."""
    import jax
    import jax.numpy as jnp

    import guidance_jax as gj

    want = np.load(Path(folder) / "reference.npz")
    begin = time.perf_counter()
    pipeline = gj.load_diffusers(folder)
    record = {"parameters": int(want["parameters"]), "loading, s": round(time.perf_counter() - begin, 1)}
    record |= {f"PyTorch {k}, s": round(float(want[k]), 1) for k in ("loading", "sampling", "step")}
    first, last = (lambda a: np.moveaxis(np.asarray(a), -1, 1)), (lambda a: np.moveaxis(a, 1, -1))
    found, model, x = {}, pipeline.model, jnp.asarray(last(want["noise"]))
    if name == "dit_xl_2":
        cond, null, scale = pipeline.conditions([3, 7]), pipeline.null(), 4.0
        given = jnp.array([3, 1000])
    else:
        cond, null, scale = pipeline.conditions(CAPTIONS), pipeline.null(NEGATIVE), 5.0
        given = cond
        found["text"] = relative(cond["context"], want["context"])
        found["negative text"] = relative(null["context"], want["null"][0])
        if "pooled" in want:
            found["pooled text"] = relative(cond["vector"][:, : want["pooled"].shape[1]], want["pooled"])
    network = jax.jit(jax.vmap(model.apply, in_axes=(None, 0, 0, 0)))
    found["network"] = relative(first(network(model.params, x, jnp.array([500.0, 20.0]), given)), want["network"])
    begin = time.perf_counter()
    jax.block_until_ready(network(model.params, x, jnp.array([500.0, 20.0]), given))
    record["step, s"] = round(time.perf_counter() - begin, 1)
    own = pipeline.autoencoder
    mean, log_variance = jax.jit(lambda p, x: own.network.apply(p, x, method="encode"))(
        own.params, last(want["picture"])[0]
    )
    found["encoder"] = relative(first(mean[None]), want["encoded"])
    found["encoder, variance"] = relative(first(log_variance[None]), want["log_variance"])
    found["decoder"] = relative(first(own.decode(x[:1] / own.std)), want["decoded"])
    kernel = gj.Reverse(gj.CFG(model, null, scale), gj.DDIM())
    begin = time.perf_counter()
    got = gj.generate(gj.keys(0, 2), kernel, pipeline.levels(STEPS), pipeline.shape, cond, x)
    found[f"{STEPS} guided steps"] = relative(first(got), want["sampled"])
    record["sampling, compiling, s"] = round(time.perf_counter() - begin, 1)
    return {"measures": found, "cost": record}


def by_authors(name, code):
    """SiT or LightningDiT against the authors' file."""
    import jax
    import torch

    from guidance_jax.zoo.dit.reader import dit
    from guidance_jax.zoo.state_dict import Options

    sys.path.insert(0, str(code))
    if name == "sit_xl_2":
        import sit_models

        network, shape = sit_models.SiT_models["SiT-XL/2"](input_size=32), (2, 4, 32, 32)
    else:
        import lightningdit_models

        network = lightningdit_models.LightningDiT_models["LightningDiT-XL/1"](
            input_size=16, in_channels=32, use_rmsnorm=True, use_swiglu=True, use_rope=True, use_qknorm=False
        )
        shape = (2, 32, 16, 16)
    randomised(network)
    x, t, y = (
        np.random.default_rng(0).normal(size=shape).astype(np.float32),
        np.float32([0.3, 0.7]),
        np.array([5, 1000]),
    )
    with torch.no_grad():
        begin = time.perf_counter()
        want = network(*map(torch.from_numpy, (x, t, y))).numpy()
        record = {"parameters": sum(p.numel() for p in network.parameters())}
        record["PyTorch step, s"] = round(time.perf_counter() - begin, 1)
    found = dit(
        {k: v.numpy() for k, v in network.state_dict().items()}, Options(family="SiT" if "sit" in name else None)
    )
    del network
    call = jax.jit(jax.vmap(found.network.apply, in_axes=(None, 0, 0, 0)))
    got = np.moveaxis(np.asarray(call(found.params, np.moveaxis(x, 1, -1), t, y)), -1, 1)
    return Row({"model": name}, {"network": relative(got, want)}, record)


@benchmark(
    quick={"only": ("dit_xl_2",)}, packages=("jax", "torch", "diffusers", "transformers"), side=SIDE, steps=STEPS
)
def latent_models(
    only: tuple[str, ...] = (*DIFFUSERS, *MULTIMODAL, *AUTHORS), code: Path | None = None, known: list = ()
) -> Iterator[Row]:
    """Do DiT, SiT, LightningDiT, Stable Diffusion 1.5 to 3.5, FLUX and Z-Image agree with PyTorch at real sizes?

    Each with random weights. DiT-XL/2 and Stable Diffusion are diffusers' own classes, saved by diffusers and
    transformers in their layout of folders, in a process of its own; the folder is then read by `gj.load_diffusers` and
    its networks, its autoencoder both ways, its text encoders and ten guided steps are compared. SD3.5-medium,
    FLUX.1-dev and Z-Image have their real widths and few blocks. SiT-XL/2 and LightningDiT-XL/1 have no package:
    `--code` is the folder of the authors' files (`sit_models.py`, `lightningdit_models.py`). Agreement is the largest
    difference over the largest entry. Pictures are 256 pixels wide. Needs the `bench` extra, 13 GB of memory and 15 GB
    of disk for XL.
    """
    for name in only:
        if name in DIFFUSERS + MULTIMODAL:
            with tempfile.TemporaryDirectory() as folder:
                for part in ("folder", "reference", "agreement"):
                    subprocess.run([sys.executable, "-m", "benchmarks.latent_models", part, name, folder], check=True)
                found = json.loads((Path(folder) / "record.json").read_text())
            yield Row({"model": name}, **found)
        elif code is None:
            print(f"{name}: left out, it needs --code")
        else:
            yield by_authors(name, code)


def run_part(part: str, name: str, folder: str) -> None:
    """Write a model's folder, its reference, or how far this library is from it."""
    from benchmarks import multimodal_models

    multimodal = name in MULTIMODAL
    if part == "agreement":
        record = (multimodal_models.agreement if multimodal else agreement)(name, folder)
        record["cost"]["peak, GB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)
        (Path(folder) / "record.json").write_text(json.dumps(record))
    else:
        parts = multimodal_models.PARTS if multimodal else {}
        ({"folder": folder_of, "reference": reference} | parts)[part](name, folder)


if __name__ == "__main__":
    run_part(*sys.argv[1:])
