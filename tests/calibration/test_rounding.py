"""Calibrated rounding against bitsandbytes' own reading of the result, against nearest rounding, and against trying every code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from bitsandbytes import functional

from studio.calibration import rounding


def make_matrix(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix as a bf16 model has it, and H of 500 inputs that resemble each other, as hidden states do."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw).bfloat16().float()
    mixing = torch.randn(columns, columns, generator=draw) / columns**0.5 + torch.randn(columns, 1, generator=draw)
    inputs = torch.randn(500, columns, generator=draw) @ mixing
    return weight, inputs.t() @ inputs


def unpack(codes: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """bitsandbytes' packed codes, two a byte, as numbers 0 to 15."""
    return torch.stack([codes >> 4, codes & 15], dim=-1).flatten()[: shape.numel()].reshape(shape).long()


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(64, 128), (300, 192)])
def test_bitsandbytes_reads_exactly_what_was_chosen(shape: tuple[int, int], double: bool) -> None:
    weight, moment = make_matrix(*shape)
    weight *= torch.linspace(0.01, 3, shape[0])[:, None]
    rounded = rounding.round_matrix(weight, moment, double)
    codes, state = functional.quantize_4bit(rounded.written.bfloat16(), quant_type="nf4", compress_statistics=double)
    assert torch.equal(functional.dequantize_4bit(codes, state), rounded.read.bfloat16())
    if not double:
        assert torch.equal(rounded.written, rounded.read)


def test_blocks_may_run_over_the_ends_of_rows_and_the_last_be_short() -> None:
    # Codes are compared, not values: on a CPU bitsandbytes 0.50 reads such shapes wrongly.
    weight, moment = make_matrix(7, 90)
    rounded = rounding.round_matrix(weight, moment, double_quantization=False)
    codes, state = functional.quantize_4bit(rounded.written.bfloat16(), quant_type="nf4")
    scale = state.absmax.repeat_interleave(64)[: weight.numel()].reshape(weight.shape)
    assert torch.equal(rounding.levels(weight.device)[unpack(codes.flatten(), weight.shape)] * scale, rounded.read)


def test_a_block_of_zeros_stays_zero() -> None:
    weight, moment = make_matrix(4, 128)
    weight[1, 64:] = 0
    weight[2] = 0
    rounded = rounding.round_matrix(weight, moment)
    codes, state = functional.quantize_4bit(rounded.written.bfloat16(), quant_type="nf4", compress_statistics=True)
    found = functional.dequantize_4bit(codes, state)
    assert torch.equal(found, rounded.read.bfloat16())
    assert not found[1, 64:].any() and not found[2].any() and found[1, :64].any()


def test_no_output_is_worse_than_with_nearest_rounding_and_all_together_are_much_better() -> None:
    weight, moment = make_matrix(96, 256)
    codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    nearest = functional.dequantize_4bit(codes, state)
    chosen = rounding.round_matrix(weight, moment).read
    before, after = (rounding.output_errors(weight, matrix, moment) for matrix in (nearest, chosen))
    assert (after <= before * 1.001).all()
    assert after.sum() < before.sum() / 2


def test_the_output_error_is_that_of_the_products() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, other, inputs = (torch.randn(*size, generator=draw) for size in ((5, 8), (5, 8), (20, 8)))
    expected = (inputs @ (weight - other).t()).square().sum(dim=0)
    assert torch.allclose(rounding.output_errors(weight, other, inputs.t() @ inputs), expected, rtol=1e-5)


def test_inputs_that_have_nothing_in_common_are_rounded_to_nearest() -> None:
    # With H diagonal no column can make up for another: GPTQ is nearest rounding.
    weight, _ = make_matrix(8, 64)
    grid = rounding.make_grid(weight, double_quantization=False)
    codes = rounding.round_columns(weight, torch.diag(torch.linspace(1, 2, 64)), grid)
    assert torch.equal(codes, rounding.round_nearest(weight, grid))


def test_an_input_that_is_always_zero_and_a_matrix_never_used_are_rounded_to_nearest() -> None:
    weight, moment = make_matrix(8, 64)
    moment[5] = moment[:, 5] = 0
    grid = rounding.make_grid(weight, double_quantization=False)
    nearest = rounding.round_nearest(weight, grid)
    assert torch.equal(rounding.round_columns(weight, moment, grid)[:, 5], nearest[:, 5])
    assert torch.equal(rounding.round_columns(weight, torch.zeros(64, 64), grid), nearest)
    codes, _ = functional.quantize_4bit(weight, quant_type="nf4")
    assert torch.equal(nearest, unpack(codes.flatten(), weight.shape))


def test_it_comes_close_to_the_best_of_all_codes() -> None:
    # Four weights, 16^3 choices besides the forced one: small enough to try every one.
    table = rounding.levels(torch.device("cpu"))
    ratios = []
    for seed in range(20):
        weight, moment = make_matrix(1, 4, seed)
        grid = rounding.make_grid(weight, double_quantization=False, importance=moment.diagonal())
        place, scale = int(grid.forced.abs().argmax()), float(grid.read[0, 0])
        choices = torch.tensor(list(itertools.product(range(16), repeat=4)))
        choices = choices[choices[:, place] == (15 if grid.forced[0, place] > 0 else 0)]
        every = rounding.output_errors(weight.expand(len(choices), 4), table[choices] * scale, moment)
        found = rounding.output_errors(weight, rounding.round_matrix(weight, moment, False).read, moment)
        assert found >= every.min() * 0.999
        nearest = rounding.output_errors(weight, table[rounding.round_nearest(weight, grid)] * scale, moment)
        ratios.append(((found / every.min()).item(), (nearest / every.min()).item()))
    ours, theirs = (sorted(column)[10] for column in zip(*ratios, strict=True))
    assert ours < theirs


def test_a_block_takes_the_magnitude_with_which_nearest_rounding_errs_least() -> None:
    weight, moment = make_matrix(3, 128)
    importance, table = moment.diagonal(), rounding.levels(weight.device)
    chosen = rounding.make_grid(weight, double_quantization=False, importance=importance)
    largest = rounding.make_grid(weight, double_quantization=False)
    assert (chosen.written < largest.written).any() and torch.equal(chosen.forced, largest.forced)
    for row, start in itertools.product(range(3), (0, 64)):
        block, heavy = weight[row, start : start + 64], importance[start : start + 64]
        errors = {}
        for share in rounding.SHARES:
            scale = (block.abs().max() * share).bfloat16().float()
            nearest = ((block / scale)[:, None] - table).abs().argmin(dim=1)
            errors[scale.item()] = ((table[nearest] * scale - block).square() * heavy).sum().item()
        assert chosen.written[row, start].item() == min(errors, key=errors.__getitem__)


def test_making_up_is_the_least_squares_of_numpy_and_nothing_where_the_inputs_are_right() -> None:
    weight, _ = make_matrix(6, 16)
    draw = torch.Generator().manual_seed(1)
    wanted = torch.randn(400, 16, generator=draw)
    arriving = wanted + 0.3 * torch.randn(400, 16, generator=draw)
    moments = arriving.t() @ arriving, wanted.t() @ arriving
    ridge = rounding.RIDGE * moments[0].diagonal().mean().item()
    # The ridge as 16 more rows: sqrt(r) (T - W) = 0.
    left = torch.cat([arriving, ridge**0.5 * torch.eye(16)])
    right = torch.cat([wanted @ weight.t(), ridge**0.5 * weight.t()])
    expected = np.linalg.lstsq(left.double().numpy(), right.double().numpy(), rcond=None)[0].T
    assert np.allclose(rounding.make_up(weight, *moments).numpy(), expected, atol=1e-5)
    right_inputs = wanted.t() @ wanted
    assert torch.allclose(rounding.make_up(weight, right_inputs, right_inputs), weight, atol=1e-5)
    assert torch.equal(rounding.make_up(weight, torch.zeros(16, 16), torch.zeros(16, 16)), weight)
