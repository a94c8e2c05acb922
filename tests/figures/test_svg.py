"""Smaller drawings look the same."""

import base64
import io
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bench.figures.svg import DIGITS, PICTURE, compact

MATRIX = re.compile(rb"matrix\([^)]*\)")
NUMBER = re.compile(rb"-?\d+\.\d+")


def drawn(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def pixels(svg: bytes) -> np.ndarray:
    """Return the only picture of a drawing as the bytes of its colours and opacities."""
    (found,) = PICTURE.findall(svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found))).convert("RGBA"))


def picture(matrix: np.ndarray) -> Figure:
    figure = Figure()
    figure.subplots().imshow(matrix, cmap="RdBu", interpolation="none")
    return figure


def test_coordinates_move_by_less_than_a_hundredth_of_a_point():
    figure = Figure()
    figure.subplots().plot(np.random.default_rng(0).normal(size=200))
    whole = drawn(figure)
    before, after = ([float(one) for one in NUMBER.findall(text)] for text in (whole, compact(whole)))
    np.testing.assert_allclose(after, before, rtol=0, atol=0.01)
    assert len(compact(whole)) < 0.95 * len(whole)


def test_the_scale_of_letters_and_what_they_spell_stay():
    text = b'<!-- 0.98765 --><g transform="translate(12.345678 -9.876543) scale(0.015625 -0.08272)">'
    shorter = b'<!-- 0.98765 --><g transform="translate(12.34 -9.87) scale(0.015625 -0.08272)">'
    assert DIGITS.sub(rb"\1", text) == shorter


def test_a_picture_keeps_each_pixel_in_half_of_the_bytes():
    whole = drawn(picture(np.random.default_rng(0).normal(size=(40, 40))))
    small = compact(whole)
    assert (pixels(small) == pixels(whole)).all()
    assert len(PICTURE.findall(small)[0]) < len(PICTURE.findall(whole)[0]) / 2


def test_a_picture_keeps_its_place_and_size():
    whole = drawn(picture(np.random.default_rng(0).normal(size=(100, 100))))
    assert MATRIX.findall(whole)
    assert MATRIX.findall(compact(whole)) == MATRIX.findall(whole)


@pytest.mark.parametrize("matrix", [np.full((4, 4), np.nan), np.random.default_rng(0).random((30, 30, 3))])
def test_a_picture_with_holes_or_many_colours_stays_as_it_is(matrix):
    whole = drawn(picture(matrix))
    assert PICTURE.findall(compact(whole)) == PICTURE.findall(whole)
