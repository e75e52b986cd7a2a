"""Labels of pictures: in the letters that a font has, one for each picture where each is another's."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from guidance_jax import pictures
from guidance_jax.pictures import contact_sheet, fit_text, glyphs, lines, save_trade_off


def drawn(text, font):
    """The pixels of a text."""
    return np.asarray(font.getmask(text)).reshape(font.getmask(text).size[::-1])


@pytest.mark.parametrize(
    "text", ["cat", "кот", "γάτα", "café", "çiğ köfte", "猫", "고양이", "แมว", "a 猫", "\ud800", "😀"]
)
def test_no_letter_is_a_box(text):
    """Each is drawn by a font that has it, or written as its code point."""
    found, font = fit_text(text)
    box = drawn("\U000e0fff", font)  # a letter that no font has
    for letter in set(found) - {" "}:
        pixels = drawn(letter, font)
        assert pixels.shape != box.shape or (pixels != box).any(), letter
    for before in set(text) - {" "}:
        assert before in found or f"<U+{ord(before):04X}>" in found


def test_a_font_of_the_machine_is_taken_where_one_has_the_letters(tmp_path, monkeypatch):
    """The mathematical script letters that matplotlib's STIX fonts have, and DejaVu Sans has not."""
    own = [file for file in pictures.fonts() if "STIX" in file]
    letter = next(
        c for file in own for c in sorted(glyphs(file)) if c not in glyphs(pictures.fonts()[0]) and c.isalpha()
    )
    assert fit_text(letter)[0] == letter
    assert fit_text(letter)[1].path in own
    monkeypatch.setattr(pictures, "fonts", lambda: pictures_first)
    pictures_first = [next(f for f in own if letter not in glyphs(f))]
    assert fit_text(letter)[0] == f"<U+{ord(letter):04X}>"


def test_lines_fit_and_say_that_something_is_left_out():
    for text in ("a red cat that sits on a mat and looks at a bird", "Donaudampfschifffahrtsgesellschaft", "x", ""):
        found, font = lines(text, 60)
        parts = found.split("\n")
        assert len(parts) <= 3
        assert all(font.getlength(part) <= 60 for part in parts)
        whole = found.replace("\n", "").replace(" ", "")
        assert whole == text.replace(" ", "") or whole.endswith("...")
    assert lines("two\nlines\tof one prompt", 1000)[0] == "two lines of one prompt"


def test_a_caption_for_each_picture(tmp_path):
    """Below its own picture is ink, below the one without a caption none; rows without captions stay as they are."""
    images = np.ones((3, 8, 8, 1), np.float32)
    contact_sheet(tmp_path / "plain.png", {"a": images, "b": images})
    contact_sheet(tmp_path / "a.png", {"a": images, "b": images}, captions={"a": ["a red cat", "", "кот"]})
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size[0] == plain.size[0]
        assert sheet.size[1] > plain.size[1] == 2 * 42
        strip = np.asarray(sheet.convert("L"))[42 : sheet.size[1] - 42]
    left = sheet.size[0] - 3 * 42
    ink = [(strip[:, left + 42 * i : left + 42 * (i + 1)] < 128).any() for i in range(3)]
    assert ink == [True, False, True]


def test_prompts_of_two_lines_and_names_of_any_script_are_drawn(tmp_path):
    contact_sheet(tmp_path / "a.png", {"0: 猫\nΩ": np.zeros((2, 8, 8, 3))}, ["β", "x\ny"], 20)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size[1] == 20 + 26


def test_a_measure_that_could_not_be_computed_is_left_out_of_the_curve(tmp_path, recwarn):
    def row(scale, value):
        return {
            "algorithm": "CFG",
            "scale": scale,
            "report": {m: {"value": value, "error": value} for m in ("diversity", "accuracy")},
        }

    save_trade_off(tmp_path / "a.png", [row(1.0, 0.5), row(2.0, None)])
    assert (tmp_path / "a.png").exists()
    assert not [w for w in recwarn if "finite" in str(w.message)]


def test_the_usual_font_is_kept_for_ascii():
    assert fit_text("cat")[1].getname() == ImageFont.load_default(13).getname()
