"""Multimodal transformers of latent pictures: Stable Diffusion 3 and 3.5, FLUX.1."""
