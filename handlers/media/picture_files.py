"""Writing pictures that a model made: what they were made with, and that they were made, stand in the files.

- `parameters`: the text that web interfaces for Stable Diffusion write and read; a text chunk of a PNG, else EXIF's
  UserComment. A PNG has the same as JSON in the chunk `mediamill`.
- XMP's IPTC DigitalSourceType says that the picture comes from a trained model, in a form that programs which label
  such pictures look for: http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

PictureFormat = Literal["png", "jpeg", "webp"]

#: Suffix and media type.
FILES: Mapping[PictureFormat, tuple[str, str]] = {
    "png": (".png", "image/png"),
    "jpeg": (".jpg", "image/jpeg"),
    "webp": (".webp", "image/webp"),
}
DEFAULT_QUALITY = 92
#: From this JPEG quality on colours keep their full resolution.
_FULL_COLOUR_FROM = 90

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
    xmp:CreatorTool="mediamill"
    Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True, slots=True)
class MadeWith:
    """What a picture was made with."""

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    scheduler: str
    #: The scheduler as web interfaces call it.
    sampler: str
    width: int
    height: int
    checkpoint: str

    def parameters(self) -> str:
        """As web interfaces write it: prompt, negative prompt, and a line of settings."""
        negative = f"Negative prompt: {self.negative_prompt}\n" if self.negative_prompt else ""
        return (
            f"{self.prompt}\n{negative}Steps: {self.steps}, Sampler: {self.sampler}, CFG scale: {self.guidance:g},"
            f" Seed: {self.seed}, Size: {self.width}x{self.height}, Model: {self.checkpoint}"
        )

    def as_dict(self) -> dict[str, Any]:
        """By the names of `image.generate`'s params."""
        names = (
            "prompt", "negative_prompt", "seed", "steps", "guidance", "scheduler", "width", "height", "checkpoint"
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def write_picture(
    path: Path, image: Image, kind: PictureFormat, quality: int | None = None, made_with: MadeWith | None = None
) -> None:
    """Writes an RGB picture; without `made_with` its metadata says only that a model made it.

    `quality`, 1 to 100, of JPEG and WebP. Raises OSError where the file cannot be written.
    """
    quality = DEFAULT_QUALITY if quality is None else quality
    match kind:
        case "png":
            image.save(path, "PNG", pnginfo=_chunks(made_with))
        case "jpeg":
            subsampling = "4:4:4" if quality >= _FULL_COLOUR_FROM else "4:2:0"
            image.save(path, "JPEG", quality=quality, subsampling=subsampling, **_segments(made_with))
        case "webp":
            image.save(path, "WEBP", quality=quality, **_segments(made_with))


def _chunks(made_with: MadeWith | None) -> Any:
    """The text chunks of a PNG."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if made_with is not None:
        chunks.add_text("parameters", made_with.parameters())
        chunks.add_text("mediamill", json.dumps(made_with.as_dict()))
    chunks.add_itxt("XML:com.adobe.xmp", _XMP)
    return chunks


def _segments(made_with: MadeWith | None) -> dict[str, Any]:
    """XMP and EXIF of a JPEG or WebP."""
    from PIL.Image import Exif

    segments: dict[str, Any] = {"xmp": _XMP.encode()}
    if made_with is not None:
        exif = Exif()
        # Its text has the byte order of the whole; the web interfaces read it as big-endian.
        exif.endian = ">"
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + made_with.parameters().encode("utf-16-be")
        segments["exif"] = exif.tobytes()
    return segments
