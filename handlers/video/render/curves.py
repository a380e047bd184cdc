"""Curves of a crossfade's gain, by their names in ffmpeg's `afade` and `acrossfade` (libavfilter/af_afade.c)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import ndarray


def gain(curve: str, at: ndarray) -> ndarray:
    """The gain (0 to 1) of what comes in, where `at` goes from 0 to 1; of what goes out, it is that of `1 - at`.

    Raises KeyError for a name that is none.
    """
    import numpy

    return _CURVES[curve](numpy.clip(at, 0.0, 1.0))


def _halves(np: Any, g: Any, power: Callable[[Any], Any]) -> Any:
    return np.where(g <= 0.5, power(2 * g) / 2, 1 - power(2 * (1 - g)) / 2)


def _sine_cardinal(np: Any, g: Any) -> Any:
    return np.sinc(1 - g)


def _logistic(np: Any, g: Any) -> Any:
    steep = 1.0 / (1.0 - 0.787) - 1.0
    low, high = 1.0 / (1.0 + math.exp(steep)), 1.0 / (1.0 + math.exp(-steep))
    return (1.0 / (1.0 + np.exp(-((g - 0.5) * steep * 2.0))) - low) / (high - low)


def _with_numpy(function: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    def curve(g: Any) -> Any:
        import numpy

        return function(numpy, g)

    return curve


_CURVES: dict[str, Callable[[Any], Any]] = {
    name: _with_numpy(function)
    for name, function in {
        "tri": lambda _, g: g,
        "qsin": lambda np, g: np.sin(g * math.pi / 2),
        "iqsin": lambda np, g: np.arcsin(g) * 2 / math.pi,
        "esin": lambda np, g: 1 - np.cos(math.pi / 4 * ((2 * g - 1) ** 3 + 1)),
        "hsin": lambda np, g: (1 - np.cos(g * math.pi)) / 2,
        "ihsin": lambda np, g: np.arccos(1 - 2 * g) / math.pi,
        "exp": lambda np, g: np.exp(-11.512925464970227 * (1 - g)),
        "log": lambda np, g: np.clip(1 + 0.2 * np.log10(np.maximum(g, 1e-9)), 0, 1),
        "par": lambda np, g: 1 - np.sqrt(1 - g),
        "ipar": lambda _, g: 1 - (1 - g) ** 2,
        "qua": lambda _, g: g**2,
        "cub": lambda _, g: g**3,
        "squ": lambda np, g: np.sqrt(g),
        "cbr": lambda np, g: np.cbrt(g),
        "dese": lambda np, g: _halves(np, g, np.cbrt),
        "desi": lambda np, g: _halves(np, g, lambda x: x**3),
        "losi": _logistic,
        "sinc": _sine_cardinal,
        "isinc": lambda np, g: 1 - np.sinc(g),
    }.items()
}

NAMES = frozenset(_CURVES)
