"""The example that ships and the demo: small, quick, and guided towards what was asked for."""

import html.parser
import json
from pathlib import Path

import numpy as np
import pytest

import guidance_jax as gj
from guidance_jax.app.demo import WAYS, demo
from guidance_jax.zoo import examples

WEIGHTS = Path(examples.__file__).parent / examples.WEIGHTS


class Pictures(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs)["src"])


def test_what_ships_is_small():
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.npz")) < 4e6


def test_the_judge_that_ships_knows_its_classes_and_guides_nothing():
    example = gj.examples.fashion()
    assert len(example.held_out) == 1000
    assert example.held_out.shape == example.model.domain.shape == (28, 28, 1)
    assert np.mean(example.judge(example.held_out.images)[0] == example.held_out.labels) > 0.85
    assert not isinstance(example.judge, gj.Guide)


@pytest.mark.slow
def test_the_demo_makes_a_page_with_everything(tmp_path):
    rows = list(demo(tmp_path, samples=10, steps=2, scales=(0.0, 3.0)))
    assert [(row.algorithm, row.scale) for row in rows] == [(way, scale) for way in WAYS for scale in (0.0, 3.0)]
    page = (tmp_path / "index.html").read_text()
    pictures = Pictures(page).found
    assert pictures == [*(f"{way}.png" for way in WAYS), "trade_off.png"]
    assert all((tmp_path / name).stat().st_size > 10_000 for name in pictures)
    assert page.count("<tr>") == 1 + len(rows)
    record = json.loads((tmp_path / "results.json").read_text())
    assert [row["scale"] for row in record["rows"]] == [0.0, 3.0] * 3
    model = gj.load(tmp_path / "models" / "denoiser")
    assert model.domain == gj.examples.fashion().model.domain


@pytest.mark.slow
def test_pictures_become_clearer_and_more_alike_with_the_scale(tmp_path):
    """Accuracy rises with the scale of each way, diversity falls, by more than their errors."""
    rows = {(row.algorithm, row.scale): row.report for row in demo(tmp_path, samples=60, scales=(0.0, 5.0))}
    for way in WAYS:
        free, strong = rows[way, 0.0], rows[way, 5.0]
        assert strong.accuracy.value - free.accuracy.value > 4 * np.hypot(free.accuracy.error, strong.accuracy.error)
        assert free.diversity.value - strong.diversity.value > 2 * np.hypot(
            free.diversity.error, strong.diversity.error
        )
    assert rows["cfg", 0.0].accuracy.value < 0.4  # a class by chance, one in ten
