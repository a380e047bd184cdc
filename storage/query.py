"""What people type into a search: words, "phrases", -unwanted words, and `or`.

The syntax is `websearch_to_tsquery`'s. It is read here first, because Chinese and Japanese words must be segmented
inside of it, and because an unwanted word must hold for pictures, which that function knows nothing of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.segment import has_cjk, normalised, segmented

#: Characters of a query: longer ones are pasted by mistake, or by malice.
LONGEST = 1000

_TOKEN = re.compile(r'-*"[^"]*"?|[^\s"]+')
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»", '"'))


class BadQuery(ValueError):
    """The query cannot be asked; the message says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A query's text, taken apart."""

    words: str
    """What is looked for, segmented, for `websearch_to_tsquery`; empty when there is nothing."""
    unwanted: str
    """What must not be in any text of a hit, in the same form: alternatives."""
    plain: str
    """What is looked for, without operators: what a text encoder should read."""
    literals: tuple[str, ...]
    """The Chinese and Japanese words looked for, in lower case: they are found in a text as they stand."""


def read_wording(text: str) -> Wording:
    """Takes a query's text apart.

    Raises BadQuery for what no text can contain (NUL, lone surrogates) and for more than LONGEST characters.
    """
    check_text(text, "the query")
    if len(text) > LONGEST:
        raise BadQuery(f"the query has {len(text)} characters: say it in {LONGEST} or fewer")
    words, unwanted, plain, literals = list[str](), list[str](), list[str](), list[str]()
    for token in _TOKEN.findall(normalised(text).translate(_QUOTES)):
        body = token.lstrip("-").strip('"').strip()
        if token.lower() == "or":
            words.append("or")
        elif not any(character.isalnum() for character in body):
            continue
        elif token.startswith("-"):
            unwanted.append(_term(token, body))
        else:
            words.append(_term(token, body))
            plain.append(body)
            if has_cjk(body):
                literals.append(body.lower())
    return Wording(" ".join(_between_terms(words)), " or ".join(unwanted), " ".join(plain), tuple(literals))


def check_text(text: str, what: str) -> None:
    """Raises BadQuery for text that Postgres cannot hold."""
    if "\x00" in text:
        raise BadQuery(f"{what} contains a NUL character: leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadQuery(f"{what} contains half of a surrogate pair: it is not valid Unicode text") from None


def _term(token: str, body: str) -> str:
    # A segmented word is a phrase: its bigrams side by side, so that it is found exactly as it was written.
    return f'"{segmented(body)}"' if '"' in token or has_cjk(body) else body


def _between_terms(words: list[str]) -> list[str]:
    """Leaves an `or` only between two terms: one whose neighbour was unwanted, or nothing, joins nothing."""
    kept: list[str] = []
    for word in words:
        if word != "or" or (kept and kept[-1] != "or"):
            kept.append(word)
    return kept[:-1] if kept and kept[-1] == "or" else kept
