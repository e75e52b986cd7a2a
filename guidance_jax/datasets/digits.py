"""Handwritten digits, 8 x 8 (Alpaydin & Kaynak 1998, UCI optdigits), from scikit-learn's wheel, without a download."""

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images


def digits() -> Images:
    """Return 1,797 real images (8, 8, 1) in 10 classes.

    Raises:
      Refused: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise Refused('the digits come with scikit-learn; pip install "guidance_jax[demo]"') from None
    data = load_digits()
    images = (data.images[..., None] / 8 - 1).astype(np.float32)
    return Images(images, data.target.astype(np.int32), tuple(map(str, range(10))))
