"""From an image file's bytes to the model's uint8 row: the one preprocessing function of fmx.

Training evaluation, calibration, `fmx predict`, `fmx eval` and the service all call `image_row`, so an image means the same everywhere.
Normalisation is not here: it is inside the exported graph (`export/graph.py`) and in the training model (`finetune/network.py`).
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, UnidentifiedImageError

from fmx.contract import ImageInput
from fmx.decoded import Decoded
from fmx.drift import image_features
from fmx.errors import FmxError, InputError, TooLargeError

PILLOW_MAX_PIXELS = 89_478_485
"""Pixels from which Pillow itself warns of a decompression bomb."""

MAX_PIXELS = 80_000_000
"""Pixels of an image, known from its header before decoding, that are taken unless a caller sets another limit."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Decoders that a stranger's bytes may reach; Pillow has many more, and one of them starts Ghostscript."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is turned upright, by its EXIF orientation."""


class ImageReader:
    """Turns encoded images into rows uint8 [height, width, 3]. Safe to call from several threads at once."""

    dtype = np.dtype(np.uint8)

    def __init__(self, spec: ImageInput) -> None:
        self.spec = spec

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row: (height, width, 3)."""
        return self.spec.height, self.spec.width, 3

    def decode(self, data: bytes, limit: int = MAX_PIXELS) -> Decoded:
        """Turn a file's bytes into one row, and note its size. Raises: as `measured_row`, whose `max_pixels` is the limit."""
        row, pixels = measured_row(data, self.spec, limit)
        return Decoded(row, {"size": math.log2(pixels) / 2})

    def feed(self, rows: np.ndarray) -> np.ndarray:
        """Give rows as a graph takes them: as they are."""
        return rows

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Give the order in which many rows run fastest: any, int64 [n]."""
        return np.arange(len(rows))

    def features(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Measure what drift compares of rows, a value a row each: see `fmx.drift.image_features`."""
        return image_features(rows)

    def example(self, *, whole: bool = False) -> np.ndarray:
        """Make a row to time; all take as long: uint8 [1, height, width, 3]."""
        return self.noise(1)

    def examples(self) -> dict[int, np.ndarray]:
        """Make the row of `example`, for the one bucket that there is."""
        return {0: self.example()}

    def noise(self, count: int) -> np.ndarray:
        """Make rows of noise, always the same: uint8 [count, height, width, 3]."""
        return np.random.default_rng(0).integers(0, 256, (count, *self.row_shape), dtype=np.uint8)


def image_row(data: bytes, spec: ImageInput, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Turn an encoded image into one row of the model: uint8 [height, width, 3], RGB. See `measured_row`."""
    return measured_row(data, spec, max_pixels)[0]


def measured_row(data: bytes, spec: ImageInput, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Turn an encoded image into one row of the model, and say how many pixels it had.

    EXIF orientation is applied, any colour mode becomes RGB (16-bit scaled, transparency onto white), the first frame of an animation is
    taken, and JPEGs are decoded at a reduced scale when they are much larger than the row (libjpeg's DCT scaling).

    Returns:
        (uint8 [height, width, 3], RGB; pixels of the image as it was sent).

    Raises:
        InputError: not an image, truncated, or empty.
        TooLargeError: more than `max_pixels` pixels; decided from the header, before anything is decoded.
    """
    if not data:
        raise InputError("The image is empty.", hint="Send the bytes of an image file.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise _too_many_pixels(width, height, max_pixels)
            opened.draft(None, _decode_size(spec))
            return np.asarray(_fit(_to_rgb(_upright(opened)), spec), dtype=np.uint8), width * height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(f"The image has too many pixels ({error}).", hint=f"At most {max_pixels:,} are taken.") from error
    except FmxError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them raise
        raise InputError(f"The image cannot be read: {_reason(error)}.", hint="Send a whole JPEG, PNG, WebP, GIF, BMP or TIFF file.") from error


def _too_many_pixels(width: int, height: int, limit: int) -> TooLargeError:
    return TooLargeError(f"The image has {width} x {height} pixels; at most {limit:,} are taken.", hint="Scale it down first.")


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not in a known image format"
    text = str(error).rstrip(".")
    return text[:1].lower() + text[1:] if text else type(error).__name__


def _decode_size(spec: ImageInput) -> tuple[int, int]:
    side = max(_resized_side(spec, spec.height), _resized_side(spec, spec.width))
    return side, side


def _resized_side(spec: ImageInput, side: int) -> int:
    return round(side / spec.crop_fraction)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 (upright) to 8; damaged tags cost the orientation, not the image."""
    try:
        given = image.getexif().get(_ORIENTATION)
        return int(given) if given in _TURNS else 1
    except Exception:  # Pillow's EXIF parser raises whatever damaged tags make it raise
        return 1


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, and nothing else of the EXIF."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F", "I;16", "I;16B", "I;16L", "I;16N"):
        image = _scale_to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        page.alpha_composite(image)
        image = page
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (and 32-bit integer, float) to 8 bits, where Pillow's own conversion would clip it to white."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    if image.mode == "F" and values.size and values.max() <= 1.0:
        values = values * 255.0
    elif image.mode != "F" or values.max(initial=0.0) > 255.0:
        values = values / 257.0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), mode=None)


def _fit(image: Image.Image, spec: ImageInput) -> Image.Image:
    resampling = _FILTERS[spec.interpolation]
    if spec.resize == "squash":
        return image.resize((spec.width, spec.height), resampling)
    scale = max(_resized_side(spec, spec.width) / image.width, _resized_side(spec, spec.height) / image.height)
    width, height = min(image.width, spec.width / scale), min(image.height, spec.height / scale)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (left, top, left + width, top + height)  # cropped before it is resized: a 1 x 60,000 image must not become a large one
    return image.resize((spec.width, spec.height), resampling, box=box, reducing_gap=3.0)
