"""TarFlow (Zhai et al. 2024, arXiv 2412.06329): causal transformers that predict how to transform the next patch."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.core import Bound, Refused
from guidance_jax.flows.flow import AutoregressiveFlow
from guidance_jax.flows.noise import remove_noise
from guidance_jax.flows.patches import in_order
from guidance_jax.flows.patchify import patchify, unpatchify
from guidance_jax.models.domain import Domain
from guidance_jax.zoo.transformer import Block

small = nn.initializers.normal(0.01)


class FlowBlock(nn.Module):
    """One block of the flow: it maps patches (T, C), in the order of the block, to rows (a, b), each (T, C).

    Attributes:
      patches: T, the number of patches of a sample.
      channels: C, the number of channels of a patch.
      width: the number of hidden channels of the transformer.
      layers: the number of layers of the transformer.
      head: the number of channels of an attention head.
      num_classes: the number of labels, 0 for none. The label after them, and None, mean "unconditional": the mean of
        all embeddings.
    """

    patches: int
    channels: int
    width: int
    layers: int
    num_classes: int
    head: int

    def setup(self):
        self.proj_in = nn.Dense(self.width)
        self.pos_embed = self.param("pos_embed", small, (self.patches, self.width))
        if self.num_classes:
            self.class_embed = self.param("class_embed", small, (self.num_classes, self.width))
        heads = self.width // self.head
        self.attn_blocks = [Block(self.width, heads, self.layers, True, exact=True) for _ in range(self.layers)]
        self.proj_out = nn.Dense(2 * self.channels, kernel_init=nn.initializers.zeros)

    def embed(self, x, index, cond):
        h = self.proj_in(x) + self.pos_embed[index]
        if not self.num_classes:
            return h
        mean = jnp.mean(self.class_embed, 0)
        if cond is None:
            return h + mean
        known = (cond >= 0) & (cond < self.num_classes)
        return h + jnp.where(known, self.class_embed[jnp.clip(cond, 0, self.num_classes - 1)], mean)

    def __call__(self, x, index, cond, temperature):
        h = self.embed(x, index, cond)
        for block in self.attn_blocks:
            h = block(h, temperature=temperature)
        return jnp.split(self.proj_out(h), 2, -1)

    def step(self, patch, index, i, cache, cond, temperature):
        """Return (a, b, cache) of one patch (C,): the i-th in the order of the block, at `index` of the image."""
        h, new = self.embed(patch[None], index[None], cond), []
        for block, own in zip(self.attn_blocks, cache, strict=True):
            h, own = block(h, own, i, temperature)
            new.append(own)
        a, b = jnp.split(self.proj_out(h)[0], 2)
        return a, b, jnp.stack(new)


class TarFlow(nn.Module):
    """A flow of several `FlowBlock`. Their parameters are stacked, so that a step selects its block by an index.

    Attributes:
      shape: the shape of an image, (H, W, channels).
      patch: the side of a patch in pixels, which divides H and W.
      width, layers, head, num_classes: as in `FlowBlock`.
      blocks: K, the number of blocks.
      noise: the standard deviation of the noise that is added to images in training and removed after sampling.
    """

    shape: tuple[int, int, int]
    patch: int
    width: int = 128
    blocks: int = 4
    layers: int = 2
    num_classes: int = 0
    head: int = 64
    noise: float = 0.0

    @property
    def patches(self) -> int:
        """T, the number of patches of an image."""
        return self.shape[0] * self.shape[1] // self.patch**2

    @property
    def channels(self) -> int:
        """C, the number of channels of a patch."""
        return self.shape[2] * self.patch**2

    def setup(self):
        one = FlowBlock(self.patches, self.channels, self.width, self.layers, self.num_classes, self.head)
        index = jnp.arange(self.patches)

        def stack(key):
            def init(key):
                return one.init(key, jnp.zeros((self.patches, self.channels)), index, None, None)["params"]

            return jax.vmap(init)(jax.random.split(key, self.blocks))

        self.block, self.stack = one.clone(parent=None), self.param("blocks", stack)

    def of(self, block):
        return {"params": jax.tree.map(lambda a: a[block], self.stack)}

    def __call__(self, block, x, cond=None, temperature=None):
        """Return (a, b), each (T, C), of patches x (T, C) in the order of the block."""
        index = in_order(block, jnp.arange(self.patches), self.patches)
        return self.block.apply(self.of(block), x, index, cond, temperature)

    def step(self, block, patch, i, cache, cond, temperature=None):
        """Return (a, b, cache), where a and b are row i of what `__call__` returns."""
        index = in_order(block, i, self.patches)
        return self.block.apply(self.of(block), patch, index, i, cache, cond, temperature, method="step")


def rows(network, params, block, x, cond, temperature):
    return network.apply(params, block, x, cond, temperature)


def _step(network, params, block, patch, i, cache, cond, temperature):
    return network.apply(params, block, patch, i, cache, cond, temperature, method="step")


def _blank(network, length):
    return jnp.zeros((network.layers, 2, length, network.width // network.head, network.head))


def flow(network: TarFlow, params: Any, domain: Domain | None = None) -> AutoregressiveFlow:
    """Return a `TarFlow` as a denoiser of the next patch with a density; see `encode_images` and `decode_images`.

    Args:
      network: the module.
      params: its parameters, from `init` or from training.
      domain: what the network was trained for. None takes its patches and classes, with the label after the classes as
        the null label.

    Raises:
      Refused: patches that do not divide the images, or heads that do not divide the width.
    """
    check(network)
    if domain is None:
        classes = network.num_classes or None
        domain = Domain((network.patches, network.channels), num_classes=classes, null_label=classes)
    apply, step, blank = (Bound(part, network) for part in (rows, _step, _blank))
    return AutoregressiveFlow(params, apply, step, blank, network.blocks, domain)


def check(network: TarFlow) -> None:
    """Raise `Refused` unless patches divide the images, and heads the width."""
    height, width, _ = network.shape
    if height % network.patch or width % network.patch:
        raise Refused(f"patches of {network.patch} do not divide images of {height} x {width}; crop or resize them")
    if network.width % network.head:
        raise Refused(f"heads of {network.head} do not divide a width of {network.width}; pass head")


def network_of(model: AutoregressiveFlow) -> TarFlow:
    """Return the network of a flow.

    Raises:
      Refused: a flow that is not a `TarFlow`.
    """
    network = model.apply.module if isinstance(model.apply, Bound) else None
    if not isinstance(network, TarFlow):
        raise Refused("the flow is not a TarFlow, so its patches are unknown")
    return network


def encode_images(model: AutoregressiveFlow, images: Any) -> Any:
    """Return patches (n, T, C), the input of the flow, of images (n, H, W, channels) in [-1, 1].

    Args:
      model: a flow made by `flow` or `tarflow`.
      images: images of the shape of the network.

    Raises:
      Refused: images of another shape.
    """
    network = network_of(model)
    if jnp.shape(images)[1:] != network.shape:
        raise Refused(f"the flow is for images {network.shape}, got {jnp.shape(images)[1:]}; resize them")
    return patchify(images, network.patch)


def decode_images(model: AutoregressiveFlow, patches: Any, labels: Any = None) -> Any:
    """Return images (n, H, W, channels) of samples (n, T, C), without the noise of training (`remove_noise`).

    Args:
      model: a flow made by `flow` or `tarflow`.
      patches: samples of the flow.
      labels: the labels (n,) that they were drawn for; None for an unconditional flow.
    """
    network = network_of(model)
    if network.noise:
        labels = None if labels is None else jnp.asarray(labels)
        patches = _clean(model, jnp.asarray(patches), labels, network.noise)
    return unpatchify(patches, network.patch, network.shape)


@jax.jit
def _clean(model, patches, labels, noise):
    return jax.vmap(remove_noise, (None, 0, None, None if labels is None else 0))(model, patches, noise, labels)


def bits_per_number(model: AutoregressiveFlow, data: Any, seed: int = 0, batch: int = 100) -> float:
    """Return -log2 density of 8-bit images per number (pixel and channel), for the noisy data that the flow models.

        mean of  -log2 p(x + noise e | label) / (H W channels) + log2(127.5)

    The second term is the density's unit, since images in [-1, 1] have 256 levels of width 1 / 127.5.

    Args:
      model: a flow of images.
      data: labelled `Images`.
      seed: the seed of the noise.
      batch: the number of images per batch.
    """
    network, total = network_of(model), 0.0
    for start in range(0, len(data), batch):
        x = encode_images(model, jnp.asarray(data.images[start : start + batch]))
        x = x + network.noise * jax.random.normal(jax.random.fold_in(jax.random.key(seed), start), x.shape)
        labels = jnp.asarray(data.labels[start : start + batch]) if network.num_classes else None
        total -= float(jnp.sum(_log_prob(model, x, labels)))
    return total / data.images.size / math.log(2) + math.log2(127.5)


@jax.jit
def _log_prob(model, x, labels):
    return jax.vmap(lambda x, label: model.log_prob(x, label), (0, None if labels is None else 0))(x, labels)
