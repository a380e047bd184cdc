"""From a plan and local files to a verified film."""

from handlers.video.render.assets import Asset as Asset
from handlers.video.render.assets import Cues as Cues
from handlers.video.render.assets import Film as Film
from handlers.video.render.assets import Photo as Photo
from handlers.video.render.film import Rendered as Rendered
from handlers.video.render.film import render as render
