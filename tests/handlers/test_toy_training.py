"""What `make toyworld` relies on."""

from __future__ import annotations

import importlib

import pytest

from toyworld.__main__ import MODELS
from toyworld.train import command

pytestmark = pytest.mark.handlers


@pytest.mark.parametrize("model", MODELS)
def test_a_script_works_in_the_folder_that_is_removed_to_train_it_again(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(name: str, _what: str) -> None:
        raise InterruptedError(name)

    monkeypatch.setattr(command, "arguments", asked)
    with pytest.raises(InterruptedError, match=f"^{model}$"):
        importlib.import_module(f"toyworld.train.{model}").main()
