"""Timelines drawn at random, of odd little assets: what the planner takes, the renderer must make, frame by frame."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.handlers.films import BLUE, FFMPEG, GREEN, RED, beeping, numbered
from tests.handlers.media_material import rotated, wav

FILMS = ("plain", "silent", "uneven", "turned", "slow", "one", "clear", "moving", "late", "dot")
PICTURES = ("photo", "glass", "pixel", "ribbon", "moving_still")
SOUNDS = ("tone", "sample", "mono", "plain", "talk")
TRANSITIONS = ("fade", "wipeleft", "dissolve", "circleopen", "pixelize", "hblur", "zoomin", "slideup", "squeezev")
RATES = (1, 5, 12.5, 23.976, 25, "30000/1001", 30, 29.97002997, 48, 60, 120)


def assets(folder: Path) -> dict[str, Path]:
    """Films, pictures, sounds and subtitles, each odd in its own way."""
    from PIL import Image

    made = {
        "plain": numbered(folder / "plain.mp4", 45, "30", RED, beeps=(0.5,), size=(64, 36)),
        "silent": numbered(folder / "silent.mp4", 30, "24000/1001", GREEN, beeps=None, size=(48, 64)),
        "uneven": numbered(folder / "uneven.mp4", 40, "25", BLUE, uneven=True, size=(64, 36)),
        "slow": numbered(folder / "slow.mkv", 3, "1", RED, size=(32, 18)),
        "one": numbered(folder / "one.mp4", 1, "50", GREEN, beeps=None, size=(34, 50)),
    }
    made["turned"] = rotated(folder / "turned.mp4", 90, 1.5, (64, 36))
    made["clear"] = folder / "clear.webm"
    fading = "color=c=red:s=40x30:r=10:d=0.8,format=yuva420p,geq=lum=lum(X\\,Y):cb=128:cr=128:a=X*6"
    ffmpeg("-f", "lavfi", "-i", fading, "-c:v", "libvpx-vp9", "-auto-alt-ref", "0", "-cpu-used", "8", made["clear"])
    made["moving"] = folder / "moving.gif"
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=31x23:r=10:d=0.7", made["moving"])
    made["moving_still"] = made["moving"]
    made["late"] = folder / "late.mkv"  # its sound goes on when its pictures have ended
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=32x32:r=20:d=0.5", "-f", "lavfi", "-i", "sine=d=3", made["late"])
    made["dot"] = folder / "dot.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=s=2x2:r=10:d=1,scale=1:1", "-c:v", "ffv1", made["dot"])
    photo = Image.effect_noise((300, 200), 60).convert("RGB")
    photo.save(folder / "photo.jpg")
    glass = Image.new("RGBA", (61, 43), (20, 200, 20, 128))
    glass.save(folder / "glass.png")
    Image.new("RGB", (1, 1), "white").save(folder / "pixel.png")
    Image.effect_noise((2500, 3), 60).convert("RGB").save(folder / "ribbon.png")
    made |= {name: folder / file for name, file in (("photo", "photo.jpg"), ("glass", "glass.png"))}
    made |= {name: folder / file for name, file in (("pixel", "pixel.png"), ("ribbon", "ribbon.png"))}
    made["tone"] = wav(folder / "tone.wav", beeping((0.0, 1.0), 2, 44_100).tolist(), 44_100)
    made["sample"] = wav(folder / "sample.wav", [0.5], 8000)
    made["mono"] = folder / "mono.mp3"
    ffmpeg("-f", "lavfi", "-i", "sine=d=1.5:sample_rate=22050", made["mono"])
    made["talk"] = folder / "talk.ogg"
    ffmpeg("-f", "lavfi", "-i", "sine=d=2:sample_rate=48000", "-c:a", "libopus", made["talk"])
    made["words"] = folder / "words.srt"
    made["words"].write_text(
        "1\n00:00:00,100 --> 00:00:00,600\n{\\pos(1,1)\\fs900}<b>50 %</b> C:\\fonts\\x\\N 'a'\n", "utf-8"
    )
    made["none"] = folder / "none.vtt"
    made["none"].write_text("WEBVTT\n", "utf-8")
    return made


def named(params: Mapping[str, Any]) -> set[str]:
    """The assets that a message names."""
    timeline = params["timeline"]
    items = [item for track in timeline["tracks"] for item in track["items"]]
    return {each["asset"] for each in [*items, *timeline["subtitles"]] if "asset" in each}


def ffmpeg(*arguments: str | Path) -> None:
    subprocess.run([*FFMPEG, *map(str, arguments)], check=True)


#: About how long they are, in seconds.
LENGTHS: Mapping[str, float] = {
    "plain": 1.5, "silent": 1.25, "uneven": 1.6, "turned": 1.5, "slow": 3, "one": 0.02, "clear": 0.8, "moving": 0.7,
    "late": 3, "dot": 1, "tone": 2, "sample": 1 / 8000, "mono": 1.5, "talk": 2,
}  # fmt: skip


class Draw:
    """Draws messages; the same seed, the same message."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pick = self.random.choice

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def part(self) -> float:
        return self.pick((0, 0, 0.1, 0.25, 1 / 3, 0.5, 0.8))

    def area(self) -> dict[str, float]:
        x, y = self.part(), self.part()
        sizes = (0.001, 0.05, 0.2, 0.5, 1)
        return {
            "x": x, "y": y, "width": min(self.pick(sizes), 1 - x),
            "height": min(self.pick(sizes), 1 - y),
        }  # fmt: skip

    def time(self, low: float, high: float) -> Any:
        number = self.random.uniform(low, high)
        return self.pick((number, round(number, 2), f"{max(1, round(number * 1001))}/1001"))

    def params(self) -> dict[str, Any]:
        """A whole message's params."""
        output = self.output()
        format = output["format"]
        seen = format in ("mp4", "webm", "gif")
        tracks = [{"kind": "video", "items": self.items(5)}]
        while self.maybe(0.45):
            tracks.append({"kind": "video", "items": self.items(3)})
        while self.maybe(0.4):
            track: dict[str, Any] = {"kind": "audio", "items": self.sounds(), "volume": self.pick((0, 0.5, 1, 10))}
            if self.maybe(0.4):
                track["duck"] = {"by": ["main"]}
            tracks.append(track)
        subtitles = []
        if seen and self.maybe(0.3):
            mode = self.pick(("burn", "soft")) if format != "gif" else "burn"
            subtitles = [{"asset": self.pick(("words", "none")), "mode": mode}]
        return {"version": 1, "output": output, "timeline": {"tracks": tracks, "subtitles": subtitles}}

    def output(self) -> dict[str, Any]:
        """What is made: small, and of any rate."""
        format = self.pick(("mp4",) * 5 + ("webm", "gif", "mp3", "m4a", "wav"))
        output: dict[str, Any] = {"format": format, "fps": self.pick(RATES[:-2] if format == "gif" else RATES)}
        if format in ("mp4", "webm", "gif"):
            output |= {"width": 2 * self.random.randint(8, 50), "height": 2 * self.random.randint(8, 50)}
            if self.maybe(0.2):
                output["poster"] = self.time(0, 0.6)
        if format in ("mp4", "webm"):
            output["video"] = {"preset": "ultrafast"}
            if format == "mp4" and self.maybe(0.2):
                output["video"]["codec"] = "hevc"
            if self.maybe(0.15):
                output["audio"] = None
        if format != "gif" and "audio" not in output:
            output["sample_rate"] = self.pick((16_000, 48_000) if format == "webm" else (16_000, 44_100, 48_000))
            if self.maybe(0.2):
                output["loudness"] = self.pick(({}, {"i": -5, "tp": -9, "lra": 1}))
        if self.maybe(0.25):
            output["range"] = {"start": self.time(0, 0.4), **({"end": self.time(0.5, 1)} if self.maybe(0.6) else {})}
        return output

    def items(self, most: int) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for _ in range(self.random.randint(1, most)):
            before = made[-1] if made else {"type": "gap"}
            item = self.item()
            if before["type"] != "gap" and item["type"] != "gap" and self.maybe(0.5):
                item["transition"] = {
                    "type": self.pick(TRANSITIONS),
                    "duration": self.pick((0.04, 0.1, 0.2, 1 / 3, {"f": 1}, {"f": 3})),
                }
            made.append(item)
        if all(item["type"] == "gap" for item in made):
            made.append({"type": "color", "color": "#80ff0080", "duration": 0.5})
        return made

    def item(self) -> dict[str, Any]:
        """Any item of a video track, without its transition."""
        kind = self.pick(("video", "video", "video", "image", "image", "color", "text", "gap"))
        if kind == "gap":
            return {"type": "gap", "duration": self.time(0.01, 0.5)}
        item: dict[str, Any] = {"type": kind, "duration": self.time(0.2, 1)}
        if self.maybe(0.3):
            item["box"] = self.area()
        if self.maybe(0.25):
            item["opacity"] = self.pick((0, 1e-9, 0.5, 1))
        for fade in ("fade_in", "fade_out"):
            if self.maybe(0.2):
                item[fade] = self.time(0.01, 0.3)
        if kind == "color":
            return item | {"color": self.pick(("#ff0000", "#00ff0080", "#00000000"))}
        if kind == "text":
            texts = ("a", "\u00c4\u200d\u6587 {x}", " ", "\u05e9\u05dc\u05d5\u05dd abc")
            return item | {"text": self.pick(texts), "size": self.pick((0.1, 0.3))}
        return item | self._picture(kind)

    def _picture(self, kind: str) -> dict[str, Any]:
        more: dict[str, Any] = {}
        if self.maybe(0.5):
            more["fit"] = self.pick(("contain", "cover", "stretch", "blur", "none"))
        if self.maybe(0.3):
            more["crop"] = self.area()
        if self.maybe(0.3):
            more["rotate"] = self.pick((90, 180, 270))
        if self.maybe(0.3):
            more["flip"] = self.pick(("horizontal", "vertical", "both"))
        if kind == "image":
            if self.maybe(0.4):
                more["ken_burns"] = {"from": self.area(), "to": self.area()}
            return more | {"asset": self.pick(PICTURES)}
        more["asset"] = self.pick(FILMS)
        self._part(more, "pad", "freeze")
        return more

    def _part(self, item: dict[str, Any], key: str, value: Any) -> None:
        length = LENGTHS[item["asset"]]
        if self.maybe(0.5):
            item["in"] = self.time(0, length * 0.99)
        if self.maybe(0.3):
            item["speed"] = self.pick((0.1, "1/3", 0.5, 1.25, 2, 10))
        if self.maybe(0.2):
            item["reverse"] = True
        if self.maybe(0.2):
            item["duration"] = "auto"
        else:
            item[key] = value
        if self.maybe(0.3):
            item["volume"] = self.pick((0, 0.5, 10, [[0, 0], [0.1, 1], [0.4, 0.2]]))

    def sounds(self) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for _ in range(self.random.randint(1, 3)):
            if self.maybe(0.15):
                made.append({"type": "gap", "duration": self.time(0.01, 0.5)})
                continue
            item: dict[str, Any] = {
                "type": "audio", "asset": self.pick(SOUNDS), "duration": self.time(0.2, 1),
            }  # fmt: skip
            self._part(item, "loop", True)
            if "loop" not in item:
                item["asset"] = "tone"
                item["in"] = 0
            if made and made[-1]["type"] != "gap" and self.maybe(0.5):
                item["transition"] = {"duration": 0.1, "audio_curve": self.pick(("tri", "exp", "losi"))}
            made.append(item)
        return made
