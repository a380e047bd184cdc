"""Pictures of every kind, good and hostile."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.errors import InvalidInput
from handlers.media.image import open_image, open_picture
from handlers.protocol import Limits
from tests.handlers.conftest import LIMITS, encoded, picture, saved

pytestmark = pytest.mark.handlers

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def near(pixel: Any, color: tuple[int, int, int], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(pixel, color, strict=True))


def middle(image: Any) -> Any:
    return image.getpixel((image.width * 2 // 5, image.height // 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_read_by_its_content_whatever_it_is_called(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(picture("red"), kind), "holiday.txt")
    opened = open_picture(path, LIMITS)
    assert opened.image.mode == "RGB"
    assert opened.image.size == (320, 240)
    assert near(middle(opened.image), (255, 0, 0))
    assert opened.facts.mime == f"image/{kind.lower()}"
    assert (opened.facts.width, opened.facts.height, opened.facts.frames, opened.facts.orientation) == (320, 240, 1, 1)


def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    from PIL import features

    assert features.check("avif")
    assert near(middle(open_image(saved(tmp_path, encoded(picture("blue"), "AVIF")), LIMITS)), (0, 0, 255))


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(picture("red").convert("CMYK"), "JPEG", quality=95))
    opened = open_picture(path, LIMITS)
    assert opened.facts.mode == "CMYK"
    assert near(middle(opened.image), (255, 0, 0))


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    import numpy
    from PIL import Image

    values = numpy.linspace(0, 65535, 256 * 256, dtype=numpy.uint16).reshape(256, 256)
    for kind in ("PNG", "TIFF"):
        opened = open_picture(saved(tmp_path, encoded(Image.fromarray(values), kind)), LIMITS)
        assert opened.facts.mode.startswith("I")
        grey = numpy.asarray(opened.image)[:, :, 0].astype(int)
        assert abs(grey - (values >> 8).astype(int)).max() <= 1


def test_floating_point_grey_with_infinities_is_stretched(tmp_path: Path) -> None:
    import numpy
    from PIL import Image

    values = numpy.array([[0.0, 1000.0], [float("nan"), float("inf")]], dtype=numpy.float32)
    image = open_image(saved(tmp_path, encoded(Image.fromarray(values), "TIFF")), LIMITS)
    assert [image.getpixel(at)[0] for at in ((0, 0), (1, 0), (0, 1), (1, 1))] == [0, 255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int, tmp_path: Path) -> None:
    from PIL import Image, ImageOps

    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 24, 16))  # red in the upper left corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    inverse = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, 1)
    turning = Image.Exif()
    turning[0x0112] = inverse
    turned = Image.open(io.BytesIO(encoded(upright, "PNG", exif=turning)))
    stored = ImageOps.exif_transpose(turned)
    assert stored is not None
    opened = open_picture(saved(tmp_path, encoded(stored, "JPEG", quality=95, subsampling=0, exif=exif)), LIMITS)
    assert opened.facts.orientation == orientation
    assert opened.image.size == (opened.facts.width, opened.facts.height) == (48, 32)
    assert near(opened.image.getpixel((5, 5)), (255, 0, 0), 40)
    assert near(opened.image.getpixel((40, 25)), (0, 0, 255), 40)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of metadata that is skipped
def test_an_exif_block_of_garbage_does_not_stop_the_picture(tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(picture("red"), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage"))
    assert open_picture(path, LIMITS).facts.orientation == 1


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_the_frames_are_counted(kind: str, tmp_path: Path) -> None:
    frames = [picture(color) for color in ("red", "green", "blue", "yellow", "black")]
    path = saved(tmp_path, encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    opened = open_picture(path, LIMITS)
    assert opened.facts.frames == 5
    assert near(middle(opened.image), (255, 0, 0))
    assert open_picture(path, LIMITS.model_copy(update={"max_frames": 3})).facts.frames == 3


def test_transparency_is_composited_over_white(tmp_path: Path) -> None:
    from PIL import Image

    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    assert open_image(saved(tmp_path, encoded(clear, "PNG")), LIMITS).getpixel((4, 4)) == (255, 255, 255)
    assert near(open_image(saved(tmp_path, encoded(half, "PNG")), LIMITS).getpixel((4, 4)), (255, 127, 127), 2)
    assert near(
        open_image(saved(tmp_path, encoded(half, "WEBP", lossless=True)), LIMITS).getpixel((4, 4)), (255, 127, 127), 2
    )
    grey = Image.new("LA", (8, 8), (0, 0))
    assert open_image(saved(tmp_path, encoded(grey, "PNG")), LIMITS).getpixel((4, 4)) == (255, 255, 255)


def test_palettes_with_and_without_transparency_and_single_bits_become_rgb(tmp_path: Path) -> None:
    from PIL import Image

    palette = picture("red").quantize(8)
    assert near(middle(open_image(saved(tmp_path, encoded(palette, "PNG")), LIMITS)), (255, 0, 0))
    clear = Image.new("P", (8, 8), 0)
    clear.putpalette([0, 0, 0] + [255, 0, 0] * 255)
    assert open_image(saved(tmp_path, encoded(clear, "PNG", transparency=0)), LIMITS).getpixel((1, 1)) == (255,) * 3
    assert open_image(saved(tmp_path, encoded(clear, "GIF", transparency=0)), LIMITS).getpixel((1, 1)) == (255,) * 3
    bits = Image.new("1", (9, 9), 1)
    assert open_image(saved(tmp_path, encoded(bits, "TIFF")), LIMITS).getpixel((8, 8)) == (255,) * 3
    key = Image.new("RGB", (8, 8), (1, 2, 3))
    assert (
        open_image(saved(tmp_path, encoded(key, "PNG", transparency=(1, 2, 3))), LIMITS).getpixel((1, 1)) == (255,) * 3
    )


def test_an_icc_profile_is_converted_to_srgb_and_a_broken_one_is_ignored(tmp_path: Path) -> None:
    from PIL import Image, ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    for profile in (b"not a profile", lab, srgb):
        opened = open_image(saved(tmp_path, encoded(image, "PNG", icc_profile=profile)), LIMITS)
        assert near(opened.getpixel((3, 3)), (200, 100, 50), 2)
        assert opened.info == {}
    assert open_image(saved(tmp_path, encoded(image, "PNG", icc_profile=_swapped(srgb))), LIMITS).getpixel((3, 3)) != (
        200,
        100,
        50,
    )


def _swapped(profile: bytes) -> bytes:
    """An RGB profile whose red and blue primaries have changed places, so that a conversion is seen."""
    data = bytearray(profile)
    count = struct.unpack(">I", data[128:132])[0]
    at = {bytes(data[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    data[at[b"rXYZ"] : at[b"rXYZ"] + 4], data[at[b"bXYZ"] : at[b"bXYZ"] + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_picture_is_shrunk_by_a_whole_factor_and_never_below_what_is_needed(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, encoded(picture("red", size=(1000, 900)), kind))
    opened = open_picture(path, LIMITS, at_least=200)
    assert opened.image.size in {(250, 225), (500, 450)}
    assert (opened.facts.width, opened.facts.height) == (1000, 900)
    assert near(middle(opened.image), (255, 0, 0))
    assert open_image(path, LIMITS, at_least=800).size == (1000, 900)


def refusal(data: bytes, folder: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(InvalidInput) as caught:
        open_picture(saved(folder, data), limits, "inputs/images/3")
    assert caught.value.message.startswith("inputs/images/3 ")
    assert str(folder) not in caught.value.message
    return caught.value.message


def test_no_bytes_at_all_are_called_empty(tmp_path: Path) -> None:
    assert "is empty" in refusal(b"", tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!doctype html><title>404</title>", "HTML"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"PK\x03\x04" + bytes(60), "ZIP"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "MP4"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC"),
        (b"a letter to a friend", "text"),
        (b"\x00" * 100, "no known kind"),
        (b"\xff", "no known kind"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, said: str, tmp_path: Path) -> None:
    message = refusal(data, tmp_path)
    assert said in message
    assert "send JPEG" in message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_picture_that_is_cut_off_is_refused(kind: str, part: float, tmp_path: Path) -> None:
    import numpy
    from PIL import Image

    noise = Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=numpy.uint8))
    data = encoded(noise, kind)
    message = refusal(data[: int(len(data) * part)], tmp_path)
    assert f"is a {kind} that is" in message


def test_a_damaged_checksum_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded(picture(), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 0xFF
    assert "is a PNG that is" in refusal(bytes(data), tmp_path)


def test_a_name_that_lies_about_the_format_inside_does_not_choose_the_decoder(tmp_path: Path) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    with pytest.raises(InvalidInput, match="PostScript"):
        open_picture(saved(tmp_path, eps, "picture.png"), LIMITS)


def test_a_file_beyond_the_limit_of_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    assert "more than the limit of 1,000" in refusal(
        encoded(picture(), "BMP"), tmp_path, LIMITS.model_copy(update={"max_bytes": 1000})
    )


def bomb_png(side: int, bits: int = 1) -> bytes:
    """A PNG of `side` x `side` black pixels; as a file some thousandth of its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    compressor = zlib.compressobj(9)
    row = bytes(1 + (side * bits + 7) // 8)
    pixels = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    head = struct.pack(">IIBBBBB", side, side, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def claimed_jpeg(side: int) -> bytes:
    """A JPEG that says it has `side` x `side` pixels."""
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def claimed_gif(side: int) -> bytes:
    data = bytearray(encoded(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


def frame_beyond_screen_gif(side: int) -> bytes:
    """A GIF of 1 x 1 whose only frame is far larger."""
    return (
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
        + b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00;"
    )  # fmt: skip


def claimed_webp(side: int) -> bytes:
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + (side - 1).to_bytes(3, "little") * 2
    still = encoded(picture(), "WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunk) + len(still)) + b"WEBP" + chunk + still


def claimed_tiff(side: int) -> bytes:
    """An uncompressed grey TIFF of one strip that is not there."""
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, side)]
    tags.append((279, 4, min(side * side, 0xFFFFFFFF)))
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + bytes(4)


HUGE: dict[str, bytes] = {
    "png": bomb_png(20_000),
    "png a little beyond": bomb_png(8_000),
    "jpeg": claimed_jpeg(20_000),
    "gif": claimed_gif(20_000),
    "gif frame": frame_beyond_screen_gif(20_000),
    "tiff": claimed_tiff(20_000),
    "webp": claimed_webp(16_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_twenty_thousand_pixels_a_side_are_refused(name: str, tmp_path: Path) -> None:
    message = refusal(HUGE[name], tmp_path)
    assert "more than the limit of 50,000,000" in message or "damaged" in message


def test_jobs_with_other_limits_beside_each_other_keep_their_own(tmp_path: Path) -> None:
    large = saved(tmp_path, bomb_png(9_500), "large")
    generous = LIMITS.model_copy(update={"max_pixels": 100_000_000})
    strict = LIMITS.model_copy(update={"max_pixels": 1_000})
    for _ in range(2):
        assert "more than the limit of 1,000 " in refusal(encoded(picture(), "PNG"), tmp_path, strict)
        assert open_picture(large, generous, at_least=768).facts.width == 9_500
        assert "more than the limit of 50,000,000" in refusal(large.read_bytes(), tmp_path)


_PEAK = """
import json, re, sys
from pathlib import Path
from handlers.errors import InvalidInput
from handlers.media.image import open_picture
from handlers.protocol import Limits
limits = Limits(max_bytes=64 << 20, max_pixels=50_000_000, max_frames=100)
import PIL.Image, PIL.ImageCms, numpy, PIL.PngImagePlugin, PIL.WebPImagePlugin, PIL.TiffImagePlugin
def peak():  # not ru_maxrss: that begins with what the parent had
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before, said = peak(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        said[path.name] = open_picture(path, limits, at_least=768).image.size
    except InvalidInput as error:
        said[path.name] = error.message
print(json.dumps({"mib": (peak() - before) / 1024, "said": said}))
"""


def _peak_mib(folder: Path) -> Any:
    done = subprocess.run([sys.executable, "-c", _PEAK, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_refusing_pictures_of_four_hundred_million_pixels_takes_next_to_no_memory(tmp_path: Path) -> None:
    for i, data in enumerate(HUGE.values()):
        saved(tmp_path, data, f"{i}")
    measured = _peak_mib(tmp_path)
    assert all(isinstance(said, str) for said in measured["said"].values())
    assert measured["mib"] < 100


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("I;16", "PNG"), ("RGB", "JPEG")],
)
def test_a_picture_as_large_as_is_allowed_takes_bounded_memory(mode: str, kind: str, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "in"
    folder.mkdir()
    saved(folder, encoded(Image.new(mode, (7000, 7000)), kind, **({"compress_level": 1} if kind == "PNG" else {})))
    measured = _peak_mib(folder)
    assert min(next(iter(measured["said"].values()))) >= 768
    assert measured["mib"] < 50_000_000 * 9 / (1 << 20)


def test_a_gif_of_a_hundred_thousand_frames_is_counted_no_further_than_the_cap(tmp_path: Path) -> None:
    small = encoded(picture(size=(16, 16)), "GIF")
    frame = small[small.index(b",", 13) : -1]
    path = saved(tmp_path, small[:-1] + frame * 100_000 + b";")
    assert open_picture(path, LIMITS).facts.frames == LIMITS.max_frames


def test_a_tiff_whose_directories_go_in_a_circle_ends(tmp_path: Path) -> None:
    data = bytearray(encoded(picture(size=(16, 16)), "TIFF"))
    first = struct.unpack("<I", data[4:8])[0]
    entries = struct.unpack("<H", data[first : first + 2])[0]
    end = first + 2 + 12 * entries
    data[end : end + 4] = struct.pack("<I", first)
    assert open_picture(saved(tmp_path, bytes(data)), LIMITS).facts.frames == 1


def test_a_file_that_cannot_be_read_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_picture(tmp_path / "gone", LIMITS)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of metadata that is skipped
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from((*KINDS, "AVIF")), seed=st.integers(0, 2**32), edits=st.integers(1, 30), cut=st.booleans())
def test_bytes_changed_at_random_give_a_picture_or_a_sentence_and_nothing_else(
    kind: str, seed: int, edits: int, cut: bool, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    data = bytearray(encoded(picture(size=(64, 48)), kind))
    for _ in range(edits):
        data[chance.randrange(8 if chance.random() < 0.9 else 0, len(data))] = chance.randrange(256)
    if cut:
        del data[chance.randrange(16, len(data)) :]
    path = saved(tmp_path, bytes(data))
    try:
        opened = open_picture(path, LIMITS, at_least=32)
    except InvalidInput as error:
        said = error.message
    else:
        said = "inputs/image is good"
        assert opened.image.mode == "RGB"
        assert opened.image.width * opened.image.height <= LIMITS.max_pixels
    assert said.startswith("inputs/image ")
