"""The two renderers. What is trained on one is judged on the other, so that a score is no memory of pixels."""

from __future__ import annotations

import math
import random
from typing import Any

from toyworld.world.outlines import distance, polygon
from toyworld.world.scenes import Scene, Thing


def paint(scene: Scene, side: int = 64) -> Any:
    """To train on: outlines by distance, edges soft over a pixel. uint8 numpy (side, side, 3), red first."""
    import numpy as np

    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = scene.background_rgb
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    for thing in scene.things:
        covered = _covered(thing, at[None, :], at[:, None], side)[..., None]
        canvas += covered * (np.array(thing.rgb, np.float32) - canvas)
    return np.round(canvas).astype(np.uint8)


def mask(thing: Thing, side: int = 64) -> Any:
    """Where a thing is: bool numpy (side, side)."""
    import numpy as np

    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    return _covered(thing, at[None, :], at[:, None], side) >= 0.5


def draw(scene: Scene, chance: random.Random, side: int = 256) -> Any:
    """To judge by: Pillow's polygons, four times as large and then reduced, a little noise. An RGB PIL image."""
    import numpy as np
    from PIL import Image, ImageDraw

    large = 4 * side
    image = Image.new("RGB", (large, large), scene.background_rgb)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        outline, hole = polygon(thing.shape)
        pen.polygon([_placed(thing, corner, large) for corner in outline], fill=thing.rgb)
        if hole:
            pen.polygon([_placed(thing, corner, large) for corner in hole], fill=scene.background_rgb)
    small = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), np.float32)
    noise = np.random.default_rng(chance.getrandbits(64)).normal(0, 2, small.shape)
    return Image.fromarray(np.clip(np.round(small + noise), 0, 255).astype(np.uint8))


def _covered(thing: Thing, x: Any, y: Any, side: int) -> Any:
    """How much of each pixel a thing covers, from 0 to 1."""
    import numpy as np

    cosine, sine = math.cos(thing.angle) / thing.radius, math.sin(thing.angle) / thing.radius
    dx, dy = x - thing.x, y - thing.y
    outside = distance(thing.shape, cosine * dx + sine * dy, cosine * dy - sine * dx)
    return np.clip(0.5 - outside * (thing.radius * side), 0, 1).astype(np.float32)


def _placed(thing: Thing, corner: tuple[float, float], side: int) -> tuple[float, float]:
    x, y = corner
    cosine, sine = math.cos(thing.angle) * thing.radius, math.sin(thing.angle) * thing.radius
    return (thing.x + cosine * x - sine * y) * side, (thing.y + sine * x + cosine * y) * side
