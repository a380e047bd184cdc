"""`audio.transcribe`: what is heard, and when."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from pydantic import ValidationError

from handlers.audio.languages import LANGUAGES
from handlers.audio.transcribe import Transcribe, TranscribeParams
from handlers.declaration import TextKind
from handlers.errors import InvalidInput
from handlers.media import captions
from handlers.models.whisper import WhisperModel
from handlers.models.whisper_decode import Decoded, DecodeSample
from tests.handlers.conftest import job
from tests.handlers.transcribing import Told, says, transcribe
from tests.handlers.voices import encoded, music, noise, silence, speech

pytestmark = pytest.mark.handlers


async def test_lines_stand_where_they_were_said(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    path = encoded(tmp_path / "talk.wav", numpy.concatenate([silence(4), speech(3), silence(9), speech(2), silence(3)]))
    # Two pieces follow each other in the window: 0.4 s before and behind each of them are kept.
    hearing.answer = lambda sample: says(whisper, 0.42, " one two", 3.4, 4.3, " three", 6.2)
    result = await transcribe(hearing, path, language="en")
    assert [segment.text for segment in result.segments] == ["one two", "three"]
    times = [time for segment in result.segments for time in (segment.start, segment.end)]
    assert times == pytest.approx([4, 7, 16, 18], abs=0.2)
    assert (result.text, result.segment_count, result.duration_s) == ("one two three", 2, 21)
    assert result.speech_s == pytest.approx(5, abs=0.2)
    assert (result.language, result.language_probability, result.checkpoint) == ("en", None, "tiny-whisper")
    assert json.loads(hearing.outputs["transcript"].read_text()) == result.model_dump(mode="json")
    assert hearing.outputs["srt"].read_text().startswith("1\n00:00:0")
    assert hearing.outputs["srt"].read_text().count(" --> ") == 2
    assert hearing.outputs["vtt"].read_text().startswith("WEBVTT\n")
    assert hearing.texts == [(TextKind.TRANSCRIPT, "one two three", "inputs/audio", "en")]
    assert hearing.segments == [[{"start": s.start, "end": s.end, "text": s.text} for s in result.segments]]
    assert hearing.probes["inputs/audio"]["container"] == "wav"
    assert hearing.fractions == sorted(hearing.fractions)


async def test_subtitles_have_two_short_lines_at_a_time(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    said = " and so it went on for a long time, word after word after word" * 2
    hearing.answer = lambda sample: says(whisper, 0.42, said, 6.2)
    result = await transcribe(hearing, encoded(tmp_path / "talk.wav", speech(7)), language="en")
    cues = captions.parse(hearing.outputs["srt"].read_bytes(), "srt")
    assert len(result.segments) == 1
    assert len(cues) > 1
    assert all(len(line) <= 42 for cue in cues for line in cue.text.split("\n"))
    assert all(cue.text.count("\n") <= 1 for cue in cues)
    assert " ".join(cue.text.replace("\n", " ") for cue in cues) == said.strip()
    assert captions.parse(hearing.outputs["vtt"].read_bytes(), "vtt") == cues


@pytest.mark.parametrize("sound", [silence(40), music(40), noise(40)], ids=["silence", "music", "noise"])
async def test_where_nobody_speaks_there_is_no_text_and_the_job_succeeds(
    hearing: Told, tmp_path: Path, sound: Any
) -> None:
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", sound), words=True)
    assert (result.text, result.segments, result.language, result.speech_s) == ("", [], None, 0)
    assert hearing.keys == []
    assert hearing.texts == []
    assert hearing.outputs["srt"].read_text() == ""
    assert hearing.outputs["vtt"].read_text() == "WEBVTT\n"
    assert json.loads(hearing.outputs["transcript"].read_text())["segments"] == []


async def test_a_tiny_whisper_writes_words_inside_of_their_lines(hearing: Told, tmp_path: Path) -> None:
    path = encoded(tmp_path / "talk.wav", numpy.concatenate([speech(20), silence(3), speech(25, seed=1), silence(1)]))
    result = await transcribe(hearing, path, words=True, temperatures=[0.0, 1.0])
    assert result.segments
    assert result.language in LANGUAGES
    assert 0 < (result.language_probability or 0) <= 1
    for before, after in zip(result.segments, result.segments[1:], strict=False):
        assert before.end <= after.start
    for segment in result.segments:
        assert segment.words
        edges = [segment.start, *(edge for word in segment.words for edge in (word.start, word.end)), segment.end]
        assert edges == sorted(edges)
        assert all(0 <= word.probability <= 1 for word in segment.words)
    assert result.segments[-1].end <= result.duration_s


async def test_the_same_seed_gives_the_same_transcript(hearing: Told, tmp_path: Path) -> None:
    path = encoded(tmp_path / "talk.wav", speech(8))

    async def text(seed: int) -> str:
        made = job(Transcribe(), {"audio": path}, seed=seed, language="en", temperatures=[1.0])
        return (await Transcribe().run(made, hearing)).text

    assert await text(1) == await text(1)
    assert len({await text(seed) for seed in range(1, 4)}) > 1


async def test_only_a_window_that_needs_it_is_decoded_again(
    hearing: Told, whisper: WhisperModel, tmp_path: Path
) -> None:
    path = encoded(tmp_path / "talk.wav", numpy.concatenate([speech(27), silence(1), speech(20, seed=4)]))

    def answer(sample: DecodeSample) -> Decoded:
        sure = sample.seed[1] >> 16 == 0 or sample.temperature >= 0.4
        return says(whisper, 0.0, " word", 1.0, avg_logprob=-0.3 if sure else -2.0, temperature=sample.temperature)

    hearing.answer = answer
    result = await transcribe(hearing, path, language="en")
    assert sorted(sample.temperature for sample in hearing.samples) == [0.0, 0.0, 0.2, 0.4]
    assert [segment.temperature for segment in result.segments] == [0.0, 0.4]
    assert len({sample.seed for sample in hearing.samples}) == 4


async def test_a_guess_about_silence_is_no_text(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " Thank you.", 2.0, avg_logprob=-1.4, no_speech_prob=0.8)
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", speech(5)), language="en")
    assert (result.text, len(hearing.samples)) == ("", 1)


async def test_a_text_too_long_for_one_window_is_written_in_parts(
    hearing: Told, whisper: WhisperModel, tmp_path: Path
) -> None:
    def answer(sample: DecodeSample) -> Decoded:
        first = (sample.seed[1] >> 8) & 0xFF == 0
        if first:
            return says(whisper, 0.0, " much", 6.0, 6.0, " rest", " of", cut_off=True)
        return says(whisper, 0.5, " rest of it", 2.0)

    hearing.answer = answer
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", speech(10)), language="en")
    assert [(s.start, s.end) for s in result.segments] == [(0, 6), (6.5, 8)]
    assert result.segments[1].text == "rest of it"


async def test_without_vad_everything_is_given_to_the_model(
    hearing: Told, whisper: WhisperModel, tmp_path: Path
) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " la", 1.0)
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", music(65)), language="en", vad=False)
    assert [segment.text for segment in result.segments] == ["la", "la", "la"]
    assert result.speech_s == 0


async def test_the_language_is_that_of_most_speech(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    sound = numpy.concatenate([speech(25), silence(1), speech(25, seed=1), silence(1), speech(20, seed=2)])
    guesses = [{"de": 0.6, "en": 0.4}, {"de": 0.4, "en": 0.6}, {"de": 0.9, "en": 0.1}]

    def answer(sample: DecodeSample) -> Decoded:
        return says(whisper, 0.0, " ja", 1.0, languages=guesses[sample.seed[1] >> 16] if not sample.language else None)

    hearing.answer = answer
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", sound))
    assert result.language == "de"
    assert result.language_probability == pytest.approx(0.62, abs=0.05)
    # The window that was taken for English is decoded again, the others are not.
    assert [(sample.language, sample.seed[1] >> 16) for sample in hearing.samples] == [
        (None, 0), (None, 1), (None, 2), ("de", 1),
    ]  # fmt: skip
    assert len(result.segments) == 3


async def test_only_the_first_windows_decide_the_language(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " ja", 1.0, languages=None if sample.language else {"de": 1.0})
    sound = numpy.concatenate([speech(27), silence(1.5)] * 6)
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", sound))
    assert sum(sample.language is None for sample in hearing.samples) == 4
    assert {sample.language for sample in hearing.samples[4:]} == {"de"}
    assert len(result.segments) == len(hearing.samples)


async def test_noise_does_not_decide_the_language(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    def answer(sample: DecodeSample) -> Decoded:
        if sample.seed[1] >> 16 < 5:
            return says(whisper, 0.0, " Thank you.", 2.0, avg_logprob=-1.4, no_speech_prob=0.9, languages={"cy": 0.4})
        return says(whisper, 0.0, " ja", 1.0, languages=None if sample.language else {"de": 0.9, "cy": 0.1})

    hearing.answer = answer
    sound = encoded(tmp_path / "a.wav", noise(190))
    result = await transcribe(hearing, sound, vad=False)
    assert (result.language, result.text) == ("de", "ja ja ja")
    # The first four windows say nothing, nor does one of the next four.
    assert all(sample.language is None for sample in hearing.samples)
    assert result.language_probability == 0.9


async def test_without_a_word_there_is_no_language(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    hearing.answer = lambda sample: says(
        whisper, 0.0, " Thank you.", 2.0, avg_logprob=-1.4, no_speech_prob=0.9, languages={"cy": 0.4}
    )
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", noise(40)), vad=False)
    assert (result.text, result.language, result.language_probability) == ("", None, None)
    assert len(hearing.samples) == 2


async def test_a_translation_is_english(hearing: Told, whisper: WhisperModel, tmp_path: Path) -> None:
    hearing.answer = lambda sample: says(whisper, 0.0, " yes", 1.0)
    result = await transcribe(hearing, encoded(tmp_path / "a.wav", speech(3)), language="ja", task="translate")
    assert result.language == "ja"
    assert hearing.texts[0][3] == "en"
    assert {(sample.language, sample.task) for sample in hearing.samples} == {("ja", "translate")}


async def test_jobs_that_must_not_share_a_batch_have_other_keys(hearing: Told, tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.wav", speech(2))
    for params in ({}, {"prompt": "sea"}, {"beam_size": 2}, {"temperatures": [0.5]}, {"language": "de"}):
        await transcribe(hearing, path, **{"language": "en", "temperatures": [0.0]} | params)
    assert len(set(hearing.keys)) == 4


async def test_a_long_transcript_is_whole_in_its_file_and_not_in_the_row(
    hearing: Told, whisper: WhisperModel, tmp_path: Path
) -> None:
    parts = [part for n in range(60) for part in (n * 0.4, " no", n * 0.4 + 0.4)]
    hearing.answer = lambda sample: says(whisper, *parts)
    path = encoded(tmp_path / "a.wav", numpy.concatenate([speech(27.5), silence(1.5)] * 20))
    result = await transcribe(hearing, path, language="en")
    assert len(result.segments) == 1000 < result.segment_count
    kept = json.loads(hearing.outputs["transcript"].read_text())
    assert len(kept["segments"]) == result.segment_count == len(hearing.segments[0])
    assert kept["text"] == result.text


async def test_a_prompt_too_long_is_refused_with_its_length(hearing: Told, tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.wav", speech(1))
    with pytest.raises(InvalidInput, match=r"/params/prompt: has \d+ tokens where .* takes 223; shorten it") as caught:
        await transcribe(hearing, path, prompt="rain and sea " * 90)
    assert [problem.code for problem in caught.value.problems] == ["prompt_too_long"]


async def test_a_checkpoint_of_english_alone_says_what_it_cannot_do(
    hearing: Told, whisper: WhisperModel, tmp_path: Path
) -> None:
    english = replace(whisper, processor=replace(whisper.processor, languages=("en",), name="small.en"))
    hearing.models = {"tiny-whisper": english}
    path = encoded(tmp_path / "a.wav", speech(1))
    with pytest.raises(InvalidInput) as caught:
        await transcribe(hearing, path, language="de", task="translate")
    assert [problem.pointer for problem in caught.value.problems] == ["/params/language", "/params/task"]
    assert "small.en" in caught.value.message


def test_languages_are_those_of_openai_whisper() -> None:
    import whisper.tokenizer

    assert tuple(whisper.tokenizer.LANGUAGES) == LANGUAGES


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"language": "xx"}, "language"),
        ({"language": "german"}, "language"),
        ({"task": "sing"}, "task"),
        ({"prompt": "x" * 2001}, "prompt"),
        ({"temperatures": []}, "temperatures"),
        ({"temperatures": [0.0, 1.1]}, "temperatures"),
        ({"temperatures": [0.1] * 7}, "temperatures"),
        ({"beam_size": 0}, "beam_size"),
        ({"beam_size": 11}, "beam_size"),
        ({"seed": -1}, "seed"),
        ({"threshold": 0.5}, "threshold"),
    ],
)
def test_bad_params_are_refused_by_name(params: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TranscribeParams.model_validate(params)
    assert caught.value.errors()[0]["loc"][0] == field


def test_the_seed_counts_where_something_may_be_sampled() -> None:
    assert Transcribe().samples(TranscribeParams())
    assert not Transcribe().samples(TranscribeParams(temperatures=(0.0,)))
    assert Transcribe().checkpoints(TranscribeParams()) == {"transcribe"}
    assert Transcribe().checkpoints(TranscribeParams(checkpoint="whisper-large-v3")) == {"whisper-large-v3"}
