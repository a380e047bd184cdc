"""What a worker is put together from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from config.catalogue import Catalogue, Role
from config.settings import Settings
from console.compose import Deployment
from console.failures import refused
from handlers.models import schedulers
from handlers.protocol import CheckpointSpec, GenerationDefaults
from storage.objects.cache import ContentCache
from storage.objects.reader import ObjectReader
from worker.health import Health
from worker.metrics import Metrics
from worker.parts import EmbedCheckpoint, Parts
from worker.sandbox import SandboxMode, SandboxUnavailable, probe

_ASKING_TAKES_AT_MOST_S = 120


def worker_parts(deployment: Deployment, health: Health, metrics: Metrics) -> Parts:
    """Everything that runs jobs, made and checked; closed with the deployment.

    Raises CommandFailed where checkpoints or fonts are missing or the host allows less confinement than is required,
    and what the deployment's parts raise.
    """
    device = chosen_device(deployment.settings)
    settings = deployment.settings.model_copy(update={"device": device})
    catalogue = deployment.catalogue
    checkpoints = checkpoint_specs(catalogue, settings, device)
    check_fonts(settings)
    try:
        sandbox = probe(SandboxMode(settings.sandbox))
    except SandboxUnavailable as error:
        raise refused(str(error)) from None
    cache = deployment.held(ContentCache(settings.cache, settings.cache_bytes))
    return Parts(
        settings=settings,
        database=deployment.pooled_database,
        store=deployment.store,
        reader=ObjectReader(deployment.store, cache),
        registry=deployment.registry,
        sandbox=sandbox,
        metrics=metrics,
        health=health,
        build=version("mediamill"),
        environ=dict(os.environ),
        checkpoints={spec.name: spec for spec in checkpoints},
        roles=catalogue.roles,
        embed=_embed(catalogue, checkpoints),
    )


def checkpoint_specs(catalogue: Catalogue, settings: Settings, device: str) -> list[CheckpointSpec]:
    """The profile's checkpoints as an executor loads them.

    Raises CommandFailed with a line for each that is missing, or whose entry asks for what there is not.
    """
    if wrong := [one.sentence for one in catalogue.missing(settings.models)] + list(_unknown_schedulers(catalogue)):
        raise refused(*wrong)
    specs = []
    for entry in catalogue.entries.values():
        folder = catalogue.folder(entry, settings.models)
        specs.append(
            CheckpointSpec(
                name=entry.name,
                family=entry.family.value,
                path=str(folder),
                dtype=entry.dtype_on(device),
                digest=catalogue.digest(entry, folder),
                alignment_heads=entry.alignment_heads,
                generation=None if entry.generation is None else GenerationDefaults(**entry.generation.model_dump()),
                safety_checker=settings.safety_checker,
            )
        )
    return specs


def check_fonts(settings: Settings) -> None:
    """Raises CommandFailed with a line for each font of the settings that is no file: jobs would fail one by one."""
    missing = {name: path for name, path in settings.fonts.items() if not path.is_file()}
    if missing:
        raise refused(*(f"MEDIAMILL_FONTS: {name}: there is no file {path}" for name, path in missing.items()))


def _unknown_schedulers(catalogue: Catalogue) -> Iterator[str]:
    for entry in catalogue.entries.values():
        if entry.generation is not None and entry.generation.scheduler is not None:
            try:
                schedulers.known(entry.generation.scheduler)
            except ValueError as error:
                yield f"{catalogue.source}: checkpoints.{entry.name}.generation.scheduler: {error}"


def _embed(catalogue: Catalogue, checkpoints: list[CheckpointSpec]) -> EmbedCheckpoint | None:
    name = catalogue.roles.get(Role.EMBED.value)
    if name is None:
        return None
    [spec] = [spec for spec in checkpoints if spec.name == name]
    dimension = catalogue[name].dimension
    assert dimension is not None
    return EmbedCheckpoint(name, spec.digest, dimension)


def chosen_device(settings: Settings) -> str:
    """The device that the setting means: for `auto` the first GPU that the executor can use, else the CPU."""
    if settings.device != "auto":
        return settings.device
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    # There is a card; whether the executor's torch can work with it, only that torch knows.
    asked = subprocess.run(
        [str(settings.executor_python), "-c", "import torch; print(torch.cuda.is_available())"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_ASKING_TAKES_AT_MOST_S,
    )
    return "cuda:0" if asked.stdout.strip() == "True" else "cpu"
