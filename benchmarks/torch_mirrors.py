"""The networks of guided-diffusion, GLIDE and EDM in PyTorch, with their module names, to check conversions.

Written for comparison, not taken from anybody; `tests/golden` holds numbers from OpenAI's own code. Needs PyTorch only.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def timestep_embedding(t, size):
    half = size // 2
    angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], -1)


def norm(channels, groups):
    return nn.GroupNorm(groups, channels)


def attention(q, k, v):
    """(B heads, channels, L) each."""
    scale = q.shape[1] ** -0.25
    return torch.einsum("bts,bcs->bct", torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), -1), v)


class ResBlock(nn.Module):
    def __init__(self, channels, emb, out, groups, resample=None, scale_shift=True):
        super().__init__()
        self.resample, self.scale_shift = resample, scale_shift
        self.in_layers = nn.Sequential(norm(channels, groups), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, (2 if scale_shift else 1) * out))
        self.out_layers = nn.Sequential(norm(out, groups), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def change(self, x):
        if self.resample is None:
            return x
        return F.avg_pool2d(x, 2) if self.resample == "down" else F.interpolate(x, scale_factor=2, mode="nearest")

    def forward(self, x, emb, context=None):
        h = self.in_layers[2](self.change(self.in_layers[1](self.in_layers[0](x))))
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb)
        return self.skip_connection(self.change(x)) + h


class AttentionBlock(nn.Module):
    def __init__(self, channels, heads, new_order, groups, context=None):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = norm(channels, groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        if context:
            self.encoder_kv = nn.Conv1d(context, 2 * channels, 1)

    def forward(self, x, emb=None, context=None):
        b, c = x.shape[:2]
        qkv = self.qkv(self.norm(x.reshape(b, c, -1)))
        if self.new_order:
            q, k, v = (a.reshape(b * self.heads, c // self.heads, -1) for a in qkv.chunk(3, 1))
        else:
            q, k, v = qkv.reshape(b * self.heads, 3 * c // self.heads, -1).chunk(3, 1)
        if context is not None:
            more = self.encoder_kv(context).reshape(b * self.heads, 2 * c // self.heads, -1).chunk(2, 1)
            k, v = torch.cat([more[0], k], -1), torch.cat([more[1], v], -1)
        return x + self.proj_out(attention(q, k, v).reshape(b, c, -1)).reshape(x.shape)


class Block(nn.Sequential):
    def forward(self, x, emb, context=None):
        for part in self:
            x = part(x, emb, context) if isinstance(part, ResBlock | AttentionBlock) else part(x)
        return x


class AttentionPool(nn.Module):
    def __init__(self, size, channels, heads, out):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(channels, size * size + 1) / channels**0.5)
        self.qkv_proj, self.c_proj = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, out, 1)

    def forward(self, x):
        b, c = x.shape[:2]
        x = x.reshape(b, c, -1)
        x = torch.cat([x.mean(-1, keepdim=True), x], -1) + self.positional_embedding
        q, k, v = (a.reshape(b * self.heads, c // self.heads, -1) for a in self.qkv_proj(x).chunk(3, 1))
        return self.c_proj(attention(q, k, v).reshape(b, c, -1))[:, :, 0]


class ADM(nn.Module):
    """The encoder and middle that U-Nets and classifiers share; `heads(channels)` gives the number of heads."""

    def __init__(
        self, size, channels, depth, multiples, attend, heads, new_order=False, inputs=3, groups=32, context=None
    ):
        super().__init__()
        self.channels, emb = channels, 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.attention = lambda c: AttentionBlock(c, heads(c), new_order, groups, context)
        self.groups, width, factor = groups, int(multiples[0] * channels), 1
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(inputs, width, 3, padding=1))])
        self.widths = [width]
        for level, multiple in enumerate(multiples):
            for _ in range(depth):
                parts = [ResBlock(width, emb, int(multiple * channels), groups)]
                width = int(multiple * channels)
                if size // factor in attend:
                    parts.append(self.attention(width))
                self.input_blocks.append(Block(*parts))
                self.widths.append(width)
            if level < len(multiples) - 1:
                self.input_blocks.append(Block(ResBlock(width, emb, width, groups, "down")))
                self.widths.append(width)
                factor *= 2
        self.middle_block = Block(
            ResBlock(width, emb, width, groups), self.attention(width), ResBlock(width, emb, width, groups)
        )
        self.width, self.factor = width, factor

    def encode(self, x, emb, context=None):
        hs = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            hs.append(x)
        return hs, self.middle_block(x, emb, context)


class UNet(ADM):
    def __init__(self, size, channels, depth, multiples, attend, heads, classes=None, out=6, **more):
        super().__init__(size, channels, depth, multiples, attend, heads, **more)
        emb, width, factor, widths = 4 * channels, self.width, self.factor, list(self.widths)
        if classes:
            self.label_emb = nn.Embedding(classes, emb)
        self.output_blocks = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(multiples))):
            for i in range(depth + 1):
                parts = [ResBlock(width + widths.pop(), emb, int(multiple * channels), self.groups)]
                width = int(multiple * channels)
                if size // factor in attend:
                    parts.append(self.attention(width))
                if level and i == depth:
                    parts.append(ResBlock(width, emb, width, self.groups, "up"))
                    factor //= 2
                self.output_blocks.append(Block(*parts))
        self.out = nn.Sequential(norm(width, self.groups), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))

    def decode(self, x, emb, context=None):
        hs, h = self.encode(x, emb, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, hs.pop()], 1), emb, context)
        return self.out(h)

    def forward(self, x, t, y=None):
        emb = self.time_embed(timestep_embedding(t, self.channels))
        return self.decode(x, emb if y is None else emb + self.label_emb(y))


class Classifier(ADM):
    def __init__(self, size, channels, depth, multiples, attend, heads, classes, **more):
        super().__init__(size, channels, depth, multiples, attend, heads, **more)
        pool = AttentionPool(size // self.factor, self.width, heads(self.width), classes)
        self.out = nn.Sequential(norm(self.width, self.groups), nn.SiLU(), pool)

    def forward(self, x, t):
        return self.out(self.encode(x, self.time_embed(timestep_embedding(t, self.channels)))[1])


class TextAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.c_qkv, self.c_proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, length, width = x.shape
        qkv = self.c_qkv(x).reshape(b, length, self.heads, -1).permute(0, 2, 3, 1)
        q, k, v = qkv.reshape(b * self.heads, -1, length).chunk(3, 1)
        return self.c_proj(attention(q, k, v).reshape(b, width, length).transpose(1, 2))


class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class TextBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn, self.mlp = TextAttention(width, heads), MLP(width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GLIDE(UNet):
    def __init__(self, *args, length=128, width=512, layers=16, vocabulary=50257, inpaint=False, **more):
        super().__init__(*args, context=width, inputs=7 if inpaint else 3, **more)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(TextBlock(width, max(width // 64, 1)) for _ in range(layers))
        self.final_ln, self.token_embedding = nn.LayerNorm(width), nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(0.1 * torch.randn(length, width))
        self.padding_embedding = nn.Parameter(0.1 * torch.randn(length, width))
        self.transformer_proj = nn.Linear(width, 4 * self.channels)

    def forward(self, x, t, tokens, image=None, mask=None):
        if image is not None:
            x = torch.cat([x, image * mask, mask], 1)
        known = (tokens >= 0)[..., None]
        h = torch.where(
            known, self.token_embedding(tokens.clamp(min=0)) + self.positional_embedding, self.padding_embedding
        )
        for block in self.transformer.resblocks:
            h = block(h)
        h = self.final_ln(h)
        emb = self.time_embed(timestep_embedding(t, self.channels)) + self.transformer_proj(h[:, -1])
        return self.decode(x, emb, h.transpose(1, 2))


class EDMBlock(nn.Module):
    """EDM's block: residual, resampled or not, with attention at its end or not; 64 channels a head."""

    def __init__(self, channels, emb, out, resample=None, attention=False):
        super().__init__()
        self.resample, self.heads = resample, out // 64 if attention else 0
        self.norm0, self.conv0 = norm(channels, 32), nn.Conv2d(channels, out, 3, padding=1)
        self.affine, self.norm1 = nn.Linear(emb, 2 * out), norm(out, 32)
        self.conv1 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.skip = nn.Conv2d(channels, out, 1)
        if attention:
            self.norm2, self.qkv, self.proj = norm(out, 32), nn.Conv2d(out, 3 * out, 1), nn.Conv2d(out, out, 1)

    def forward(self, x, emb):
        change = ResBlock.change
        h = self.conv0(change(self, F.silu(self.norm0(x))))
        scale, shift = self.affine(emb)[:, :, None, None].chunk(2, 1)
        h = self.conv1(F.silu(self.norm1(h) * (1 + scale) + shift))
        x = change(self, x)
        x = (self.skip(x) if hasattr(self, "skip") else x) + h
        if self.heads:
            b, c = x.shape[:2]
            q, k, v = self.qkv(self.norm2(x)).reshape(b * self.heads, c // self.heads, 3, -1).unbind(2)
            x = x + self.proj(attention(q, k, v).reshape(x.shape))
        return x


class EDM(nn.Module):
    """EDM's U-Net of the ADM architecture; `t` is c_noise = log(sigma) / 4."""

    def __init__(self, size, channels, depth, multiples, attend, classes):
        super().__init__()
        emb, width, widths = 4 * channels, multiples[0] * channels, []
        self.channels = channels
        self.map_layer0, self.map_layer1 = nn.Linear(channels, emb), nn.Linear(emb, emb)
        self.map_label = nn.Linear(classes, emb, bias=False)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        for level, multiple in enumerate(multiples):
            side = size >> level
            if level:
                self.enc[f"{side}x{side}_down"] = EDMBlock(width, emb, width, "down")
            else:
                self.enc[f"{side}x{side}_conv"] = nn.Conv2d(3, width, 3, padding=1)
            widths.append(width)
            for i in range(depth):
                self.enc[f"{side}x{side}_block{i}"] = EDMBlock(
                    width, emb, multiple * channels, attention=side in attend
                )
                width = multiple * channels
                widths.append(width)
        for level, multiple in reversed(list(enumerate(multiples))):
            side = size >> level
            if level == len(multiples) - 1:
                self.dec[f"{side}x{side}_in0"] = EDMBlock(width, emb, width, attention=True)
                self.dec[f"{side}x{side}_in1"] = EDMBlock(width, emb, width)
            else:
                self.dec[f"{side}x{side}_up"] = EDMBlock(width, emb, width, "up")
            for i in range(depth + 1):
                cin, width = width + widths.pop(), multiple * channels
                self.dec[f"{side}x{side}_block{i}"] = EDMBlock(cin, emb, width, attention=side in attend)
        self.out_norm, self.out_conv = norm(width, 32), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, t, y):
        emb = self.map_layer1(F.silu(self.map_layer0(timestep_embedding(t, self.channels))))
        emb = F.silu(emb + self.map_label(F.one_hot(y, self.map_label.in_features).float()))
        skips = []
        for block in self.enc.values():
            x = block(x, emb) if isinstance(block, EDMBlock) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            x = block(torch.cat([x, skips.pop()], 1) if "_block" in name else x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))


def by_channels(channels):
    """Heads of `channels` channels each."""
    return lambda width: width // channels


RELEASES = {
    "64x64_diffusion": lambda: UNet(
        64, 192, 3, (1, 2, 3, 4), (32, 16, 8), by_channels(64), classes=1000, new_order=True
    ),
    "128x128_diffusion": lambda: UNet(128, 256, 2, (1, 1, 2, 3, 4), (32, 16, 8), lambda _: 4, classes=1000),
    "256x256_diffusion": lambda: UNet(256, 256, 2, (1, 1, 2, 2, 4, 4), (32, 16, 8), by_channels(64), classes=1000),
    "256x256_diffusion_uncond": lambda: UNet(256, 256, 2, (1, 1, 2, 2, 4, 4), (32, 16, 8), by_channels(64)),
    "512x512_diffusion": lambda: UNet(512, 256, 2, (0.5, 1, 1, 2, 2, 4, 4), (32, 16, 8), by_channels(64), classes=1000),
    "64x64_classifier": lambda: Classifier(64, 128, 4, (1, 2, 3, 4), (32, 16, 8), by_channels(64), 1000),
    "128x128_classifier": lambda: Classifier(128, 128, 2, (1, 1, 2, 3, 4), (32, 16, 8), by_channels(64), 1000),
    "256x256_classifier": lambda: Classifier(256, 128, 2, (1, 1, 2, 2, 4, 4), (32, 16, 8), by_channels(64), 1000),
    "512x512_classifier": lambda: Classifier(512, 128, 2, (0.5, 1, 1, 2, 2, 4, 4), (32, 16, 8), by_channels(64), 1000),
    "edm_imagenet64": lambda: EDM(64, 192, 3, (1, 2, 3, 4), (32, 16, 8), 1000),
    "glide_base": lambda: GLIDE(64, 192, 3, (1, 2, 3, 4), (32, 16, 8), by_channels(64)),
    "glide_base_inpaint": lambda: GLIDE(64, 192, 3, (1, 2, 3, 4), (32, 16, 8), by_channels(64), inpaint=True),
}


def randomised(network, seed=0):
    """The network with every weight drawn anew so that no layer is zero and depth does not saturate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            fan = p[0].numel() if p.ndim > 1 else 1
            p.copy_(torch.randn(p.shape, generator=generator) * (fan**-0.5 if p.ndim > 1 else 0.1))
            if p.ndim == 1 and name.endswith("weight"):
                p.add_(1)
    return network.eval()
