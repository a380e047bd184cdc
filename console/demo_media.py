"""Makes the demo's sound and films: run by the executor's interpreter, which has Pillow, with ffmpeg and espeak-ng.

    PYTHON -m console.demo_media FOLDER

makes speech.wav, music.wav, ball.mp4 and boat.mp4 in FOLDER. What is there already is left as it is. Prints what each
is. Without espeak-ng nobody speaks: speech.wav is then a melody, and there is nothing in it to be written down.
Without ffmpeg there are no films.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

from console.demo_pictures import BLUE, BROWN, GRASS, HEIGHT, ORANGE, RED, SKY, WHITE, WIDTH, YELLOW, Sheet

SAID = "A red circle. A blue square. A boat on the sea, and the sun over the hills."
FPS = 24
#: Frames of a film.
FRAMES = 60
RATE = 44_100
#: Frequencies in hertz, of a second each: C major, A minor, F major, G major.
CHORDS = (
    (261.63, 329.63, 392.0),
    (220.0, 261.63, 329.63),
    (174.61, 220.0, 261.63),
    (196.0, 246.94, 293.66),
)


def ball(sheet: Sheet, part: float) -> None:
    """A ball that bounces over a meadow; `part` of the film is over, 0 to 1."""
    sheet.box(0, 190, WIDTH, HEIGHT, GRASS)
    sheet.disc(275, 45, 22, YELLOW)
    sheet.disc(40 + part * 240, 165 - 90 * abs(math.sin(part * 3 * math.pi)), 25, RED)


def boat(sheet: Sheet, part: float) -> None:
    """A boat that crosses the sea."""
    sheet.box(0, 150, WIDTH, HEIGHT, BLUE)
    x, y = 220 - part * 150, 4 * math.sin(part * 6 * math.pi)
    sheet.shape([(x - 60, 140 + y), (x + 60, 140 + y), (x + 40, 170 + y), (x - 40, 170 + y)], BROWN)
    sheet.shape([(x - 2, 40 + y), (x - 2, 134 + y), (x - 50, 134 + y)], WHITE)
    sheet.shape([(x + 4, 52 + y), (x + 4, 134 + y), (x + 44, 134 + y)], ORANGE)


def film(path: Path, draw: Callable[[Sheet, float], None]) -> str:
    """An MP4 of `FRAMES` frames with a tone that rises."""
    seconds = FRAMES / FPS
    command = [
        "ffmpeg", "-nostdin", "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{WIDTH}x{HEIGHT}", "-framerate", str(FPS),
        "-i", "-",
        "-f", "lavfi", "-i", f"aevalsrc=0.1*sin(2*PI*(300+60*t)*t):d={seconds}:s={RATE}",
        "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest",
        "-movflags", "+faststart", "-f", "mp4", str(path),
    ]  # fmt: skip
    subprocess.run(command, input=b"".join(_frames(draw)), check=True)
    return f"{seconds:g} s of film"


def _frames(draw: Callable[[Sheet, float], None]) -> Iterator[bytes]:
    for number in range(FRAMES):
        sheet = Sheet(SKY)
        draw(sheet, number / FRAMES)
        yield sheet.pixels()


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
    """A sentence, spoken by espeak-ng; the music where it is not installed."""
    if (program := shutil.which("espeak-ng")) is None:
        return f"{music(path)} in place of speech (espeak-ng is not installed)"
    subprocess.run([program, "-s", "140", "-w", str(path), SAID], check=True)
    return f"spoken: {SAID}"


MAKERS: dict[str, Callable[[Path], str]] = {
    "speech.wav": speech,
    "music.wav": music,
    "ball.mp4": lambda path: film(path, ball),
    "boat.mp4": lambda path: film(path, boat),
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
