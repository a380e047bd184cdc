"""Says whether the weights in a folder are tensors and nothing else: `python -m handlers.models.check FOLDER`.

Exit code 0 and no word where all is well; else 1 and a line for each bad file. Runs by the executor's interpreter.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path

_PICKLES = {".bin", ".pt", ".pth"}
_HARMLESS = {".json", ".txt", ".model", ".md", ".png", ".jpg", ".safetensors", ""}


def problems(folder: Path) -> list[str]:
    """A sentence for each file that is damaged, could run code when loaded, or has no place in a checkpoint."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".safetensors":
            problem = _of_safetensors(path)
        elif path.suffix in _PICKLES:
            problem = _of_pickle(path)
        elif path.suffix in _HARMLESS:
            problem = None
        else:
            problem = (
                "is neither weights (.safetensors, .bin, .pt, .pth) nor text (.json, .txt, .model) nor a picture of the"
                " card (.png, .jpg): remove it"
            )
        if problem:
            found.append(f"{name} {problem}")
    if not any(path.suffix in {".safetensors", *_PICKLES} for path in folder.rglob("*")):
        found.append("there are no weights")
    return found


def _of_safetensors(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return None if len(tensors.keys()) else "holds no tensors"
    except (SafetensorError, OSError) as error:
        return f"is damaged ({error})"


def _of_pickle(path: Path) -> str | None:
    import torch

    try:
        torch.load(path, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        return f"is a pickle that holds more than tensors and could run code ({reason}): convert it to safetensors"
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        return f"is damaged ({str(error).strip().partition(chr(10))[0]})"
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="handlers.models.check", description=__doc__)
    parser.add_argument("folder", type=Path)
    found = problems(parser.parse_args().folder)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
