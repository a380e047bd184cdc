"""Scenes, sentences and clips of the toy world that no training has seen: run by the executor's interpreter.

    PYTHON -m tests.e2e.toy_material scenes|speech|clips FOLDER SEED COUNT

prints a JSON line for each: its file, and what is true of it. Seeds are numbers; those of training are texts.
"""

import json
import random
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

from toyworld.world.clips import draw_clip
from toyworld.world.paint import draw
from toyworld.world.scenes import draw_scene
from toyworld.world.speech import RATE, draw_manner, draw_sentence, speak

FPS, SIDE = 10, 256


def scene(folder: Path, name: str, chance: random.Random) -> dict[str, Any]:
    drawn = draw_scene(chance)
    file = folder / f"{name}.png"
    draw(drawn, chance, SIDE).save(file)
    return {
        "file": str(file),
        "caption": drawn.caption,
        "things": [thing.name for thing in drawn.things],
        "questions": {question.text: question.answer for question in drawn.questions},
    }


def sentence(folder: Path, name: str, chance: random.Random) -> dict[str, Any]:
    spoken = speak(draw_sentence(chance, kept=True), draw_manner(chance, kept=True))
    file = folder / f"{name}.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setparams((1, 2, RATE, 0, "NONE", ""))
        # Some silence around it, as in a recording.
        quiet = b"\0\0" * (RATE // 2)
        sound.writeframes(quiet + (spoken.samples * 32_767).astype("<i2").tobytes() + quiet)
    words = [{"text": word.text, "start": 0.5 + word.start_s, "end": 0.5 + word.end_s} for word in spoken.words]
    return {"file": str(file), "words": words}


def clip(folder: Path, name: str, chance: random.Random) -> dict[str, Any]:
    drawn = draw_clip(chance)
    file = folder / f"{name}.mp4"
    given = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{SIDE}x{SIDE}", "-framerate", str(FPS)]
    made = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", str(file)]
    subprocess.run(
        ["ffmpeg", "-nostdin", "-loglevel", "error", *given, "-i", "-", *made],
        input=b"".join(frame.tobytes() for frame in drawn.frames(FPS, SIDE)),
        check=True,
    )
    return {"file": str(file), "before": drawn.before.caption, "after": drawn.after.caption}


MAKERS = {"scenes": scene, "speech": sentence, "clips": clip}


def main() -> None:
    what, folder, seed, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        made = MAKERS[what](folder, f"{n:03}", random.Random(seed * 100_000 + n))
        sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
