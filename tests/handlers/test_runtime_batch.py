"""`handlers.runtime.batch`: a bad sample fails alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import HandlerBug, ResourceExhausted
from handlers.runtime.batch import compute
from handlers.runtime.device import DeviceBroken, TorchDevice
from tests.handlers.runtime_fakes import BrokenError, FakeDevice, FullError


def test_results_come_in_the_order_of_the_samples() -> None:
    assert compute(lambda model, samples: [s * model for s in samples], 10, [1, 2, 3], FakeDevice()) == [10, 20, 30]


def test_an_exception_as_an_item_stands_for_its_sample_alone() -> None:
    calls = []

    def function(model: Any, samples: Sequence[Any]) -> list[Any]:
        calls.append(len(samples))
        return [ValueError("bad") if sample == 2 else sample for sample in samples]

    first, second, third = compute(function, None, [1, 2, 3], FakeDevice())
    assert (first, third, calls) == (1, 3, [3])
    assert isinstance(second, ValueError)


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_the_guilty_sample_of_a_batch_fails_alone_and_no_neighbour_is_computed_too_often(case: tuple[int, int]) -> None:
    n, guilty = case
    computed: Counter[int] = Counter()

    def function(model: Any, samples: Sequence[int]) -> list[int]:
        computed.update(samples)
        if guilty in samples:
            raise ValueError("poison")
        return list(samples)

    results = compute(function, None, range(n), FakeDevice())
    assert [r for i, r in enumerate(results) if i != guilty] == [i for i in range(n) if i != guilty]
    assert isinstance(results[guilty], ValueError)
    assert max(computed.values()) <= math.ceil(math.log2(n)) + 1


def test_a_full_memory_is_freed_and_the_batch_halved_until_it_fits() -> None:
    device, sizes = FakeDevice(), []

    def function(model: Any, samples: Sequence[int]) -> list[int]:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise FullError("no room")
        return list(samples)

    assert compute(function, None, list(range(8)), device) == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]
    assert device.freed == 3


def test_a_single_sample_that_does_not_fit_is_resource_exhausted_and_its_neighbours_succeed() -> None:
    def function(model: Any, samples: Sequence[int]) -> list[int]:
        if sum(samples) >= 100:
            raise FullError("no room")
        return list(samples)

    results = compute(function, None, [1, 100, 2, 3], FakeDevice())
    assert isinstance(results[1], ResourceExhausted)
    assert [results[0], *results[2:]] == [1, 2, 3]


def test_a_list_of_the_wrong_length_is_a_bug_of_the_function_and_says_which() -> None:
    def forgetful(model: Any, samples: Sequence[int]) -> list[int]:
        return [sample for sample in samples if sample != 3]

    results = compute(forgetful, None, [1, 2, 3, 4], FakeDevice())
    assert isinstance(results[2], HandlerBug)
    assert "forgetful returned 0 results for 1 samples" in results[2].message
    assert [results[0], results[1], results[3]] == [1, 2, 4]


def test_a_library_that_calls_exit_fails_its_sample_and_not_the_process() -> None:
    def function(model: Any, samples: Sequence[int]) -> list[int]:
        raise SystemExit(3)

    (result,) = compute(function, None, [1], FakeDevice())
    assert isinstance(result, SystemExit)


def test_a_broken_device_is_no_sample_s_fault() -> None:
    def function(model: Any, samples: Sequence[int]) -> list[int]:
        raise BrokenError("illegal access")

    with pytest.raises(DeviceBroken, match="illegal access"):
        compute(function, None, [1, 2], FakeDevice())


def test_torch_s_full_memory_and_broken_context_are_told_apart() -> None:
    import torch

    device = TorchDevice("cuda:0")
    full, broken = (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: device-side assert triggered"),
    )
    assert device.is_full(full)
    assert device.is_full(MemoryError())
    assert not device.is_broken(full)
    assert device.is_broken(broken)
    assert not device.is_full(broken)
    assert not device.is_broken(RuntimeError("size mismatch"))
    assert not TorchDevice("cpu").is_broken(broken)
