"""SD3.5-medium, FLUX.1-dev and Z-Image at real widths beside diffusers: parts of the benchmark `latent_models`."""

import time
from pathlib import Path

import numpy as np

from benchmarks.latent_models import CAPTIONS, NEGATIVE, SIDE, STEPS, randomised, relative, tokenizer


def folder_of(name, folder):
    """The three at their real widths, with few blocks; readers of captions of two layers."""
    import diffusers
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        Qwen3Config,
        Qwen3Model,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    tokens, vocabulary = tokenizer(folder)
    words = [
        "<pad>",
        "</s>",
        "<unk>",
        "▁",
        "▁the",
        "▁red",
        "▁cat",
        "▁a",
        "▁dog",
        ",",
        "▁running",
        *"abcdefghijklmnopqrst",
    ]
    pieces = T5Tokenizer(vocab=[(w, -0.1 * i) for i, w in enumerate(words)], extra_ids=0, model_max_length=512)

    def clip(cls, width, heads, **fields):
        about = {"vocab_size": 49408, "eos_token_id": vocabulary - 1, "bos_token_id": vocabulary - 2}
        sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
        return randomised(cls(CLIPTextConfig(**about, **sizes, num_hidden_layers=2, **fields)))

    def t5():
        fields = {"d_model": 4096, "d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 2}
        return randomised(T5EncoderModel(T5Config(**fields, vocab_size=32128, feed_forward_proj="gated-gelu")))

    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    scaling = {"scaling_factor": 1.5305, "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False}
    autoencoder = randomised(
        diffusers.AutoencoderKL(
            **kinds, **scaling, latent_channels=16, block_out_channels=(128, 256, 512, 512), layers_per_block=2
        )
    )
    grid = {"shift": 3.0, "use_dynamic_shifting": name == "flux_1_dev"}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**grid)
    if name == "sd_3_5_medium":
        network = diffusers.SD3Transformer2DModel(
            sample_size=SIDE, num_layers=6, num_attention_heads=24, caption_projection_dim=1536,
            pos_embed_max_size=96, dual_attention_layers=(0, 1, 2, 3), qk_norm="rms_norm",
        )  # fmt: skip
        small = clip(CLIPTextModelWithProjection, 768, 12, projection_dim=768, hidden_act="quick_gelu")
        large = clip(CLIPTextModelWithProjection, 1280, 20, projection_dim=1280, hidden_act="gelu")
        pipeline = diffusers.StableDiffusion3Pipeline(
            randomised(network), scheduler, autoencoder, small, tokens, large, tokens, t5(), pieces
        )
    elif name == "z_image":
        network = diffusers.ZImageTransformer2DModel(n_layers=2, n_refiner_layers=1)
        sizes = {"hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_key_value_heads": 8}
        about = Qwen3Config(**sizes, vocab_size=151936, num_hidden_layers=2, head_dim=128, rope_theta=1e6)
        small = AutoTokenizer.from_pretrained("tests/golden/pipelines/z_image/tokenizer")
        pipeline = diffusers.ZImagePipeline(
            scheduler, autoencoder, randomised(Qwen3Model(about)), small, randomised(network)
        )
    else:
        network = diffusers.FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
        small = clip(CLIPTextModel, 768, 12, hidden_act="quick_gelu")
        pipeline = diffusers.FluxPipeline(scheduler, autoencoder, small, tokens, t5(), pieces, randomised(network))
    torch.manual_seed(0)
    pipeline.save_pretrained(folder, max_shard_size="20GB")


def reference(name, folder):
    """What diffusers' pipeline says, as reference.npz in the folder."""
    import diffusers
    import torch

    noise = np.random.default_rng(0).normal(size=(2, 16, SIDE, SIDE)).astype(np.float32)
    x = torch.from_numpy(noise)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    side = {"height": 8 * SIDE, "width": 8 * SIDE, "num_inference_steps": STEPS, "output_type": "latent"}
    found, times = {"noise": noise}, torch.tensor([700.0, 40.0])
    with torch.no_grad():
        if name == "sd_3_5_medium":
            context, null, pooled, _ = pipeline.encode_prompt(*[CAPTIONS] * 3, negative_prompt=[NEGATIVE] * 2)
            found["null"] = null[:1].numpy()
            call = lambda: pipeline.transformer(x, context, pooled, times).sample  # noqa: E731
            asked = {"negative_prompt": [NEGATIVE] * 2, "guidance_scale": 5.0, "latents": x.clone()}
        elif name == "z_image":
            states, null = pipeline.encode_prompt(list(CAPTIONS), negative_prompt=[NEGATIVE] * 2)
            longest = max(map(len, states))
            context = torch.stack([torch.nn.functional.pad(s, (0, 0, 0, longest - len(s))) for s in states])
            pooled, found["null"] = torch.tensor([[float(len(s))] for s in states]), null[0][None].numpy()
            pictures = [a[:, None] for a in x]
            call = lambda: torch.stack(  # noqa: E731
                [a[:, 0] for a in pipeline.transformer(pictures, 1 - times / 1000, states).sample]
            )
            asked = {"negative_prompt": [NEGATIVE] * 2, "guidance_scale": 4.0, "latents": x.clone()}
        else:
            packed = pipeline._pack_latents(x, 2, 16, SIDE, SIDE)
            context, pooled, ids = pipeline.encode_prompt(CAPTIONS, CAPTIONS)
            places = pipeline._prepare_latent_image_ids(2, SIDE // 2, SIDE // 2, "cpu", torch.float32)
            own = {
                "guidance": torch.tensor([3.5, 3.5]),
                "pooled_projections": pooled,
                "txt_ids": ids,
                "img_ids": places,
            }
            call = lambda: pipeline.transformer(  # noqa: E731
                packed, encoder_hidden_states=context, timestep=times / 1000, **own
            ).sample
            asked = {"guidance_scale": 3.5, "latents": packed.clone()}
        begin = time.perf_counter()
        sampled = pipeline(list(CAPTIONS), **asked, **side).images
        found["sampling"] = time.perf_counter() - begin
        begin = time.perf_counter()
        network = call()
        found["step"] = time.perf_counter() - begin
        if name == "flux_1_dev":
            sampled, network = (
                pipeline._unpack_latents(a, 8 * SIDE, 8 * SIDE, pipeline.vae_scale_factor) for a in (sampled, network)
            )
        found["decoded"] = pipeline.vae.decode(x[:1]).sample.numpy()
    found |= {"context": context.numpy(), "pooled": pooled.numpy()}
    found |= {"network": network.numpy(), "sampled": sampled.numpy(), "loading": 0.0}
    found["parameters"] = sum(p.numel() for p in pipeline.transformer.parameters())
    np.savez(Path(folder) / "reference.npz", **found)


def agreement(name, folder):
    """How far this library is from it."""
    import jax
    import jax.numpy as jnp

    import guidance_jax as gj

    want, begin = np.load(Path(folder) / "reference.npz"), time.perf_counter()
    pipeline = gj.load_diffusers(folder).resize(8 * SIDE, 8 * SIDE)
    record = {"parameters": int(want["parameters"]), "loading, s": round(time.perf_counter() - begin, 1)}
    record |= {f"PyTorch {k}, s": round(float(want[k]), 1) for k in ("sampling", "step")}
    first, last = (lambda a: np.moveaxis(np.asarray(a), -1, 1)), (lambda a: np.moveaxis(a, 1, -1))
    cond, x, model = pipeline.conditions(CAPTIONS), jnp.asarray(last(want["noise"])), pipeline.model
    found = {"text": relative(cond["context"][:, : want["context"].shape[1]], want["context"])}
    if name == "z_image":
        assert (np.asarray(cond["real"].sum(1)) == want["pooled"][:, 0]).all()
    else:
        found["pooled text"] = relative(cond["vector"], want["pooled"])
    if name != "flux_1_dev":
        null = pipeline.null(NEGATIVE)
        found["negative text"] = relative(null["context"][: want["null"].shape[1]], want["null"][0])
        guided, scale = gj.CFG(model, null, 5.0), {}
    else:
        guided, scale = gj.guidance.Learned(model, 3.5), {"scale": jnp.float32(3.5)}
    call = jax.jit(
        lambda params, x, t, cond: jax.vmap(lambda x, t, c: model.apply(params, x, t, c, **scale))(x, t, cond)
    )
    times = jnp.array([0.7, 0.04])
    given = model.params, x, 1 - times if name == "z_image" else times, cond
    found["network"] = relative(first(call(*given)), want["network"])
    begin = time.perf_counter()
    jax.block_until_ready(call(*given))
    record["step, s"] = round(time.perf_counter() - begin, 1)
    own = pipeline.autoencoder
    found["decoder"] = relative(first(own.decode((x[:1] - own.mean) / own.std)), want["decoded"])
    begin = time.perf_counter()
    kernel = gj.Reverse(guided, gj.DDIM())
    got = gj.generate(gj.keys(0, 2), kernel, pipeline.levels(STEPS), pipeline.shape, cond, x)
    found[f"{STEPS} guided steps"] = relative(first(got), want["sampled"])
    record["sampling, compiling, s"] = round(time.perf_counter() - begin, 1)
    return {"measures": found, "cost": record}


PARTS = {"folder": folder_of, "reference": reference}
