"""Pictures as every viewer shows them, and folders of them with what does not belong there."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from guidance_jax.core import Refused
from guidance_jax.datasets.arrays import read_array
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.datasets.pictures import picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    return tmp_path


def only(folder, mode="RGB", size=4):
    """The one image of a folder as bytes."""
    return np.round((image_folder(folder, size, mode).images[0] + 1) * 127.5).astype(int)


def png16(path, values):
    """A grey PNG of 16 bits, written by hand."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    h, w = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", w, h, 16, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sixteen_bits_of_grey_are_their_upper_eight(folder, mode):
    values = np.array([[0, 257, 25700, 65535]] * 4)
    png16(folder / "a" / "x.png", values)
    found = only(folder, mode)
    assert found[0, :, 0].tolist() == [0, 1, 100, 255]
    assert found.shape == (4, 4, 1 if mode == "L" else 3)


def quarters(mode="RGB"):
    """Red, green over blue, white: no turn or flip of it is another's."""
    image = Image.new("RGB", (16, 16))
    for color, at in ((RED, (0, 0)), (GREEN, (8, 0)), (BLUE, (0, 8)), (WHITE, (8, 8))):
        image.paste(color, (*at, at[0] + 8, at[1] + 8))
    return image.convert(mode)


def corners(found):
    return [tuple(found[i, j].tolist()) for i in (0, -1) for j in (0, -1)]


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [  # the file's rows and columns, by the EXIF standard, of a picture that is red, green, blue, white when upright
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (6, lambda a: np.rot90(a)),
        (8, lambda a: np.rot90(a, -1)),
    ],
)
def test_photographs_stand_upright(folder, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored(np.asarray(quarters())))).save(folder / "a" / "x.png", exif=exif)
    assert corners(only(folder)) == [RED, GREEN, BLUE, WHITE]


def test_what_is_transparent_is_in_front_of_white(folder):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.save(folder / "a" / "x.png")
    assert (only(folder) == 255).all()
    Image.new("RGBA", (4, 4), (255, 0, 0, 51)).save(folder / "a" / "x.png")  # a fifth of red
    assert corners(only(folder)) == [(255, 204, 204)] * 4
    Image.new("LA", (4, 4), (0, 51)).save(folder / "a" / "x.png")
    assert (only(folder, "L") == 204).all()


def test_a_palette_with_a_transparent_colour_is_in_front_of_white(folder):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (0, 0, 4, 2))
    image.save(folder / "a" / "x.png", transparency=0)
    assert corners(only(folder)) == [WHITE, WHITE, BLUE, BLUE]
    image.save(folder / "a" / "x.gif", transparency=1)
    (folder / "a" / "x.png").unlink()
    assert corners(only(folder)) == [RED, RED, WHITE, WHITE]


def test_printers_colours_and_animations(folder):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(folder / "a" / "x.jpg", quality=100)  # magenta and yellow: red
    assert np.abs(only(folder)[0, 0] - RED).max() <= 3
    (folder / "a" / "x.jpg").unlink()
    first, second = Image.new("RGB", (4, 4), GREEN), Image.new("RGB", (4, 4), BLUE)
    first.save(folder / "a" / "x.gif", save_all=True, append_images=[second])
    assert corners(only(folder)) == [GREEN] * 4


def test_hidden_files_and_folders_are_no_data(folder):
    (folder / "b").mkdir()
    for place in (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints"):
        (folder / place).mkdir()
        (folder / place / "copy.png").write_bytes(b"no picture")
    (folder / "a" / "._x.png").write_bytes(b"what macOS leaves beside files")
    (folder / "a" / "album.png").mkdir()
    for name in "ab":
        quarters().save(folder / name / "x.png")
    data = image_folder(folder, 8)
    assert data.names == ("a", "b")
    assert data.labels.tolist() == [0, 1]


def test_all_bad_files_are_listed_at_once_and_may_be_skipped(folder):
    quarters().save(folder / "a" / "good.png")
    whole = (folder / "a" / "good.png").read_bytes()
    (folder / "a" / "cut.png").write_bytes(whole[:60])
    for i in range(7):
        (folder / "a" / f"bad{i}.png").write_bytes(b"no picture")
    os.mkfifo(folder / "a" / "pipe.png")  # never ends if it is opened
    with pytest.raises(Refused, match=r"9 of 10 images .*bad0\.png .*bad4\.png .*, \.\.\.; .*skip_bad=True") as caught:
        image_folder(folder, 8)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=r"9 of 10 images .*they are skipped"):
        data = image_folder(folder, 8, skip_bad=True)
    assert len(data) == 1


def test_links_out_of_a_folder_are_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.png"
    quarters().save(elsewhere)
    (folder / "a" / "x.png").symlink_to(elsewhere)
    assert corners(only(folder)) == [RED, GREEN, BLUE, WHITE]


def test_a_picture_larger_than_its_file_allows_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("L", (6_000, 7_000)).save(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size < 2**18
    with pytest.raises(Refused, match=r"would be 168,000,000 in memory; at most 67,108,864 are accepted"):
        picture(tmp_path / "x.png")


def test_programs_that_draw_are_no_pictures(tmp_path):
    """Pillow gives PostScript to an interpreter beside it."""
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(Refused, match="cannot be read"):
        picture(tmp_path / "x.png")


def test_measurements_are_read_by_the_same_reader(tmp_path):
    values = np.arange(12.0).reshape(2, 6).T
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", values)
    np.savez_compressed(tmp_path / "c.npz", first=values)
    for name in ("a.npy", "b.npz", "c.npz"):
        found = read_array(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values)
    png16(tmp_path / "d.png", np.array([[0, 65535]]))
    np.testing.assert_array_equal(read_array(tmp_path / "d.png")[..., 0], [[-1, 1]])
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "e.png")
    np.testing.assert_array_equal(read_array(tmp_path / "e.png"), np.ones((4, 4, 3)))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: np.save(p, np.array([1.0, np.nan, np.inf])), "2 numbers that are not finite"),
        (lambda p: np.save(p, np.array(["a"])), "expected numbers"),
        (lambda p: np.save(p, np.array([{}]), allow_pickle=True), "expected numbers"),
        (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"), "cannot be read"),
        (lambda p: p.write_bytes(b"PK nothing"), "cannot be read"),
        (lambda p: os.mkfifo(p), "is not a file"),
        (lambda p: p.mkdir(), "is not a file"),
        (lambda p: None, "does not exist"),
    ],
)
def test_measurements_that_cannot_be_used_are_one_line(tmp_path, write, message):
    write(tmp_path / "y.npy")
    with pytest.raises(Refused, match=message) as caught:
        read_array(tmp_path / "y.npy")
    assert "\n" not in str(caught.value)
