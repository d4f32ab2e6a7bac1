"""Every kind of file that a phone, a scanner or a browser makes, against the pixel value that it must have."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fmx.contract import ImageInput
from fmx.errors import InputError, TooLargeError
from fmx.images import image_row
from tests.conftest import encode

RED, GREEN, WHITE = (200, 30, 40), (10, 180, 60), (255, 255, 255)


def flat(colour: tuple[int, ...], mode: str = "RGB", size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new(mode, size, colour)


def centre(row: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in row[row.shape[0] // 2, row.shape[1] // 2])


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (flat(RED), "PNG", RED),
        (flat(RED), "BMP", RED),
        (flat(RED), "WEBP", RED),
        (flat((120,), "L"), "PNG", (120, 120, 120)),
        (flat((1,), "1"), "PNG", WHITE),
        (flat(RED).quantize(8), "PNG", RED),
        (flat((*RED, 255), "RGBA"), "PNG", RED),
        (flat((*RED, 0), "RGBA"), "PNG", WHITE),
        (flat((*RED, 51), "RGBA"), "PNG", (244, 210, 212)),
        (flat((100, 0), "LA"), "PNG", WHITE),
    ],
    ids=["png", "bmp", "webp", "grey", "bilevel", "palette", "opaque", "transparent", "translucent", "grey-alpha"],
)
def test_colour_mode_becomes_rgb(image: Image.Image, kind: str, expected: tuple[int, ...], spec: ImageInput) -> None:
    row = image_row(encode(image, kind), spec)
    assert row.shape == (32, 32, 3)
    assert row.dtype == np.uint8
    assert centre(row) == pytest.approx(expected, abs=3)


def test_palette_transparency_goes_onto_white(spec: ImageInput) -> None:
    image = flat(RED).quantize(2)
    data = encode(image, "PNG", transparency=image.getpixel((0, 0)))
    assert centre(image_row(data, spec)) == WHITE


def test_palette_translucency_goes_onto_white(spec: ImageInput) -> None:
    data = encode(flat(RED).quantize(2), "PNG", transparency=bytes([51, 51]))
    assert centre(image_row(data, spec)) == pytest.approx((244, 210, 212), abs=3)


def test_16_bit_grey_is_scaled_not_clipped(spec: ImageInput) -> None:
    values = np.full((40, 40), 30_000, dtype=np.uint16)
    assert centre(image_row(encode(values), spec)) == pytest.approx((117, 117, 117), abs=1)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_float_tiff_with_values_that_are_no_number_gives_a_row(odd: float, spec: ImageInput) -> None:
    values = np.full((40, 40), 0.5, dtype=np.float32)
    values[0, 0] = odd
    assert image_row(encode(values, "TIFF"), spec).shape == (32, 32, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_costs_the_orientation_not_the_image(spec: ImageInput) -> None:
    data = encode(flat(RED), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert centre(image_row(data, spec)) == pytest.approx(RED, abs=4)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise_anything_else() -> None:
    """Six kinds of file with bytes changed at random: a row, or an InputError."""
    spec = ImageInput(height=32, width=32, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    files = [encode(noise, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")]
    read = 0
    for number in range(900):
        damaged = bytearray(files[number % len(files)])
        for position in random.integers(0, min(len(damaged), 400), 3):
            damaged[position] = random.integers(0, 256)
        try:
            read += image_row(bytes(damaged), spec).shape == (32, 32, 3)
        except InputError:
            continue
    assert 0 < read < 900


def test_cmyk_jpeg_is_not_inverted(spec: ImageInput) -> None:
    image = flat((255, 0, 0)).convert("CMYK")
    red, green, blue = centre(image_row(encode(image, "JPEG", quality=95), spec))
    assert red > 200
    assert green < 60
    assert blue < 60


def test_exif_orientation_is_applied_once(spec: ImageInput) -> None:
    image = flat(RED)
    image.paste(GREEN, (0, 0, 40, 20))  # green above, red below
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    row = image_row(encode(image, "PNG", exif=exif), spec)
    assert centre(row[:10]) == pytest.approx(RED, abs=3)
    assert centre(row[-10:]) == pytest.approx(GREEN, abs=3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_taken(kind: str, spec: ImageInput) -> None:
    data = encode(flat(RED), kind, save_all=True, append_images=[flat(GREEN)])
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert centre(image_row(data, spec)) == pytest.approx(RED, abs=8)


def test_crop_keeps_the_centre_and_squash_keeps_the_edges(spec: ImageInput) -> None:
    wide = flat(RED, size=(120, 40))
    wide.paste(GREEN, (40, 0, 80, 40))
    cropped = image_row(encode(wide), spec)
    squashed = image_row(encode(wide), spec.model_copy(update={"resize": "squash"}))
    assert tuple(cropped[16, 1]) == pytest.approx(GREEN, abs=3)
    assert tuple(squashed[16, 1]) == pytest.approx(RED, abs=3)


def test_large_jpeg_decoded_at_a_reduced_scale_shows_the_same(spec: ImageInput) -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC)
    from_jpeg = image_row(encode(large, "JPEG", quality=95), spec).astype(int)
    from_png = image_row(encode(large), spec).astype(int)
    assert np.abs(from_jpeg - from_png).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (33, 31)])
def test_extreme_sizes_give_a_whole_row(size: tuple[int, int], spec: ImageInput) -> None:
    assert image_row(encode(flat(RED, size=size)), spec).shape == (32, 32, 3)


@pytest.mark.parametrize("data", [b"", b"hello, I am a text", encode(flat(RED), "JPEG")[:300], b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_unreadable_bytes_are_an_input_error(data: bytes, spec: ImageInput) -> None:
    with pytest.raises(InputError) as caught:
        image_row(data, spec)
    assert caught.value.hint


def png_header(width: int, height: int) -> bytes:
    """A PNG file that announces a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 10_000, 30_000])
def test_pixel_limit_is_checked_before_decoding(side: int, spec: ImageInput) -> None:
    with pytest.raises(TooLargeError) as caught:
        image_row(png_header(side, side), spec)
    assert caught.value.http_status == 413


def test_lower_pixel_limit_is_kept(spec: ImageInput) -> None:
    with pytest.raises(TooLargeError, match="40 x 40"):
        image_row(encode(flat(RED)), spec, max_pixels=1_000)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_thin_image_is_cropped_before_it_is_resized(size: tuple[int, int]) -> None:
    """Two hundred bytes of 1 x 60,000 pixels once took gigabytes."""
    import tracemalloc

    large = ImageInput(height=224, width=224, mean=(0, 0, 0), std=(1, 1, 1))
    data = encode(Image.new("L", size, 9))
    tracemalloc.start()
    assert image_row(data, large).shape == (224, 224, 3)
    tracemalloc.stop()


def test_exif_that_cannot_be_written_again_is_no_fault(spec: ImageInput) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    data = encode(flat(RED), "JPEG", quality=95, exif=exif)
    assert centre(image_row(data, spec)) == pytest.approx(RED, abs=4)


def test_only_the_decoders_of_the_known_formats_are_reached(spec: ImageInput) -> None:
    for kind in ("EPS", "TGA", "PCX", "ICO"):
        with pytest.raises(InputError, match="not in a known image format"):
            image_row(encode(flat(RED), kind), spec)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_equals_pillows_own(orientation: int, spec: ImageInput) -> None:
    from PIL import ImageOps

    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image, "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert np.array_equal(image_row(data, spec), expected)
