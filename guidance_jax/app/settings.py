"""Published settings of released models: the guidance, its scale and interval, and the solver.

They come from papers and the authors' code, as are the results, and are a start for your own search. A row is a line of
`guidance-jax methods --model NAME` and of the page "Which settings for which model".
"""

from typing import NamedTuple

from guidance_jax.core import Refused


class Setting(NamedTuple):
    """One published setting, with the names that this library uses."""

    model: str
    guidance: str
    solver: str
    result: str
    source: str


ADM = "arXiv 2105.05233; the authors' README"
EDM2 = "arXiv 2312.02696, 2406.02507; the authors' generate_images.py"
INTERVAL = "arXiv 2404.07724; the authors' code"
EDM_GRID = "Heun(), karras(VE(), 32, lo=0.002, hi=80)"
SETTINGS = (
    Setting("ADM ImageNet 64", "Classifier, scale 1.0", 'DDPM(learned_range), levels("250")', "FID 2.07", ADM),
    Setting("ADM ImageNet 128", "Classifier, scale 0.5", 'DDPM(learned_range), levels("250")', "FID 2.97", ADM),
    Setting("ADM ImageNet 256", "Classifier, scale 1.0", 'DDPM(learned_range), levels("250")', "FID 4.59", ADM),
    Setting("ADM ImageNet 256 unconditional", "Classifier, scale 10.0", 'DDPM(learned_range), levels("250")', "", ADM),
    Setting("ADM ImageNet 512", "Classifier, scale 4.0", 'DDPM(learned_range), levels("250")', "FID 7.72", ADM),
    Setting(
        "GLIDE 64",
        "CFG, scale 3.0",
        'DDPM(), levels("100"); upsampler DDIM(), levels("fast27"), noise 0.997',
        "",
        "arXiv 2112.10741; the authors' notebook",
    ),
    Setting(
        "DiT-XL/2 ImageNet 256",
        "CFG, scale 1.5, of the first 3 channels",
        'DDPM(learned_range), levels("250")',
        "FID 2.27",
        "arXiv 2212.09748",
    ),
    Setting(
        "DiT-XL/2 ImageNet 256",
        "CFG, scale 1.375, of all 4 channels",
        'DDPM(learned_range), levels("250")',
        "FID 2.23",
        "the authors' issue 41",
    ),
    Setting(
        "DiT-XL/2 ImageNet 512", "CFG, scale 1.5", 'DDPM(learned_range), levels("250")', "FID 3.04", "arXiv 2212.09748"
    ),
    Setting(
        "LightningDiT-XL ImageNet 256",
        "CFG, scale 6.7, off for t below 0.125 from the noise; shift 0.3",
        "DDIM() on RectifiedFlow, 250 steps",
        "FID 1.35",
        "arXiv 2501.01423; the authors' README",
    ),
    Setting("EDM2-XS ImageNet 512", "CFG with an unconditional XS, scale 1.4", EDM_GRID, "FID 2.91", EDM2),
    Setting("EDM2-S ImageNet 512", "CFG with an unconditional XS, scale 1.4", EDM_GRID, "FID 2.23", EDM2),
    Setting("EDM2-XXL ImageNet 512", "CFG with an unconditional XS, scale 1.2", EDM_GRID, "FID 1.81", EDM2),
    Setting(
        "EDM2-XXL ImageNet 512",
        "CFG with an unconditional XS, Window(2.0, lo=0.19, hi=1.61)",
        EDM_GRID,
        "FID 1.40",
        INTERVAL,
    ),
    Setting("EDM2-S ImageNet 512", "Autoguidance by an early XS, scale 2.1", EDM_GRID, "FID 1.34", EDM2),
    Setting("EDM2-XXL ImageNet 512", "Autoguidance by an early M, scale 2.05", EDM_GRID, "FID 1.25", EDM2),
    Setting("EDM2-S ImageNet 64", "Autoguidance by an early XS, scale 1.7", EDM_GRID, "FID 1.01", EDM2),
    Setting("Stable Diffusion 1.5", "CFG, scale 7.5", "50 steps", "", "diffusers' default"),
    Setting("Stable Diffusion XL", "CFG, scale 5.0", "50 steps", "", "diffusers' default"),
    Setting(
        "Stable Diffusion 3", "CFG, scale 7.0", "DDIM() on RectifiedFlow, shift 3, 28 steps", "", "diffusers' default"
    ),
    Setting("FLUX.1-dev", "Learned, scale 3.5", "DDIM() on RectifiedFlow, 28 steps", "", "diffusers' default"),
    Setting("Z-Image", "CFG, scale 6.0", "DDIM() on RectifiedFlow, 50 steps", "", "diffusers' default, 5, plus 1"),
    Setting(
        "Ideogram 4",
        "Autoguidance by its second network, scale 7.0, the last 3 of 48 steps 3.0",
        "48 steps",
        "",
        "diffusers' pipeline",
    ),
    Setting(
        "AlphaFold 3",
        "none; restraints by Reconstruction(through=False)",
        "Churn(Reverse(Tempered(model, 1.5), DDIM()), gamma=0.8, lo=1.0, noise=1.003), 200 steps",
        "",
        "doi 10.1038/s41586-024-07487-w, Algorithm 18",
    ),
)


def find(name: str) -> list[Setting]:
    """Return the settings of the models whose name contains all words of `name`.

    Raises:
      Refused: a name that fits no model.
    """
    words = name.lower().replace("-", " ").split()
    found = [row for row in SETTINGS if all(word in row.model.lower().replace("-", " ") for word in words)]
    if not found:
        raise Refused(f"no published settings are listed for {name!r}; they are listed for {', '.join(models())}")
    return found


def models() -> list[str]:
    """Return the names of the models in the table, each once."""
    return list(dict.fromkeys(row.model for row in SETTINGS))


def table() -> str:
    """Return the settings as a Markdown table."""
    lines = ["| model | guidance | solver and steps | published result | source |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(cell or "-" for cell in row) + " |" for row in SETTINGS)])
