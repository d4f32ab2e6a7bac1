"""Facts of one file: what it holds, and what is odd about it. Whether it can be read is decided by the decoder that training uses."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from PIL import Image, ImageFile

from fmx.contract import ImageInput
from fmx.data.check.thumbnails import SIDE, row_thumbnails
from fmx.data.source import Item
from fmx.errors import InputError, TooLargeError
from fmx.images import FORMATS, image_row, orientation

TINY_SIDE = 16
HUGE_PIXELS = 50_000_000
ELONGATED = 8
_SUFFIX_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
_DECODED = ImageInput(height=2 * SIDE, width=2 * SIDE, resize="squash", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""Twice the thumbnail: a JPEG decoded right at its size (an eighth of it) would differ from a PNG of the same image more than look-alikes do."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one file is; width, height and format are empty where it cannot be read."""

    digest: bytes
    size_bytes: int
    readable: bool
    marks: tuple[tuple[str, str], ...]
    """(kind of finding, what is particular)"""
    format: str = ""
    width: int = 0
    height: int = 0


def read_facts(item: Item, thumbnail: np.ndarray) -> FileFacts:
    """Read a file and say what it is; what it shows is written into `thumbnail`.

    Args:
        item: whose file.
        thumbnail: uint8 [32, 32], filled where the file can be read.
    """
    try:
        data = item.read()
    except OSError as error:
        return FileFacts(b"", 0, False, (("unreadable", error.strerror or type(error).__name__),))
    digest = hashlib.sha256(data).digest()
    try:
        thumbnail[:] = row_thumbnails(image_row(data, _DECODED)[None])[0]
    except InputError as error:
        return FileFacts(digest, len(data), False, tuple(_faults(error, data)))
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        kind = "JPEG" if image.format == "MPO" else image.format or ""  # MPO is a camera's JPEG with a preview behind it
        marks = (*_shape_marks(*image.size), *_colour_marks(image), *_file_marks(image, kind, item.name))
        width, height = image.size
    if ends_early(data):
        marks = (*marks, ("truncated", f"{len(data):,} bytes"))
    return FileFacts(digest, len(data), True, marks, kind, width, height)


def ends_early(data: bytes) -> bool:
    """Say whether a file lacks the end that its format demands; decoders overlook some of these."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[2:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-64:] and b"IEND\xaeB`\x82" not in data
    if data.startswith(b"GIF8"):
        return not data.rstrip(b"\0\r\n").endswith(b";")
    if data.startswith(b"RIFF"):
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return False


def _faults(error: InputError, data: bytes) -> list[tuple[str, str]]:
    reason = error.message.removeprefix("The image cannot be read: ").rstrip(".")
    if isinstance(error, TooLargeError):
        return [("huge", reason), ("unreadable", reason)]
    return [("truncated" if "truncated" in reason or ends_early(data) else "unreadable", reason)]


def _shape_marks(width: int, height: int) -> list[tuple[str, str]]:
    size = f"{width:,} x {height:,}"
    odd = {
        "tiny": min(width, height) < TINY_SIDE,
        "huge": width * height > HUGE_PIXELS,
        "elongated": max(width, height) > ELONGATED * min(width, height),
    }
    return [(kind, size) for kind, found in odd.items() if found]


def _colour_marks(image: ImageFile.ImageFile) -> list[tuple[str, str]]:
    mode = image.mode
    stored = [str(part) for tile in image.tile for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    odd = {
        "cmyk": mode == "CMYK",
        "16-bit": mode.startswith(("I", "F")) or any("16" in part for part in stored),
        "palette": mode in ("P", "PA"),
        "alpha": mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
        "grey": mode in ("1", "L", "LA", "La") or mode.startswith(("I", "F")),
    }
    return [(kind, mode) for kind, found in odd.items() if found]


def _file_marks(image: Image.Image, kind: str, name: str) -> list[tuple[str, str]]:
    marks = []
    said = _SUFFIX_FORMATS.get(PurePath(name).suffix.lower())
    if said and said != kind:
        marks.append(("wrong-extension", f"it holds {kind}"))
    if orientation(image) != 1:
        marks.append(("rotated", f"orientation {orientation(image)}"))
    if image.format != "MPO" and (frames := _frames(image)) != 1:
        marks.append(("animated", f"{frames or 'damaged'} frames"))
    return marks


def _frames(image: Image.Image) -> int:
    """Count the frames; 0 where a later frame, which nothing here decodes, is damaged."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # Pillow's readers raise whatever a damaged file makes them raise
        return 0
