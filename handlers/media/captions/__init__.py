"""Subtitles: read from untrusted bytes, wrapped for reading, written as text."""

from handlers.media.captions.cue import Cue as Cue
from handlers.media.captions.reading import parse as parse
from handlers.media.captions.wrapping import wrapped as wrapped
from handlers.media.captions.writing import to_ass as to_ass
from handlers.media.captions.writing import to_srt as to_srt
from handlers.media.captions.writing import to_vtt as to_vtt
