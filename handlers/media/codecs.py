"""What ffmpeg may read of an untrusted file: demuxers, decoders and protocols by name; all else it refuses.

A name that a build lacks does no harm. Left out on purpose:

- what opens other files or addresses by names in the file: `hls`, `dash`, `concat`, `sdp`, `rtsp`, `image2`, `imf`;
- files of subtitles (`handlers.media.captions` reads them), scripts, and drawings (`svg_pipe`);
- games' and other rare formats, whose demuxers and decoders few people look at; among them MagicYUV (CVE-2026-8461);
- decoders that drive hardware.
"""

from __future__ import annotations

PROTOCOLS = ("file",)

#: Demuxer -> media types of sound and of film in it; "" where it holds no such thing.
FORMATS: dict[str, tuple[str, str]] = {
    "mov": ("audio/mp4", "video/mp4"),
    "matroska": ("audio/x-matroska", "video/x-matroska"),
    "mpegts": ("audio/mp2t", "video/mp2t"),
    "mpeg": ("audio/mpeg", "video/mpeg"),
    "avi": ("video/x-msvideo", "video/x-msvideo"),
    "flv": ("video/x-flv", "video/x-flv"),
    "asf": ("audio/x-ms-wma", "video/x-ms-wmv"),
    "mp3": ("audio/mpeg", ""),
    "wav": ("audio/wav", ""),
    "w64": ("audio/x-w64", ""),
    "flac": ("audio/flac", ""),
    "ogg": ("audio/ogg", "video/ogg"),
    "aac": ("audio/aac", ""),
    "ac3": ("audio/ac3", ""),
    "eac3": ("audio/eac3", ""),
    "amr": ("audio/amr", ""),
    "aiff": ("audio/aiff", ""),
    "au": ("audio/basic", ""),
    "caf": ("audio/x-caf", ""),
    "gif": ("", "image/gif"),
    "apng": ("", "image/apng"),
    "png_pipe": ("", "image/png"),
    "jpeg_pipe": ("", "image/jpeg"),
    "webp_pipe": ("", "image/webp"),
}

#: Of `FORMATS`, those that are one picture.
STILLS = frozenset({"png_pipe", "jpeg_pipe", "webp_pipe"})

_PCM = (
    "pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s8", "pcm_dvd", "pcm_bluray",
    "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_s64le", "pcm_s64be",
    "pcm_u16le", "pcm_u16be", "pcm_u24le", "pcm_u24be", "pcm_u32le", "pcm_u32be",
    "pcm_f16le", "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be",
)  # fmt: skip

#: Codecs as ffprobe names them, where decoder and codec have one name.
_ONE_NAME = (
    "h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "h263", "h263p", "msmpeg4v1", "msmpeg4v2",
    "wmv1", "wmv2", "wmv3", "vc1", "theora", "mjpeg", "prores", "dnxhd", "dvvideo",
    "ffv1", "huffyuv", "ffvhuff", "utvideo", "qtrle", "rawvideo", "v210", "gif", "apng", "png", "webp",
    "aac", "aac_latm", "vorbis", "flac", "alac", "ac3", "eac3", "wmav1", "wmav2", "wmapro", "wmavoice",
    "truehd", "mlp", *_PCM,
    "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_ms", "adpcm_swf", "adpcm_yamaha", "gsm", "gsm_ms", "nellymoser",
)  # fmt: skip

#: Codec -> its decoders.
CODECS: dict[str, tuple[str, ...]] = {name: (name,) for name in _ONE_NAME} | {
    "av1": ("libdav1d", "av1", "libaom-av1"),
    "vp8": ("vp8", "libvpx"),
    "vp9": ("vp9", "libvpx-vp9"),
    "msmpeg4v3": ("msmpeg4",),
    "flv1": ("flv",),
    "mp1": ("mp1float", "mp1"),
    "mp2": ("mp2float", "mp2"),
    "mp3": ("mp3float", "mp3"),
    "opus": ("opus", "libopus"),
    "speex": ("speex", "libspeex"),
    "dts": ("dca",),
    "amr_nb": ("amrnb", "libopencore_amrnb"),
    "amr_wb": ("amrwb", "libopencore_amrwb"),
    "adpcm_g722": ("g722",),
    "adpcm_g726": ("g726",),
}

#: Of subtitles in a film, which nothing here decodes: ffprobe opens a decoder for every stream, or gives up.
_ONLY_OPENED = (
    "mov_text", "subrip", "srt", "ass", "ssa", "webvtt", "text", "dvdsub", "dvbsub", "pgssub", "xsub", "cc_dec",
    "libzvbi_teletextdec", "libaribb24", "libaribcaption",
)  # fmt: skip

DECODERS = (*(decoder for decoders in CODECS.values() for decoder in decoders), *_ONLY_OPENED)
