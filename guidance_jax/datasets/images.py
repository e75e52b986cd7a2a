"""Labelled images, the result of every image reader, and their split into training and held-out images."""

from dataclasses import dataclass

import numpy as np

from guidance_jax.core import Refused


@dataclass(frozen=True)
class Images:
    """Hold labelled images.

    Attributes:
      images: (n, height, width, channels), float32 in [-1, 1].
      labels: (n,), int32, 0 to len(names) - 1.
      names: one name per class.

    Raises:
      Refused: shapes that do not fit each other, no images, or labels without a name.
    """

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self):
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1] or len(self.images) == 0:
            raise Refused(
                f"images must be (n, h, w, c) with one label each, got {self.images.shape} and {self.labels.shape}"
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.names):
            raise Refused(
                f"labels go from 0 to {len(self.names) - 1}, got {self.labels.min()} to {self.labels.max()}; "
                "give every class a name"
            )

    def __len__(self):
        return len(self.images)

    @property
    def samples(self) -> np.ndarray:
        """The images, under the name that `fit` reads."""
        return self.images

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.images.shape[1:]

    def take(self, index: np.ndarray) -> "Images":
        """Return the images at `index`, with their labels."""
        return Images(self.images[index], self.labels[index], self.names)

    def split(self, held_out: float = 0.2, seed: int = 0) -> tuple["Images", "Images"]:
        """Return (train, held out); `held_out` is the fraction of each class that is drawn, by `seed`, for the second.

        Train models and guides on the first part, and measure on the second, which none of them has seen.
        """
        generator = np.random.default_rng(seed)
        aside = []
        for label in range(len(self.names)):
            own = generator.permutation(np.flatnonzero(self.labels == label))
            aside.append(own[: round(held_out * len(own))])
        mask = np.zeros(len(self), bool)
        mask[np.concatenate(aside)] = True
        return self.take(np.flatnonzero(~mask)), self.take(np.flatnonzero(mask))
