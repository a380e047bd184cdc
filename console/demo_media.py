"""Makes the demo's sound and films: run by the executor's interpreter, which has Pillow, with ffmpeg and espeak-ng.

    PYTHON -m console.demo_media FOLDER

makes speech.wav, music.wav, circle.mp4 and star.mp4 in FOLDER. What is there already is left as it is. Prints what each
is. Without espeak-ng nobody speaks: speech.wav is then a melody, and there is nothing in it to be written down.
Without ffmpeg there are no films.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from toyworld.world import speech as speaking
from toyworld.world.clips import Clip
from toyworld.world.scenes import Background, Colour, Place, Shape, scene_of
from toyworld.world.speech import Manner

#: In the words that the toy checkpoints know.
SAID = (("red", "circle"), ("blue", "square"), ("green", "star"), ("one", "two", "three"))
FPS = 24
SIDE = 256
RATE = 44_100
#: Frequencies in hertz, of a second each: C major, A minor, F major, G major.
CHORDS = (
    (261.63, 329.63, 392.0),
    (220.0, 261.63, 329.63),
    (174.61, 220.0, 261.63),
    (196.0, 246.94, 293.66),
)


def clip(shape: Shape, colour: Colour, way: tuple[Place, Place], background: Background) -> Clip:
    """A thing that rests for a second, goes its way, and rests for another."""
    before, after = (scene_of(random.Random(shape), [(shape, colour, place)], background) for place in way)
    [here], [there] = before.things, after.things
    moved = replace(here, place=there.place, x=there.x, y=there.y)
    return Clip(before, replace(before, things=(moved,)), leaves=0.75, arrives=1.75, seconds=2.5)


def film(path: Path, shown: Clip) -> str:
    """An MP4 of a clip, with a tone that rises."""
    command = [
        "ffmpeg", "-nostdin", "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{SIDE}x{SIDE}", "-framerate", str(FPS),
        "-i", "-",
        "-f", "lavfi", "-i", f"aevalsrc=0.1*sin(2*PI*(300+60*t)*t):d={shown.seconds}:s={RATE}",
        "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest",
        "-movflags", "+faststart", "-f", "mp4", str(path),
    ]  # fmt: skip
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in shown.frames(FPS, SIDE)), check=True)
    return f"{shown.seconds:g} s of film"


def music(path: Path) -> str:
    """Four chords, twice."""
    chords = CHORDS * 2
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        for chord in chords:
            file.writeframes(b"".join(_sample(chord, n / RATE) for n in range(RATE)))
    return f"{len(chords)} s of music"


def _sample(chord: tuple[float, ...], second: float) -> bytes:
    loud = 0.2 * math.exp(-2 * second)
    return struct.pack("<h", round(32_767 * loud * sum(math.sin(2 * math.pi * tone * second) for tone in chord)))


def speech(path: Path) -> str:
    """Some sentences, spoken by espeak-ng; the music where it is not installed."""
    import numpy

    manner = Manner("en-us", words_per_minute=150, pitch=50)
    pause = numpy.zeros(round(0.7 * speaking.RATE), numpy.float32)
    try:
        spoken = [speaking.speak(sentence, manner).samples for sentence in SAID]
    except OSError:
        return f"{music(path)} in place of speech (espeak-ng is not installed)"
    sound = numpy.concatenate([pause, *(part for samples in spoken for part in (samples, pause))])
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, speaking.RATE, 0, "NONE", ""))
        file.writeframes((sound * 32_767).astype("<i2").tobytes())
    return f"spoken: {', '.join(' '.join(sentence) for sentence in SAID)}"


MAKERS: dict[str, Callable[[Path], str]] = {
    "speech.wav": speech,
    "music.wav": music,
    "circle.mp4": lambda path: film(path, clip(Shape.CIRCLE, Colour.RED, (Place.LEFT, Place.RIGHT), Background.WHITE)),
    "star.mp4": lambda path: film(path, clip(Shape.STAR, Colour.YELLOW, (Place.TOP, Place.BOTTOM), Background.BLACK)),
}


def main() -> None:
    """The command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, maker in MAKERS.items():
        path = folder / name
        if path.exists():
            sys.stdout.write(f"{name}: there already\n")
            continue
        if path.suffix == ".mp4" and shutil.which("ffmpeg") is None:
            sys.stdout.write(f"{name}: not made (ffmpeg is not installed)\n")
            continue
        whole = path.with_name(f".{name}.{os.getpid()}")
        said = maker(whole)
        whole.replace(path)
        sys.stdout.write(f"{name}: {said}\n")


if __name__ == "__main__":
    main()
