"""`audio.transcribe`: writes down what is said in a recording, and when."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from handlers.audio.languages import Language
from handlers.audio.listening import Listening
from handlers.audio.speech import Request, Segment, Speech, hear
from handlers.audio.windows import Cutting
from handlers.declaration import Context, Handler, Job, Media, One, Params, Result, TextKind
from handlers.errors import InvalidInput, Problem
from handlers.media import captions
from handlers.media.captions import Cue
from handlers.media.probe import probe
from handlers.media.sound import decode
from handlers.models import name_of
from handlers.models.whisper import Task, WhisperProcessor, prompt_tokens

ROLE = "transcribe"
_AUDIO = "inputs/audio"

#: What a row holds; the output `transcript` has all.
_SEGMENTS_IN_ROW = 1000
#: What is searched has a bound, which a day of talk does not reach.
_MOST_CHARACTERS = 1_000_000
_SEGMENTS_SEARCHED = 50_000

Temperature = Annotated[float, Field(ge=0, le=1)]


class TranscribeParams(Params):
    """How the recording is written down."""

    language: Language | None = Field(
        default=None, description="Code of the language that is spoken; found out from the first speech where left out."
    )
    task: Task = Field(
        default="transcribe",
        description="`transcribe` writes what is said in its own language, `translate` in English. Turbo checkpoints"
        " were not trained to translate: they write the spoken language; name a checkpoint like whisper-large-v3.",
    )
    prompt: str | None = Field(
        default=None,
        max_length=2000,
        description="A text as it might have gone before, in the spoken language: names and terms are then spelt as in"
        " it. At most 223 of the model's tokens.",
    )
    words: bool = Field(default=False, description="Says for each word when it is said, too.")
    vad: bool = Field(
        default=True,
        description="Leaves out what is no speech, by silero-vad: models invent texts for silence and music. `false`"
        " where speech is taken for noise: everything is then given to the model.",
    )
    temperatures: tuple[Temperature, ...] = Field(
        default=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        min_length=1,
        max_length=6,
        description="Tried in this order on each half minute until its text is neither repetitive nor a guess. 0 takes"
        " the likeliest word each time, others sample.",
    )
    beam_size: int | None = Field(
        default=None,
        ge=1,
        le=10,
        description="At temperature 0, how many texts are followed at once: slower, and a little better.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=1 << 63,
        description="Of the sampling: the same seed, recording and params give the same transcript. Made from the job's"
        " id where it is left out.",
    )
    checkpoint: str | None = Field(
        default=None,
        max_length=200,
        description="Name of a Whisper checkpoint of the catalogue; the deployment's default where it is left out.",
    )


class TranscriptWord(Result):
    """One word."""

    text: str
    start: float = Field(description="Seconds from the beginning.")
    end: float = Field(description="Seconds from the beginning.")
    probability: float = Field(description="How sure the model is, 0 to 1.")


class TranscriptSegment(Result):
    """Some words in one breath."""

    start: float = Field(description="Seconds from the beginning.")
    end: float = Field(description="Seconds from the beginning.")
    text: str
    words: list[TranscriptWord] | None = Field(default=None, description="Only with `words`.")
    avg_logprob: float = Field(description="Mean log-probability of the tokens, at most 0: greater is surer.")
    no_speech_prob: float = Field(description="How likely nobody speaks here, 0 to 1.")
    compression_ratio: float = Field(description="Above 2.4 the text repeats itself.")
    temperature: float = Field(description="The temperature that it was written at.")


class TranscribeResult(Result):
    """What was said."""

    language: str | None = Field(description="Code of the spoken language; null where nobody speaks.")
    language_probability: float | None = Field(description="How sure it is; null where the message named it.")
    duration_s: float = Field(description="Length of the sound in seconds.")
    speech_s: float = Field(description="Seconds of it in which somebody speaks.")
    text: str = Field(description="The whole text; empty where nobody speaks.")
    segments: list[TranscriptSegment] = Field(
        description="Its parts in their order: in the job's row the first 1,000, all in the output `transcript`."
    )
    segment_count: int = Field(description="How many there are.")
    damaged: bool = Field(description="Whether parts of the sound could not be decoded, or it is cut off.")
    checkpoint: str = Field(description="Name of the checkpoint that wrote it.")


class Transcribe(Handler[TranscribeParams, TranscribeResult]):
    """Writes down the speech of a recording or a film, as JSON, SRT and WebVTT; the text becomes searchable."""

    type = "audio.transcribe"
    version = 1
    inputs = {"audio": One(Media.AUDIO)}
    time_limit_s = 6 * 3600.0

    def checkpoints(self, params: TranscribeParams) -> frozenset[str]:
        return frozenset({params.checkpoint or ROLE})

    def samples(self, params: TranscribeParams) -> bool:
        return any(temperature > 0 for temperature in params.temperatures)

    async def run(self, job: Job[TranscribeParams], ctx: Context) -> TranscribeResult:
        params, path = job.params, job.one("audio")
        checkpoint = params.checkpoint or ROLE
        facts = await probe(ctx, path, _AUDIO)
        ctx.probe(_AUDIO, facts.as_dict())
        if not facts.audio:
            raise InvalidInput(f"{_AUDIO} has no sound, only pictures: send a file with a sound track")
        request = await ctx.prepare(_request, checkpoint, params, checkpoint, job.seed)
        listening = Listening(Cutting(keep_all=not params.vad))
        async with decode(ctx, path, facts, _AUDIO) as sound:
            speech = await hear(ctx, sound, listening, request, expected_s=float(facts.duration))
        whole = _result(speech, params.words, sound.damaged, await ctx.prepare(name_of, checkpoint))
        await _write(ctx, whole)
        if whole.text:
            ctx.text(
                TextKind.TRANSCRIPT,
                whole.text[:_MOST_CHARACTERS],
                of=_AUDIO,
                language="en" if params.task == "translate" else whole.language,
                segments=[
                    {"start": segment.start, "end": segment.end, "text": segment.text}
                    for segment in whole.segments[:_SEGMENTS_SEARCHED]
                ],
            )
        in_row = {"text": whole.text[:_MOST_CHARACTERS], "segments": whole.segments[:_SEGMENTS_IN_ROW]}
        return whole.model_copy(update=in_row)


def _request(processor: WhisperProcessor, params: TranscribeParams, checkpoint: str, seed: int) -> Request:
    """The params as this checkpoint takes them. Raises InvalidInput where it cannot."""
    problems: list[Problem] = []
    known = processor.languages
    if params.language is not None and params.language not in known:
        problems.append(
            Problem(
                "/params/language",
                "language_unknown",
                f"{params.language!r} is not known to the checkpoint {processor.name}",
                "name a checkpoint that knows it" + (": it knows English alone" if len(known) == 1 else ""),
            )
        )
    if params.task == "translate" and not processor.multilingual:
        problems.append(
            Problem(
                "/params/task",
                "task_unknown",
                f"the checkpoint {processor.name} knows English alone and does not translate",
                "name a checkpoint of several languages",
            )
        )
    prompt = prompt_tokens(processor, params.prompt or "")
    if len(prompt) > processor.max_prompt:
        problems.append(
            Problem(
                "/params/prompt",
                "prompt_too_long",
                f"has {len(prompt)} tokens where the checkpoint {processor.name} takes {processor.max_prompt}",
                "shorten it",
            )
        )
    if problems:
        raise InvalidInput(problems=problems)
    return Request(
        checkpoint=checkpoint,
        language=params.language or (None if processor.multilingual else known[0]),
        task=params.task,
        prompt=prompt,
        temperatures=params.temperatures,
        beam_size=params.beam_size,
        words=params.words,
        seed=seed,
    )


def _result(speech: Speech, with_words: bool, damaged: bool, checkpoint: str) -> TranscribeResult:
    segments = [_segment(segment, with_words) for segment in speech.segments]
    probability = speech.language_probability
    return TranscribeResult(
        language=speech.language,
        language_probability=None if probability is None else round(probability, 4),
        duration_s=round(speech.duration_s, 3),
        speech_s=round(speech.speech_s, 3),
        text="".join(segment.text for segment in speech.segments).strip(),
        segments=segments,
        segment_count=len(segments),
        damaged=damaged,
        checkpoint=checkpoint,
    )


def _segment(segment: Segment, with_words: bool) -> TranscriptSegment:
    words = [
        TranscriptWord(text=word.text, start=word.start, end=word.end, probability=word.probability)
        for word in segment.words
    ]
    return TranscriptSegment(
        start=segment.start,
        end=segment.end,
        text=segment.text.strip(),
        words=words if with_words else None,
        avg_logprob=round(segment.decoded.avg_logprob, 4),
        no_speech_prob=round(segment.decoded.no_speech_prob, 4),
        compression_ratio=round(segment.decoded.compression_ratio, 3),
        temperature=segment.decoded.temperature,
    )


async def _write(ctx: Context, whole: TranscribeResult) -> None:
    cues = _cues(whole.segments)
    json = ctx.output("transcript", ".json", "application/json")
    await ctx.cpu(lambda: json.write_bytes(whole.model_dump_json(indent=1).encode() + b"\n"))
    srt = ctx.output("srt", ".srt", "application/x-subrip")
    await ctx.cpu(lambda: srt.write_text(captions.to_srt(cues), encoding="utf-8"))
    vtt = ctx.output("vtt", ".vtt", "text/vtt")
    await ctx.cpu(lambda: vtt.write_text(captions.to_vtt(cues), encoding="utf-8"))


def _cues(segments: Sequence[TranscriptSegment]) -> list[Cue]:
    """Subtitles: a segment that is too much to be read at once becomes several."""
    return captions.wrapped(
        Cue(Fraction(round(s.start * 1000), 1000), Fraction(round(s.end * 1000), 1000), s.text)
        for s in segments
        if s.start < s.end
    )
