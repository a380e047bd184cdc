"""Files that would have ffmpeg read others, or take the machine: refused, and nothing of the canary is seen.

What protects is proven to protect: each list that is followed without the guards is one that is not with them.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from handlers.errors import InvalidInput
from handlers.media.ffmpeg import guards, source
from handlers.media.probe import AudioStream, MediaFacts, probe
from handlers.media.sound import decode
from tests.handlers import media_material as material
from tests.handlers.conftest import LIMITS, DirectContext

pytestmark = pytest.mark.handlers

SECRET = "CANARY-7f3a"


@dataclass
class Web:
    """A server that notes what it is asked for."""

    address: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of other people: a film with a secret in its metadata, and a text."""
    folder = tmp_path_factory.mktemp("others")
    material.clip(folder / "canary.ts", 0.4, options=["-metadata", f"service_name={SECRET}", "-mpegts_flags", "latm"])
    material.sound(folder / "canary.wav", 0.4, 16_000)
    (folder / "canary.txt").write_text(f"{SECRET}\n")
    return folder


@pytest.fixture(scope="module")
def web(canary: Path) -> Iterator[Web]:
    seen = Web("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.asked.append(self.path)
            data = (canary / "canary.ts").read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    seen.address = f"http://127.0.0.1:{server.server_port}/canary.ts"
    yield seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def direct(tmp_path: Path) -> DirectContext:
    return DirectContext({}, tmp_path)


def decoded_bytes(options: list[str], path: Path) -> int:
    """How much sound ffmpeg gives of a file, and with `-f` also where the file would not be taken for what it is."""
    argv = ["ffmpeg", "-nostdin", "-loglevel", "quiet", *options, "-i", source(path), "-vn", "-f", "s16le", "pipe:1"]
    return len(subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False).stdout)


#: Name of the list -> how it is written for a file, and the demuxer that reads it.
LISTS: dict[str, tuple[Callable[[Path, str], Path], str]] = {
    "hls": (material.hls, "hls"),
    "ffconcat": (material.ffconcat, "concat"),
    "dash": (material.dash, "dash"),
}


@pytest.mark.parametrize("kind", ["hls", "ffconcat"])
async def test_a_list_named_mp4_is_followed_without_the_guards_and_not_with_them(
    kind: str, canary: Path, direct: DirectContext, tmp_path: Path
) -> None:
    write, demuxer = LISTS[kind]
    # Beside it, so that also the demuxers which refuse absolute names follow it.
    beside = tmp_path / "canary.ts"
    beside.write_bytes((canary / "canary.ts").read_bytes())
    path = write(tmp_path / "holiday.mp4", "canary.ts")
    assert decoded_bytes(["-f", demuxer], path) > 10_000
    assert decoded_bytes([*guards(LIMITS), "-f", demuxer], path) == 0
    assert decoded_bytes(guards(LIMITS), path) == 0
    # All but the formats is not enough: that one is what protects here.
    others = guards(LIMITS)
    at = others.index("-format_whitelist")
    assert decoded_bytes([*others[:at], *others[at + 2 :], "-f", demuxer], path) > 10_000


async def test_a_playlist_of_addresses_is_followed_without_the_guards_and_not_with_them(
    web: Web, tmp_path: Path
) -> None:
    path = material.hls(tmp_path / "holiday.mp4", web.address)
    web.asked.clear()
    assert decoded_bytes(["-f", "hls", "-protocol_whitelist", "file,http,tcp"], path) > 10_000
    assert web.asked
    web.asked.clear()
    assert decoded_bytes([*guards(LIMITS), "-f", "hls"], path) == decoded_bytes(guards(LIMITS), path) == 0
    assert web.asked == []


def test_the_protocols_alone_keep_an_address_from_being_opened(web: Web) -> None:
    argv = ["ffprobe", "-loglevel", "error", *guards(LIMITS), "-i", web.address]
    web.asked.clear()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert "not on whitelist 'file'" in done.stderr
    assert web.asked == []


async def test_samples_that_lie_in_another_file_are_not_fetched(direct: DirectContext, tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"\x55\x33" * 50_000)
    path = material.elsewhere(tmp_path / "holiday.mov", secret)

    def decoded(*options: str) -> bytes:
        argv = ["ffmpeg", "-nostdin", "-loglevel", "error", *options, "-i", source(path), "-f", "s16le", "pipe:1"]
        return subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False).stdout

    assert set(decoded("-enable_drefs", "1", "-use_absolute_path", "1")) == {0x55, 0x33}
    assert decoded(*guards(LIMITS)) == b""
    with pytest.raises(InvalidInput, match="neither sound nor film in it"):
        await probe(direct, path, "inputs/media")


@pytest.mark.parametrize("write", [material.hls, material.ffconcat, material.dash, material.pls, material.svg])
@pytest.mark.parametrize("target", ["canary.ts", "canary.txt", "http"])
async def test_a_list_is_refused_in_words_and_what_it_names_is_not_opened(
    write: Callable[[Path, str], Path], target: str, canary: Path, web: Web, direct: DirectContext, tmp_path: Path
) -> None:
    address = web.address if target == "http" else str(canary / target)
    path = write(tmp_path / "holiday.mp4", address)
    web.asked.clear()
    with pytest.raises(InvalidInput, match=r"^inputs/media is not sound or film but ") as caught:
        await probe(direct, path, "inputs/media")
    assert direct.programs == 0
    assert web.asked == []
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf", b"\n\n"])
@pytest.mark.parametrize("kind", ["hls", "ffconcat", "dash", "sdp"])
async def test_whoever_decodes_a_list_without_a_probe_gets_nothing_either(
    kind: str, prefix: bytes, canary: Path, direct: DirectContext, tmp_path: Path
) -> None:
    path = tmp_path / "holiday.mp4"
    material.sdp(path) if kind == "sdp" else LISTS[kind][0](path, str(canary / "canary.ts"))
    path.write_bytes(prefix + path.read_bytes())
    stream = AudioStream(0, "aac", 16_000, 1, None, Fraction(0))
    facts = MediaFacts("audio/mp4", "mov", Fraction(1), None, (stream,))
    with pytest.raises(InvalidInput, match="inputs/media cannot be decoded") as caught:
        async with decode(direct, path, facts, "inputs/media") as sound:
            assert [block async for block in sound] == []
    assert SECRET not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


async def test_subtitles_inside_a_film_read_nothing(canary: Path, direct: DirectContext, tmp_path: Path) -> None:
    # ASS may name fonts and pictures; here it is a stream that nobody decodes.
    script = tmp_path / "a.ass"
    script.write_text(
        f"[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Start, End, Text\n"
        f"Dialogue: 0:00:00.00,0:00:01.00,{{\\fn{canary}/canary.txt}}x\n"
    )
    film = tmp_path / "a.mkv"
    material.make("-f", "lavfi", "-t", "0.4", "-i", "sine=r=16000", "-i", script, "-c:s", "copy", film)
    facts = await probe(direct, film, "inputs/media")
    assert SECRET not in str(facts.as_dict())
    with pytest.raises(InvalidInput, match="subtitles"):
        await probe(direct, script, "inputs/media")


async def test_a_frame_of_eighty_million_pixels_behind_a_header_of_four_thousand_is_refused(
    direct: DirectContext, tmp_path: Path
) -> None:
    path = material.frame_bomb(tmp_path / "bomb.mkv")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(InvalidInput, match=r"more than the limit of 50,000,000 pixels a frame"):
        await probe(direct, path, "inputs/media")


async def test_a_thousand_streams_are_refused(direct: DirectContext, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="more than the limit of 32 streams"):
        await probe(direct, material.many_streams(tmp_path / "a.mkv", 200), "inputs/media")
    assert len((await probe(direct, material.many_streams(tmp_path / "b.mkv", 32), "inputs/media")).audio) == 32


async def test_a_clock_that_jumps_by_days_is_refused(direct: DirectContext, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1,000,000 seconds long, more than the limit of 43,200"):
        await probe(direct, material.late(tmp_path / "a.mkv", 1e6), "inputs/media")


@pytest.mark.parametrize(("hole_s", "count"), [(9 * 3600, 1), (900, 5)])
async def test_hours_of_nothing_between_parts_of_sound_are_refused(
    hole_s: float, count: int, direct: DirectContext, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="seconds without any sound between its parts, more than 3,600"):
        await probe(direct, material.with_holes(tmp_path / "a.mkv", hole_s, count), "inputs/media")


async def outcome(direct: DirectContext, path: Path) -> str:
    """`read`, or the words of the refusal; any other error goes up."""
    try:
        facts = await probe(direct, path, "inputs/media")
        if facts.audio:
            async with decode(direct, path, facts, "inputs/media") as sound:
                async for block in sound:
                    assert abs(block).max() <= 1
    except InvalidInput as error:
        return error.message
    return "read"


async def test_random_damage_ends_in_facts_or_a_refusal_and_nothing_else(direct: DirectContext, tmp_path: Path) -> None:
    good = material.clip(tmp_path / "a.mp4", 0.4, options=["-movflags", "+faststart"]).read_bytes()
    chance = random.Random(5)
    outcomes = []
    for _ in range(6):
        data = bytearray(good)
        for _ in range(40):
            data[chance.randrange(len(data) // 8)] = chance.randrange(256)  # mostly in the index
        path = tmp_path / "damaged"
        path.write_bytes(data)
        outcomes.append(await outcome(direct, path))
    assert all(said == "read" or said.startswith("inputs/media ") for said in outcomes)
    assert not any(str(tmp_path) in said for said in outcomes)
    assert len(set(outcomes)) > 1
