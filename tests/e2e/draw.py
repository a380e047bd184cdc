"""Draws pictures that differ: run by the executor's interpreter, which has Pillow."""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

folder, count = Path(sys.argv[1]), int(sys.argv[2])
for n in range(count):
    rng = random.Random(n)
    picture = Image.new("RGB", (160, 120), tuple(rng.randrange(256) for _ in range(3)))
    corner = (rng.randrange(60), rng.randrange(40))
    box = (*corner, corner[0] + rng.randrange(30, 90), corner[1] + rng.randrange(30, 70))
    ImageDraw.Draw(picture).ellipse(box, fill=tuple(rng.randrange(256) for _ in range(3)))
    picture.save(folder / f"{n:03}.jpg")
