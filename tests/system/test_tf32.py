"""Float32 products from TF32 products: interpreted on a CPU, compiled on a GPU."""

from __future__ import annotations

import pytest
import torch

from system import tf32
from tests.cuda import DEVICES, needs_cuda

pytest.importorskip("triton")

KERNEL_DEVICES = DEVICES[1:] if torch.cuda.is_available() else DEVICES


def factors(device):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 7, 80), torch.randn(50, 80)
    return [values.to(device) for values in (x * torch.logspace(-9, 9, 7)[:, None], weight)]


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_parts_are_a_values_first_and_last_bits(device):
    x, _ = factors(device)
    high, again, low = tf32.split(x).split(80, dim=-1)
    assert torch.equal(high, again)
    assert torch.equal(high + low, x)
    assert not (high.view(torch.int32) & 0x1FFF).any()  # TF32 has 13 bits fewer
    assert (low.abs() <= x.abs() * 2**-11).all()


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_parts_of_a_weight_are_in_another_order(device):
    _, weight = factors(device)
    high, low, again = tf32.split(weight, is_weight=True).split(80, dim=-1)
    expected, _, expected_low = tf32.split(weight).split(80, dim=-1)
    for found, part in (high, expected), (low, expected_low), (again, expected):
        assert torch.equal(found, part)


@pytest.mark.parametrize("device", KERNEL_DEVICES)
def test_the_products_of_parts_add_up_to_the_product(device):
    x, weight = factors(device)
    found = tf32.split(x).double() @ tf32.split(weight, is_weight=True).double().T
    size = x.abs().double() @ weight.abs().double().T
    error = (found - x.double() @ weight.double().T).abs()
    assert (error <= 2**-22 * size).all()
    assert error.any()  # low by low is left out


def test_a_cpu_does_not_multiply_so():
    assert not tf32.multiplies(torch.ones(2, 2))


@needs_cuda
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_layer_is_as_exact_as_in_float32(has_bias):
    if not tf32.multiplies(torch.ones(2, 2, device="cuda")):
        pytest.skip("needs fast TF32")
    torch.manual_seed(0)
    x, weight = (torch.randn(rows, 768, device="cuda") for rows in (999, 3072))
    bias = torch.randn(3072, device="cuda") if has_bias else None
    exact = torch.nn.functional.linear(*(v if v is None else v.double() for v in (x, weight, bias)))
    plain = torch.nn.functional.linear(x, weight, bias)
    found = tf32.linear(x, weight, bias)
    assert torch.get_float32_matmul_precision() == "highest"
    assert (found - exact).norm() < 2 * (plain - exact).norm()
    assert (found - exact).abs().max() < 2 * (plain - exact).abs().max()
