"""Sound: from an untrusted file to a stream of samples, whatever its container, rate and channels are.

    async with decode(ctx, path, facts, "inputs/audio") as sound:
        async for block in sound:          # numpy float32, shape (16000,): one second; the last one is shorter
            ...
        sound.samples, sound.silenced, sound.damaged

Memory does not grow with the length. While the block is open a place for outside programs is held: no `probe`, `run`
or other `decode` inside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.declaration import Context
from handlers.errors import InvalidInput
from handlers.media.command import Running
from handlers.media.ffmpeg import FfmpegFailed, checked, guards, source, stream
from handlers.media.probe import AudioStream, MediaFacts
from handlers.media.refusal import cleaned

if TYPE_CHECKING:
    from numpy import ndarray

_BYTES = 4
#: What ffmpeg says, in one version or another, of parts that it leaves out.
_UNDECODED = ("Error while decoding", "Error submitting packet", "Invalid data found when processing input")
#: More channels than this have no layout that ffmpeg can mix by itself.
_MOST_CHANNELS_MIXED = 8


@dataclass(slots=True)
class Sound:
    """An async iterator of blocks of one second, and what was noticed while they came.

    Blocks are numpy arrays, float32, mono, within [-1, 1], finite, writable, of shape `(rate,)`; the last one is
    shorter. Sample `n` of all is at `n / rate` seconds of the file's own clock: where a film's sound starts late, or
    has a hole, there is silence.
    """

    rate: int
    #: Samples given so far.
    samples: int = 0
    #: Of those, samples that were not numbers, and are silence now.
    silenced: int = 0
    #: Whether parts of the file could not be decoded, or it ends before it says it does. Known after the last block.
    damaged: bool = False
    _blocks: AsyncIterator[Any] | None = None

    @property
    def seconds(self) -> float:
        """Length of what was given so far."""
        return self.samples / self.rate

    def __aiter__(self) -> AsyncIterator[ndarray]:
        assert self._blocks is not None
        return self._blocks


@asynccontextmanager
async def decode(
    ctx: Context, path: Path, facts: MediaFacts, of: str, *, rate: int = 16_000, track: int = 0
) -> AsyncIterator[Sound]:
    """Decodes a sound stream of a file that `probe` found good (`facts`), mixed to mono, at `rate` samples a second.

    - All channels are heard in the mix (but a subwoofer's), and none is louder in it than alone.
    - Samples that are not finite become silence and are counted; beyond full scale they are clipped.
    - A file that is cut off or has damaged parts gives what can be decoded, and `damaged` says so.

    `track` counts the sound streams. `of` is the pointer that errors name. Raises InvalidInput where there is no such
    stream, where nothing can be decoded, or where it goes on beyond `limits.max_seconds`; what `stream` raises.
    """
    if track >= len(facts.audio):
        raise InvalidInput(f"{of} has no sound: send a file with a sound track")
    chosen = facts.audio[track]
    arguments = [
        *guards(ctx.limits), "-vn", "-sn", "-dn", "-i", source(path),
        "-map", f"0:{chosen.index}", "-af", ",".join(_filters(chosen, rate)), "-f", "f32le", "pipe:1",
    ]  # fmt: skip
    sound = Sound(rate=rate)
    async with stream(ctx, arguments) as (chunks, running):
        decoding = _Decoding(sound, chunks, running, path, of, ctx.limits.max_seconds)
        sound._blocks = _blocks(decoding, round(chosen.start * rate), facts.damaged)
        yield sound


def _filters(chosen: AudioStream, rate: int) -> list[str]:
    mixed = []
    if chosen.channels > 1 and (chosen.layout is None or chosen.channels > _MOST_CHANNELS_MIXED):
        parts = "+".join(f"{1 / chosen.channels:.6f}*c{number}" for number in range(chosen.channels))
        mixed = [f"pan=mono|c0={parts}"]
    # `rematrix_maxval`: floating point would else be mixed to beyond full scale.
    resampled = f"aresample={rate}:rematrix_maxval=1.0"
    # `async=1`: silence where the file's clock says that something is missing. Of what is mono and slow already: the
    # silence of a whole hole is in memory at once. Not `first_pts=0`: ffmpeg makes these filters anew where the rate
    # or the channels change midway, and each time that would be the whole time before once more, in silence.
    return [*mixed, resampled, "aformat=sample_fmts=flt:channel_layouts=mono", f"aresample={rate}:async=1"]


@dataclass(frozen=True, slots=True)
class _Decoding:
    sound: Sound
    chunks: AsyncIterator[bytes]
    running: Running
    path: Path
    of: str
    max_seconds: float


async def _blocks(decoding: _Decoding, before: int, cut_off: bool) -> AsyncIterator[Any]:
    """`before`: samples of silence at the beginning."""
    sound, of = decoding.sound, decoding.of
    size = sound.rate * _BYTES
    buffer = bytearray()
    decoded = False
    async for chunk in decoding.chunks:
        if not decoded:
            decoded = True
            for _ in range(before // sound.rate):
                yield _clean(sound, bytes(size))
            buffer += bytes(before % sound.rate * _BYTES)
        buffer += chunk
        while len(buffer) >= size:
            yield _clean(sound, bytes(buffer[:size]))
            del buffer[:size]
        if sound.seconds > decoding.max_seconds + 1:
            raise InvalidInput(
                f"{of} goes on for more than the limit of {decoding.max_seconds:,.0f} seconds: send a shorter one"
            )
    if len(buffer) >= _BYTES:
        yield _clean(sound, bytes(buffer[: len(buffer) // _BYTES * _BYTES]))
    ended = await decoding.running.ended()
    sound.damaged = cut_off or any(sign in ended.stderr for sign in _UNDECODED)
    try:
        checked(ended)
    except FfmpegFailed as error:
        sound.damaged = True
        if not sound.samples:
            reason = cleaned(error.stderr, decoding.path)
            raise InvalidInput(f"{of} cannot be decoded ({reason}): save it anew and upload it again") from error
    if not sound.samples:
        raise InvalidInput(f"{of} has a sound track without a single sample: record it again")


def _clean(sound: Sound, data: bytes) -> Any:
    import numpy

    block = numpy.frombuffer(data, dtype="<f4").astype(numpy.float32)
    bad = ~numpy.isfinite(block)
    if count := int(bad.sum()):
        block[bad] = 0.0
        sound.silenced += count
    numpy.clip(block, -1.0, 1.0, out=block)
    sound.samples += len(block)
    return block
