"""Draws the title of `bench.video` as `video.edit` does, for those who are given it as a picture.

    .venv-executor/bin/python -m bench.video_title '[{"text": ...}, HEIGHT, [x, y, width, height]]' OUT.png

says which pixels of the frame it covers: `[left, top, width, height]`.
"""

from __future__ import annotations

import json
import sys

from handlers.video.text import fonts, title
from handlers.video.timeline.plan import TextStyle


def main() -> None:
    """The command."""
    given, height, (x, y, width, high) = json.loads(sys.argv[1])
    style = TextStyle(
        text=given["text"],
        font=fonts.SANS,
        size=round(given["size"] * height),
        color=given["color"],
        align="center",
        valign="middle",
        box_color=given["box_color"],
    )
    drawn = title.draw(style, width, high, fonts.found())
    left, top, right, bottom = drawn.getchannel("A").getbbox()
    # On even pixels, where colours of half the resolution begin.
    left, top, right, bottom = left // 2 * 2, top // 2 * 2, -(-right // 2) * 2, -(-bottom // 2) * 2
    drawn.crop((left, top, right, bottom)).save(sys.argv[2], "PNG")
    print(json.dumps([x + left, y + top, right - left, bottom - top]))


if __name__ == "__main__":
    main()
