"""moviepy's side of `bench.video`, run as a script by an interpreter that has it: the edit on standard input.

As its documentation does it: clips with `CrossFadeIn` in one `CompositeVideoClip`, sounds with fades in one
`CompositeAudioClip`. A background without transparency spares it the masks of the whole film. Says in one line how long
it took, from when it was imported, and the CPU time of it and its children.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from moviepy import (  # type: ignore[import-not-found, unused-ignore]
    AudioFileClip,
    CompositeAudioClip,
    CompositeVideoClip,
    ImageClip,
    VideoFileClip,
    afx,
    vfx,
)


def edit(job: dict[str, Any]) -> None:
    """Makes the film."""
    fade, rate = job["fade_s"], job["rate"]
    with ExitStack() as held:
        shots = []
        for n, ((path, length), start) in enumerate(zip(job["clips"], job["starts"], strict=True)):
            clip = held.enter_context(VideoFileClip(path, audio_fps=rate)).subclipped(
                job["begin_s"], job["begin_s"] + length
            )
            if n:
                clip = clip.with_effects([vfx.CrossFadeIn(fade), afx.AudioFadeIn(fade)])
            if n < len(job["clips"]) - 1:
                clip = clip.with_effects([afx.AudioFadeOut(fade)])
            shots.append(clip.with_start(start))
        picture, at, seconds, left, top = job["title"]
        title = ImageClip(picture, transparent=True).with_start(at).with_duration(seconds).with_position((left, top))
        path, volume = job["music"]
        music = held.enter_context(AudioFileClip(path, fps=rate)).subclipped(0, job["seconds"])
        film = CompositeVideoClip([*shots, title], size=tuple(job["size"]), bg_color=(0, 0, 0))
        film = film.with_audio(CompositeAudioClip([film.audio, music.with_volume_scaled(volume)]))
        film.with_duration(job["seconds"]).write_videofile(
            job["out"],
            fps=job["fps"],
            codec="libx264",
            preset=job["preset"],
            audio_codec="aac",
            audio_bitrate=job["bitrate"],
            audio_fps=rate,
            temp_audiofile_path=str(Path(job["out"]).parent),
            ffmpeg_params=job["ffmpeg_params"],
            logger=None,
        )


def main() -> None:
    """The command."""
    job = json.load(sys.stdin)
    began = time.perf_counter()
    before = _cpu_s()
    edit(job)
    print(json.dumps({"wall_s": time.perf_counter() - began, "cpu_s": _cpu_s() - before}))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
