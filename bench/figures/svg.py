"""Makes drawings smaller, without a difference that could be seen: the page of a suite holds dozens of them."""

import base64
import io
import re

from PIL import Image

MAX_COLOURS = 256  # of a picture with a palette
PICTURE = re.compile(rb"(?<=data:image/png;base64,)[^\"]+")
# Digits after the second decimal, a hundredth of a point. Factors stay whole, since they multiply many points, and so
# do names in comments.
DIGITS = re.compile(rb"(<!--.*?-->|(?:scale|matrix)\(.*?\)|\.\d\d)\d*", re.DOTALL)


def compact(svg: bytes) -> bytes:
    """Return an SVG file of matplotlib with coordinates to a hundredth of a point, and pictures of a byte per pixel."""
    return PICTURE.sub(_with_palette, DIGITS.sub(rb"\1", svg))


def _with_palette(match: re.Match[bytes]) -> bytes:
    """Return a PNG file in base64, with a palette if the picture is opaque and has at most `MAX_COLOURS` colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(match[0]))).convert("RGBA")
    least_opaque, _ = picture.getchannel("A").getextrema()
    opaque = picture.convert("RGB")
    if least_opaque != 255 or opaque.getcolors(MAX_COLOURS) is None:
        return match[0]
    buffer = io.BytesIO()
    with_palette = opaque.convert("P", dither=Image.Dither.NONE, palette=Image.Palette.ADAPTIVE, colors=MAX_COLOURS)
    with_palette.save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue())
