"""What is seen where: places, fits, turns, transparency, moves, titles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.handlers import films
from tests.handlers.films import edit, hue

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
YELLOW = (255, 255, 0)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures: `quarters` is red, green above blue, yellow; `tall` a red one; `ring` a disc with nothing around it."""
    from PIL import Image, ImageDraw

    folder = tmp_path_factory.mktemp("photos")
    quarters = Image.new("RGB", (320, 180))
    for place, color in (((0, 0), RED), ((160, 0), GREEN), ((0, 90), BLUE), ((160, 90), YELLOW)):
        quarters.paste(color, (*place, place[0] + 160, place[1] + 90))
    ring = Image.new("RGBA", (160, 90))
    ImageDraw.Draw(ring).ellipse((40, 5, 120, 85), fill=(*RED, 255))
    made = {"quarters": quarters, "tall": Image.new("RGB", (100, 300), RED), "ring": ring}
    for name, image in made.items():
        image.save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in made}


def at(picture: Any, x: float, y: float) -> tuple[int, ...]:
    """The colour in a place, as parts of width and height."""
    height, width, _ = picture.shape
    row, column = round(y * height), round(x * width)
    patch = picture[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].reshape(-1, 3)
    return tuple(int(value) for value in patch.mean(axis=0))


def alike(found: tuple[int, ...], wanted: tuple[int, ...], by: int = 12) -> bool:
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def corners(picture: Any) -> list[tuple[int, ...]]:
    return [at(picture, x, y) for y in (0.2, 0.8) for x in (0.2, 0.8)]


async def still(folder: Path, photos: dict[str, Path], asset: str, **look: Any) -> Any:
    """The first frame of a film of one picture."""
    items = [{"type": "image", "asset": asset, "duration": {"f": 2}, **look}]
    return (await edit(folder, items, photos, background="#0000ff")).frames()[1]


async def stills(folder: Path, photos: dict[str, Path], asset: str, *looks: dict[str, Any]) -> Any:
    """A frame of each of a film's items, which show one picture in several ways."""
    items = [{"type": "image", "asset": asset, "duration": {"f": 2}, **look} for look in looks]
    return (await edit(folder, items, photos, background="#0000ff")).frames()[1::2]


async def test_a_picture_is_cropped_turned_and_mirrored_and_keeps_its_colours(
    photos: dict[str, Path], tmp_path: Path
) -> None:
    cases: list[tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = [
        ({}, (RED, GREEN, BLUE, YELLOW)),
        ({"rotate": 180}, (YELLOW, BLUE, GREEN, RED)),
        ({"rotate": 90, "fit": "stretch"}, (BLUE, RED, YELLOW, GREEN)),
        ({"rotate": 270, "fit": "stretch"}, (GREEN, YELLOW, RED, BLUE)),
        ({"flip": "horizontal"}, (GREEN, RED, YELLOW, BLUE)),
        ({"flip": "vertical"}, (BLUE, YELLOW, RED, GREEN)),
        ({"flip": "horizontal", "rotate": 90, "fit": "stretch"}, (YELLOW, GREEN, BLUE, RED)),
        ({"crop": {"x": 0.5, "y": 0, "width": 0.5, "height": 0.5}}, (GREEN,) * 4),
        ({"crop": {"x": 0, "y": 0.5, "width": 1, "height": 0.5}, "fit": "stretch"}, (BLUE, YELLOW, BLUE, YELLOW)),
    ]
    frames = await stills(tmp_path, photos, "quarters", *[look for look, _ in cases])
    for (look, expected), frame in zip(cases, frames, strict=True):
        seen = corners(frame)
        assert all(alike(a, b, 6) for a, b in zip(seen, expected, strict=True)), (look, seen)


async def test_a_tall_picture_fits_in_each_way(photos: dict[str, Path], tmp_path: Path) -> None:
    fits = ("contain", "cover", "stretch", "blur", "none")
    frames = await stills(tmp_path, photos, "tall", *[{"fit": fit} for fit in fits])
    contained, cover, stretched, blurred, plain = frames
    assert alike(at(contained, 0.5, 0.5), RED)
    assert alike(at(contained, 0.2, 0.5), BLUE)
    assert alike(at(contained, 0.8, 0.5), BLUE)
    for filled in (cover, stretched):
        assert all(alike(corner, RED) for corner in corners(filled))
    assert all(alike(corner, RED, 20) for corner in corners(blurred)), corners(blurred)
    # 100 pixels of its width, in the middle of 160, and no more of its height than there is room for.
    assert [alike(at(plain, x / 160, 0.5), RED) for x in (26, 34, 126, 134)] == [False, True, True, False]
    assert alike(at(plain, 0.5, 0.03), RED)


async def test_an_item_lies_in_its_box_over_what_is_below(photos: dict[str, Path], tmp_path: Path) -> None:
    over = [
        {"type": "gap", "duration": {"f": 5}},
        {
            "type": "color",
            "color": "#ff0000",
            "duration": {"f": 10},
            "box": {"x": 0.5, "y": 0.5, "width": 0.5, "height": 0.5},
            "opacity": 0.5,
        },
    ]
    below = [{"type": "color", "color": "#ffffff", "duration": {"f": 20}}]
    frames = (await edit(tmp_path, below, tracks=[{"kind": "video", "items": over}])).frames()
    seen = [alike(at(frames[index], 0.75, 0.75), (255, 128, 128)) for index in (4, 5, 14, 15)]
    assert seen == [False, True, True, False]
    assert alike(at(frames[10], 0.25, 0.25), WHITE)
    assert alike(at(frames[4], 0.75, 0.75), WHITE)


async def test_transparency_of_a_picture_shows_what_is_below(photos: dict[str, Path], tmp_path: Path) -> None:
    below = [{"type": "color", "color": "#00ff00", "duration": {"f": 3}}]
    over = [{"type": "image", "asset": "ring", "duration": {"f": 3}}]
    frames = (await edit(tmp_path, below, photos, tracks=[{"kind": "video", "items": over}])).frames()
    assert alike(at(frames[1], 0.5, 0.5), RED)
    assert alike(at(frames[1], 0.1, 0.1), GREEN)
    [alone] = await stills(tmp_path / "alone", photos, "ring", {})
    assert alike(at(alone, 0.1, 0.1), BLUE)


@pytest.mark.parametrize("background", ["#000000", "#0000ff"])
async def test_a_fade_goes_from_the_background_to_the_item_and_back(tmp_path: Path, background: str) -> None:
    items = [{"type": "color", "color": "#ff0000", "duration": {"f": 30}, "fade_in": {"f": 10}, "fade_out": {"f": 10}}]
    frames = (await edit(tmp_path, items, background=background)).frames()
    reds = [at(picture, 0.5, 0.5)[0] for picture in frames]
    assert reds[0] < 30
    assert 100 < reds[5] < 155
    assert min(reds[10:20]) > 243
    assert 100 < reds[25] < 155
    assert reds[29] < 40
    assert reds[:10] == sorted(reds[:10])


async def test_items_of_an_upper_track_fade_into_each_other_without_going_through_black(tmp_path: Path) -> None:
    left = {"x": 0, "y": 0, "width": 0.4, "height": 0.4}
    right = {"x": 0.6, "y": 0.6, "width": 0.4, "height": 0.4}
    over = [
        {"type": "color", "color": "#ff0000", "duration": {"f": 20}, "box": left},
        {
            "type": "color",
            "color": "#ff0000",
            "duration": {"f": 20},
            "box": right,
            "transition": {"type": "fade", "duration": {"f": 10}},
        },
    ]
    below = [{"type": "color", "color": "#ffffff", "duration": {"f": 30}}]
    frames = (await edit(tmp_path, below, tracks=[{"kind": "video", "items": over}])).frames()
    assert alike(at(frames[5], 0.2, 0.2), RED)
    assert alike(at(frames[5], 0.8, 0.8), WHITE)
    # Half way: each half there, the red as red as it was.
    middle = [at(frames[15], 0.2, 0.2), at(frames[15], 0.8, 0.8)]
    assert all(alike(seen, (255, 128, 128), 24) for seen in middle), middle
    assert alike(at(frames[25], 0.2, 0.2), WHITE)
    assert alike(at(frames[25], 0.8, 0.8), RED)


async def test_a_moving_view_goes_evenly_from_one_region_to_the_other(tmp_path: Path) -> None:
    import numpy
    from PIL import Image

    # A bar with soft edges: where it is can be seen to a fraction of a pixel.
    columns = numpy.arange(960)
    bar = 255 * numpy.exp(-(((columns - 480) / 60.0) ** 2))
    picture = numpy.repeat(bar[None, :].astype(numpy.uint8), 540, axis=0)
    path = tmp_path / "bar.png"
    Image.fromarray(picture).convert("RGB").save(path)
    move = {
        "from": {"x": 0, "y": 0.1, "width": 0.8, "height": 0.8},
        "to": {"x": 0.1, "y": 0.1, "width": 0.8, "height": 0.8},
    }
    items = [{"type": "image", "asset": "bar", "duration": {"f": 61}, "ken_burns": move}]
    frames = (await edit(tmp_path / "out", items, {"bar": path})).frames()
    places = []
    for seen in frames.astype(float):
        line = seen[:, :, 1].mean(axis=0).clip(30) - 30
        places.append(float((line * (numpy.arange(160) + 0.5)).sum() / line.sum()))
    steps = numpy.diff(places)
    # From the middle of 0..0.8 to that of 0.1..0.9: an eighth of the width, to the left, 20 pixels in 60 steps.
    assert places[0] == pytest.approx(100, abs=1)
    assert places[-1] == pytest.approx(80, abs=1)
    assert abs(steps + 1 / 3).max() < 0.12, steps


async def test_a_title_is_set_over_the_film_while_it_lasts(tmp_path: Path) -> None:
    below = [{"type": "color", "color": "#000080", "duration": {"f": 20}}]
    title = [
        {"type": "gap", "duration": {"f": 5}},
        {"type": "text", "text": "WIDE", "duration": {"f": 10}, "size": 0.4, "color": "#ffffff"},
    ]
    frames = (await edit(tmp_path, below, tracks=[{"kind": "video", "items": title}])).frames()
    bright = [int((picture.min(axis=2) > 200).sum()) for picture in frames]
    assert max(bright[:5]) == max(bright[15:]) == 0
    assert min(bright[5:15]) > 200
    rows = (frames[10].min(axis=2) > 200).any(axis=1).nonzero()[0]
    assert abs((rows[0] + rows[-1]) / 2 - 45) < 6


async def test_a_film_from_a_phone_is_seen_upright(tmp_path: Path) -> None:
    from tests.handlers.media_material import rotated

    path = rotated(tmp_path / "phone.mp4", 90, size=(160, 90))
    items = [{"type": "video", "asset": "phone", "duration": {"f": 5}}]
    output = {"width": 90, "height": 160}
    turned = (await edit(tmp_path / "a", items, {"phone": path}, output=output)).frames()
    whole = films.pictures(path, (90, 160))
    assert abs(turned[0].astype(int) - whole[0].astype(int)).mean() < 8


async def test_a_film_that_does_not_say_its_colours_is_seen_as_players_show_it(tmp_path: Path) -> None:
    from tests.handlers.media_material import make

    # The same numbers, BT.601 in a small film and BT.709 in a large one, neither of which says so.
    assets = {}
    for name, size, matrix in (("small", "320x180", "bt601"), ("large", "1280x720", "bt709")):
        assets[name] = tmp_path / f"{name}.mp4"
        convert = f"format=rgb24,scale=out_color_matrix={matrix}:out_range=tv,format=yuv420p"
        make("-f", "lavfi", "-i", f"color=c=0xc02040:s={size}:d=0.2", "-vf", convert, "-colorspace", "2", assets[name])
    items = [{"type": "video", "asset": name, "duration": {"f": 3}} for name in assets]
    frames = (await edit(tmp_path / "out", items, assets)).frames()
    seen = [at(frames[index], 0.5, 0.5) for index in (1, 4)]
    assert all(alike(color, (0xC0, 0x20, 0x40), 8) for color in seen), seen


async def test_transparency_of_a_film_shows_what_is_below(tmp_path: Path) -> None:
    from tests.handlers.media_material import make

    path = tmp_path / "clear.webm"
    ring = "color=c=red:s=160x90:d=0.4,format=yuva420p,geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='255*lt(X,80)'"
    make("-f", "lavfi", "-i", ring, "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-cpu-used", "8", path)
    below = [{"type": "color", "color": "#00ff00", "duration": {"f": 6}}]
    over = [{"type": "video", "asset": "clear", "duration": {"f": 6}}]
    tracks = [{"kind": "video", "items": over}]
    frames = (await edit(tmp_path / "out", below, {"clear": path}, tracks=tracks)).frames()
    assert alike(at(frames[3], 0.75, 0.5), GREEN)
    assert alike(at(frames[3], 0.25, 0.5), RED, 20)


async def test_the_lowest_track_comes_out_of_nothing_and_goes_back_to_it(tmp_path: Path) -> None:
    fade = {"type": "fade", "duration": {"f": 10}}
    items: list[dict[str, Any]] = [
        {"type": "gap", "duration": {"f": 20}},
        {"type": "color", "color": "#ff0000", "duration": {"f": 30}, "fade_in": {"f": 10}},
        {"type": "text", "text": "END", "size": 0.3, "duration": {"f": 20}, "transition": fade},
    ]
    frames = (await edit(tmp_path, items, background="#0000ff")).frames()
    assert len(frames) == 60
    seen = [at(frames[index], 0.05, 0.05) for index in (5, 25, 35, 55)]
    wanted = [BLUE, (128, 0, 128), RED, BLUE]
    assert all(alike(a, b, 30) for a, b in zip(seen, wanted, strict=True)), seen
    assert (frames[55].min(axis=2) > 200).sum() > 100


async def test_the_smallest_and_the_longest_pictures_are_cropped_and_cover_their_box(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "pixel.png")
    Image.new("RGB", (20_000, 2), (0, 255, 0)).save(tmp_path / "ribbon.png")
    some = {"x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5}
    items = [
        {"type": "image", "asset": asset, "crop": some, "fit": fit, "duration": {"f": 1}}
        for asset in ("pixel", "ribbon")
        for fit in ("stretch", "cover", "blur")
    ]
    made = await edit(tmp_path / "out", items, {name: tmp_path / f"{name}.png" for name in ("pixel", "ribbon")})
    assert [hue(picture) for picture in made.frames()] == [0, 0, 0, 1, 1, 1]
