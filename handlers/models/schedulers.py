"""The ways from noise to a picture that a job may choose by name, built from what a checkpoint says of its noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, get_args

SchedulerName = Literal[
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_karras",
    "euler",
    "euler_a",
    "heun",
    "lcm",
    "lms",
    "pndm",
    "unipc",
]
NAMES: tuple[SchedulerName, ...] = get_args(SchedulerName)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """One of diffusers' classes, and the settings that make it what the name says."""

    module: str
    class_name: str
    #: As the web interfaces call it, which put it into a picture's metadata.
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _dpm(algorithm: str, karras: bool, title: str) -> _Recipe:
    """Lu et al., DPM-Solver++, 2022; noise levels of Karras et al., 2022."""
    settings = {"algorithm_type": algorithm, "solver_order": 2, "use_karras_sigmas": karras}
    return _Recipe("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler", title, settings)


# Those that add noise as they go take it from each picture's own generator; diffusers' dpmpp_sde does not.
# `clip_sample` is for pixels: latents are not within -1 .. 1.
_RECIPES: Mapping[SchedulerName, _Recipe] = MappingProxyType(
    {
        "ddim": _Recipe("scheduling_ddim", "DDIMScheduler", "DDIM", {"clip_sample": False}),
        "ddpm": _Recipe("scheduling_ddpm", "DDPMScheduler", "DDPM", {"clip_sample": False}),
        "dpmpp_2m": _dpm("dpmsolver++", False, "DPM++ 2M"),
        "dpmpp_2m_karras": _dpm("dpmsolver++", True, "DPM++ 2M Karras"),
        "dpmpp_2m_sde": _dpm("sde-dpmsolver++", False, "DPM++ 2M SDE"),
        "dpmpp_2m_sde_karras": _dpm("sde-dpmsolver++", True, "DPM++ 2M SDE Karras"),
        "euler": _Recipe("scheduling_euler_discrete", "EulerDiscreteScheduler", "Euler"),
        "euler_a": _Recipe("scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler", "Euler a"),
        "heun": _Recipe("scheduling_heun_discrete", "HeunDiscreteScheduler", "Heun"),
        "lcm": _Recipe("scheduling_lcm", "LCMScheduler", "LCM"),
        "lms": _Recipe("scheduling_lms_discrete", "LMSDiscreteScheduler", "LMS"),
        # The Runge-Kutta steps at its beginning are for pixels; without them it is what is called PLMS.
        "pndm": _Recipe("scheduling_pndm", "PNDMScheduler", "PLMS", {"skip_prk_steps": True}),
        "unipc": _Recipe("scheduling_unipc_multistep", "UniPCMultistepScheduler", "UniPC"),
    }
)

#: What a config says of the model, and not of the way that its class goes.
_OF_THE_MODEL = frozenset(
    {
        "beta_end",
        "beta_schedule",
        "beta_start",
        "num_train_timesteps",
        "original_inference_steps",
        "prediction_type",
        "rescale_betas_zero_snr",
        "set_alpha_to_one",
        "steps_offset",
        "timestep_spacing",
        "trained_betas",
    }
)

#: diffusers' own where a config does not say.
_LCM_STEPS = 50


def make(name: SchedulerName, config: Mapping[str, Any]) -> Any:
    """A fresh scheduler of diffusers; `config` is a checkpoint's scheduler_config.json.

    Of a config of another class than the name's only what describes the model is taken: a checkpoint's own Karras noise
    levels, say, are no part of `euler`.
    """
    recipe = _RECIPES[name]
    scheduler = getattr(import_module(f"diffusers.schedulers.{recipe.module}"), recipe.class_name)
    own = config.get("_class_name") == recipe.class_name
    kept = {key: value for key, value in config.items() if own or key in _OF_THE_MODEL}
    return scheduler.from_config(kept | dict(recipe.settings))


def own_name(config: Mapping[str, Any]) -> SchedulerName:
    """The name of the scheduler that a checkpoint brings. Raises ValueError where it is none of ours."""
    for name, recipe in _RECIPES.items():
        if config.get("_class_name") == recipe.class_name and all(
            config.get(key, value) == value for key, value in recipe.settings.items()
        ):
            return name
    raise ValueError(
        f"its scheduler, {config.get('_class_name')}, is none of those that there are here: name one of"
        f" {', '.join(NAMES)} as `generation.scheduler` in the catalogue"
    )


def known(name: str) -> SchedulerName:
    """The name, checked. Raises ValueError."""
    for each in NAMES:
        if each == name:
            return each
    raise ValueError(f"there is no scheduler {name!r}: there are {', '.join(NAMES)}")


def title(name: SchedulerName) -> str:
    """As web interfaces call it."""
    return _RECIPES[name].title


def most_steps(name: SchedulerName, config: Mapping[str, Any]) -> int:
    """More steps than this the scheduler cannot make."""
    if name == "lcm":
        return int(config.get("original_inference_steps", _LCM_STEPS))
    return int(config.get("num_train_timesteps", 1000))
