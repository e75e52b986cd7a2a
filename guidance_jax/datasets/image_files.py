"""Images that are read from their files when they are used: training data of any size."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.pictures import picture
from guidance_jax.pictures import from_uint8

THREADS = 16  # files that are read at a time
AHEAD = 512  # images that are read before they are needed


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files in the place of an array (n, size, size, channels), float32 in [-1, 1]. Indexing reads the files.

    Attributes:
      paths: the files.
      size: the side of the square to which each image is cropped and resized, in pixels.
      mode: Pillow's mode, "RGB" or "L" (grey).
    """

    paths: tuple[Path, ...]
    size: int
    mode: str = "RGB"

    ndim = 4
    dtype = np.dtype(np.float32)

    def __len__(self):
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, size, size, channels)."""
        return (len(self), self.size, self.size, 3 if self.mode == "RGB" else 1)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read the image of a number, or the images of a slice or an array of numbers.

        Raises:
          Refused: a file that cannot be read.
        """
        if isinstance(index, int | np.integer):
            return from_uint8(picture(self.paths[index], self.mode, self.size)[None])[0]
        numbers = np.arange(len(self))[index]
        return np.stack([self[i] for i in numbers]) if len(numbers) else np.zeros((0, *self.shape[1:]), self.dtype)

    def take(self, index: np.ndarray) -> "ImageFiles":
        """Return the files at `index`; none of them is read."""
        return ImageFiles(tuple(self.paths[i] for i in index), self.size, self.mode)


@dataclass(frozen=True, eq=False)
class Records:
    """What `grain` reads from: record k is row k % part of the batch k // part, of batches of `part` indices."""

    images: ImageFiles
    labels: np.ndarray
    order: np.ndarray

    def __len__(self):
        return len(self.order)

    def __getitem__(self, k: int) -> tuple[Any, Any]:
        i = self.order[k]
        return self.images[i], self.labels[i]


def read_ahead(images: ImageFiles, labels: np.ndarray, indices: Iterator[np.ndarray]) -> Iterator[tuple[Any, Any]]:
    """Yield (images, labels) of each array of indices; `grain` reads the files of later ones meanwhile, in threads.

    Raises:
      Refused: the package `grain` is missing; a file that cannot be read.
    """
    try:
        import grain
    except ImportError:
        raise Refused("images of this size are read by grain; pip install 'guidance_jax[loader]'") from None
    while True:  # one data set for many batches: their indices are known in advance
        first = next(indices)
        count = max(1, 100_000 // len(first))
        order = np.concatenate([first, *(next(indices) for _ in range(count - 1))])
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
        records = grain.MapDataset.source(Records(images, labels, order)).to_iter_dataset(options)
        yield from records.batch(len(first), drop_remainder=True)
