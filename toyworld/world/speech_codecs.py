"""What a codec leaves of speech: by ffmpeg."""

from __future__ import annotations

import subprocess
import tempfile
from enum import Enum
from typing import Any

from toyworld.world.speech import RATE


class Codec(Enum):
    """The container, and ffmpeg's words for the encoder."""

    MP3_32K = ("mp3", "-c:a", "libmp3lame", "-b:a", "32k")
    MP3_64K = ("mp3", "-c:a", "libmp3lame", "-b:a", "64k", "-ar", "44100")
    AAC_48K = ("m4a", "-c:a", "aac", "-b:a", "48k", "-ar", "44100")
    OPUS_20K = ("ogg", "-c:a", "libopus", "-b:a", "20k")
    TELEPHONE = ("wav", "-c:a", "pcm_mulaw", "-ar", "8000")


def coded(samples: Any, codec: Codec) -> Any:
    """What is left of a sound (float32, 16 kHz, mono): as long, and nothing moved."""
    import numpy

    pcm = ("-f", "f32le", "-ar", str(RATE), "-ac", "1")
    ffmpeg = ("ffmpeg", "-y", "-nostdin", "-loglevel", "error")
    container, *options = codec.value
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/sound.{container}"
        subprocess.run([*ffmpeg, *pcm, "-i", "pipe:0", *options, path], input=samples.tobytes(), check=True)
        done = subprocess.run([*ffmpeg, "-i", path, *pcm, "pipe:1"], capture_output=True, check=True)
    found = numpy.frombuffer(done.stdout, dtype=numpy.float32)[: len(samples)]
    return numpy.pad(found, (0, len(samples) - len(found)))
