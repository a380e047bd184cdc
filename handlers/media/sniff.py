"""What bytes are, by their first few: names of things that people send, right or wrong."""

from __future__ import annotations

#: Pillow's names of the formats that are read. HEIC is not among them: Pillow has no decoder for it.
READ = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

SVG_AND_LIKE = frozenset({"SVG", "PDF", "PostScript"})

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "a Photoshop document"),
    (b"PK\x03\x04", "a ZIP archive (or an office document)"),
    (b"\x1f\x8b", "gzip"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM film"),
    (b"ID3", "MP3"),
    (b"OggS", "Ogg"),
    (b"fLaC", "FLAC"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x00\x00\x01\x00", "an icon"),
)
#: Brand of an ISO media file (`ftyp` box) -> what it is.
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC"}
_RIFF = {b"WEBP": "WEBP", b"WAVE": "WAVE", b"AVI ": "AVI film"}


def sniff(head: bytes) -> str | None:
    """What a file is whose first bytes (64 suffice) these are; a name in `READ` for a picture that is read."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, len(head) - 3, 4))}
        known = [kind for brand, kind in _BRANDS.items() if brand in brands]
        return known[0] if known else "MP4 film"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    return _text(head)


def _text(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg"):
        return "SVG"
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if start.startswith(b"<?xml"):
        return "SVG" if b"<svg" in start else "XML"
    if start and all(9 <= byte <= 13 or 32 <= byte < 127 for byte in head):
        return "text"
    return None
