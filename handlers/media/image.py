"""Pictures: from untrusted bytes to 8-bit sRGB, under limits.

Pillow is told which formats it may try, the size is judged by the header before anything is decoded, and whatever a
decoder says of broken bytes becomes an `InvalidInput` with a sentence. PIL and numpy are imported inside functions.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from handlers.errors import InvalidInput, ResourceExhausted
from handlers.media.frames import count_frames
from handlers.media.sniff import READ, SVG_AND_LIKE, sniff
from handlers.protocol import Limits

if TYPE_CHECKING:
    from PIL.Image import Image

#: Least length of the shorter side that models which see at most 384 pixels want; used by every handler that feeds
#: them, so that a picture has one embedding however it came to be read.
FOR_MODELS = 768

#: Bytes of an ICC profile that are looked at; real ones have 0.5 to 1,000 KiB.
_MAX_PROFILE_BYTES = 4 << 20

#: EXIF orientation -> name of the transposition that undoes it.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_EXIF_ORIENTATION = 0x0112

#: What Pillow's decoders, written for files in good order, raise about files that are not.
_OF_BROKEN_BYTES = (
    AssertionError,
    SyntaxError,
    ValueError,
    LookupError,
    ArithmeticError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the bytes of a picture are."""

    mime: str
    #: Pixels, as it is looked at (after `orientation`), not as it was shrunk for a model.
    width: int
    height: int
    #: Counted up to `Limits.max_frames`: that number means "at least".
    frames: int
    #: Pillow's name of the pixel format in the file: `RGB`, `CMYK`, `I;16`, ...
    mode: str
    #: EXIF orientation, 1 to 8.
    orientation: int

    def as_dict(self) -> dict[str, Any]:
        """For `Context.probe`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture and what its bytes were."""

    #: Mode RGB, sRGB, upright, nothing of the file in its `info`.
    image: Image
    facts: ImageFacts


def open_image(path: Path, limits: Limits, of: str = "inputs/image", at_least: int | None = None) -> Image:
    """The picture of `open_picture` without the facts."""
    return open_picture(path, limits, of, at_least).image


def open_picture(path: Path, limits: Limits, of: str = "inputs/image", at_least: int | None = None) -> Picture:
    """Decodes a JPEG, PNG, WebP, GIF, BMP or TIFF (AVIF where Pillow has it), whatever the file is called.

    - Of an animation, or a TIFF of many pages, the first frame.
    - Turned upright by its EXIF orientation.
    - Transparency is composited over white.
    - An ICC profile is converted to sRGB; one that cannot be understood is ignored.
    - 16-bit grey is scaled to 8 bits; floating point is taken as 0 to 1, or, where it is beyond, stretched from its
      least to its greatest value.
    - With `at_least`, a picture whose shorter side is at least twice that many pixels is shrunk by a whole factor, so
      that its sides stay at least so long: a JPEG while it is decoded (DCT scaling), others just after. None decodes
      all of it.

    Memory: about 4 bytes per pixel decoded (at most `limits.max_pixels`), twice that for a palette or transparency.

    `of` is the pointer that error messages name. Raises InvalidInput for bytes that are not such a picture, are empty,
    cut off or damaged, or are beyond `limits`; ResourceExhausted where memory does not suffice; OSError where the file
    itself cannot be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise InvalidInput(f"{of} is empty (0 bytes): upload the picture again")
    if size > limits.max_bytes:
        raise InvalidInput(f"{of} has {size:,} bytes, more than the limit of {limits.max_bytes:,}: send a smaller file")
    with path.open("rb") as file:
        kind = sniff(file.read(64))
        if kind not in READ:
            raise InvalidInput(f"{of} is not a picture that can be read: {_instead(kind)}; send {', '.join(READ)}")
        frames = count_frames(file, kind, limits.max_frames)
        file.seek(0)
        return _decode(file, kind, limits, of, at_least, frames)


def _instead(kind: str | None) -> str:
    if kind is None:
        return "its bytes are of no known kind"
    return f"its bytes are {kind}" + (" (drawings are not rendered)" if kind in SVG_AND_LIKE else "")


def _decode(file: BinaryIO, kind: str, limits: Limits, of: str, at_least: int | None, frames: int | None) -> Picture:
    from PIL import Image

    # Pillow's own limit is a global (beyond it a warning, beyond twice an error), and jobs with limits of their own run
    # beside each other: it is only ever raised, to what some job may have. `_refuse_size` is the limit of this one.
    if Image.MAX_IMAGE_PIXELS is not None and limits.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        with Image.open(file, formats=[kind]) as opened:
            _refuse_size(opened.size, limits, of)
            mode = opened.mode
            width, height = opened.size
            if at_least is not None:
                opened.draft(None, (at_least, at_least))
            opened.load()
            # A GIF's frame may be larger than its header said.
            _refuse_size(opened.size, limits, of)
            orientation = _orientation(opened)
            image = _to_srgb(_shrink(opened, at_least))
    except InvalidInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(
            f"{of} has more than the limit of {limits.max_pixels:,} pixels: send a smaller one"
        ) from error
    except OSError as error:
        if error.errno is not None:  # of the disk, not of the picture
            raise
        raise InvalidInput(_damaged(of, kind, error)) from error
    except MemoryError as error:
        raise ResourceExhausted(f"{of} needs more memory than there is to be decoded") from error
    except _OF_BROKEN_BYTES as error:
        raise InvalidInput(_damaged(of, kind, error)) from error
    if transposition := _UPRIGHT.get(orientation):
        image = image.transpose(Image.Transpose[transposition])
        if orientation >= 5:
            width, height = height, width
    image.info = {}
    facts = ImageFacts(
        mime=Image.MIME[kind],
        width=width,
        height=height,
        frames=frames or 1,
        mode=mode,
        orientation=orientation,
    )
    return Picture(image=image, facts=facts)


def _refuse_size(size: tuple[int, int], limits: Limits, of: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidInput(f"{of} has no pixels ({width} x {height})")
    if width * height > limits.max_pixels:
        raise InvalidInput(
            f"{of} has {width:,} x {height:,} pixels, more than the limit of {limits.max_pixels:,} in all:"
            " send a smaller one"
        )


def _damaged(of: str, kind: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if "truncated" in reason or isinstance(error, EOFError):
        return f"{of} is a {kind} that is cut off ({reason}): upload it again"
    return f"{of} is a {kind} that is damaged ({reason}): save it anew and upload it again"


def _orientation(image: Image) -> int:
    """The EXIF orientation, 1 where there is none or it makes no sense: the pixels are good all the same."""
    try:
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
    except (*_OF_BROKEN_BYTES, OSError):
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _shrink(image: Image, at_least: int | None) -> Image:
    """A copy smaller by a whole factor, sides at least `at_least`; palettes and odd formats become plain first."""
    factor = 1 if at_least is None else max(1, min(image.size) // at_least)
    if image.mode in {"1", "P", "PA"} or "transparency" in image.info:
        transparent = "transparency" in image.info or image.mode == "PA"
        plain = image.convert("RGBA" if transparent else "L" if image.mode == "1" else "RGB")
        plain.info.pop("transparency", None)
    elif image.mode.startswith("I") or image.mode == "F":
        plain = _grey(image)
    else:
        plain = image
    shrunk = plain.reduce(factor) if factor > 1 else plain.copy() if plain is image else plain
    if profile := image.info.get("icc_profile"):
        shrunk.info["icc_profile"] = profile
    return shrunk


def _grey(image: Image) -> Image:
    """16-bit, 32-bit and floating-point grey as 8-bit grey."""
    import numpy
    from PIL import Image as Pil

    values = numpy.asarray(image)
    if image.mode == "F":
        values = numpy.nan_to_num(values.astype(numpy.float32), nan=0.0, posinf=0.0, neginf=0.0)
        least, most = float(values.min()), float(values.max())
        if least >= 0.0 and most <= 1.0:
            least, most = 0.0, 1.0
        values = (values - least) * (255.0 / max(most - least, 1e-12))
    else:
        most = int(values.max(initial=0))
        shift = 8 if most <= 0xFFFF else most.bit_length() - 8
        values = values.clip(0) >> shift
    return Pil.fromarray(values.astype(numpy.uint8), mode="L")


def _to_srgb(image: Image) -> Image:
    """RGB over white, converted to sRGB where an ICC profile or the Lab colour model says what the numbers mean."""
    from PIL import Image as Pil
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if image.mode in {"RGBA", "LA", "La", "RGBa"}:
        over = image.convert("RGBA")
        image = Pil.new("RGB", over.size, "white")
        image.paste(over, mask=over.getchannel("A"))
    elif image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None
        return converted
    if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE_BYTES and image.mode in {"RGB", "CMYK", "L"}:
        from io import BytesIO

        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            converted = None  # not a profile, or one of another colour model: the numbers are taken as they are
        if converted is not None:
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")
