"""Codes, block maxima and packed bytes equal bitsandbytes' bit for bit; what is read back equals too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from studio.analysis.codebooks import NF4_TABLE, codebook, dynamic_map, generate_nf4
from studio.analysis.quantize import (
    dequantize_blocks,
    dequantize_rows,
    double_dequantize,
    double_quantize,
    pack_codes,
    quantize_blocks,
    quantize_rows,
    unpack_codes,
)
from studio.analysis.tensors import open_model, read_linear
from studio.core.errors import AnalysisError


@pytest.fixture(scope="module")
def bnb() -> Any:
    import bitsandbytes.functional as functional

    return functional


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def _assert_equal_to_bitsandbytes(bnb: Any, weight: torch.Tensor, book: str, block_size: int) -> None:
    packed, state = bnb.quantize_4bit(weight, blocksize=block_size, quant_type=book, compress_statistics=False)
    ours = quantize_blocks(weight.float().numpy(), codebook(book), block_size)
    assert np.array_equal(pack_codes(ours.codes, codebook(book).zero_code), packed.numpy().ravel())
    assert np.array_equal(ours.absmax, state.absmax.numpy())


def test_the_generator_gives_the_table() -> None:
    assert np.allclose(generate_nf4(), NF4_TABLE, atol=2e-7)


def test_tables_equal_bitsandbytes(bnb: Any) -> None:
    for name in ("nf4", "fp4"):
        assert np.array_equal(codebook(name).table, bnb.get_4bit_type(name, device="cpu").numpy())
    assert np.array_equal(dynamic_map(), bnb.create_dynamic_map().numpy())


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("block_size", [32, 64, 128, 256, 512, 1024, 2048, 4096])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_codes_and_maxima_equal_bitsandbytes(bnb: Any, book: str, block_size: int, dtype: torch.dtype) -> None:
    _assert_equal_to_bitsandbytes(bnb, _normal(96, 320, seed=block_size).to(dtype), book, block_size)


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 129, 1001])
def test_short_last_blocks_equal_bitsandbytes(bnb: Any, book: str, count: int) -> None:
    _assert_equal_to_bitsandbytes(bnb, _normal(count, seed=count), book, 64)


@pytest.mark.parametrize("book", ["nf4", "fp4"])
def test_boundaries_ties_zeros_and_tiny_numbers_equal_bitsandbytes(bnb: Any, book: str) -> None:
    bounds = codebook(book).boundaries
    around = np.concatenate([bounds, np.nextafter(bounds, np.float32(-2)), np.nextafter(bounds, np.float32(2)), [1.0, -0.0, 0.0]])
    values = np.concatenate([np.resize(around, 64), np.zeros(64), np.full(64, 1e-42), np.resize([1e-38, -3e-39], 64), np.zeros(3)])
    _assert_equal_to_bitsandbytes(bnb, torch.tensor(values.astype(np.float32)), book, 64)


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_read_back_equal_bitsandbytes(bnb: Any, book: str, dtype: torch.dtype) -> None:
    weight = _normal(128, 256).to(dtype)
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type=book)
    ours = torch.tensor(dequantize_blocks(quantize_blocks(weight.float().numpy(), codebook(book)))).to(dtype)
    assert torch.equal(ours.reshape(weight.shape), bnb.dequantize_4bit(packed, state))


def test_double_quantization_equals_bitsandbytes(bnb: Any) -> None:
    weight = _normal(512, 1024)
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    ours = quantize_blocks(weight.numpy(), codebook("nf4"))
    stored = double_quantize(ours.absmax, offset=state.offset.item())
    assert np.array_equal(stored.codes, state.absmax.numpy())
    assert np.array_equal(stored.absmax, state.state2.absmax.numpy())
    back = dequantize_blocks(ours, double_dequantize(stored)).reshape(weight.shape)
    assert np.array_equal(back, bnb.dequantize_4bit(packed, state).numpy())
    alone = double_quantize(ours.absmax)
    assert abs(alone.offset - state.offset.item()) <= 2e-7 * abs(state.offset.item())


def test_double_quantization_of_equal_maxima_divides_by_nothing(bnb: Any) -> None:
    stored = double_quantize(np.full(300, 0.5, dtype=np.float32))
    codes, _ = bnb.quantize_blockwise(torch.zeros(300), blocksize=256)
    assert np.array_equal(stored.codes, codes.numpy())
    assert np.array_equal(double_dequantize(stored), np.full(300, 0.5, dtype=np.float32))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [2e-39, 1e-42])
def test_double_quantization_of_maxima_too_small_to_divide_by_gives_their_mean(scale: float) -> None:
    absmax = quantize_blocks(_normal(64, 600).numpy() * np.float32(scale / 0.05), codebook("nf4")).absmax
    stored = double_quantize(absmax)
    back = double_dequantize(stored)
    tiny = np.repeat(stored.absmax == 0, 256)[: back.size]
    assert tiny.any() and np.array_equal(back[tiny], np.full(tiny.sum(), stored.offset))
    assert np.isfinite(back).all()


def test_double_quantization_of_small_maxima_equals_bitsandbytes(bnb: Any) -> None:
    weight = _normal(64, 600) * 8e-38
    _, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True)
    stored = double_quantize(quantize_blocks(weight.numpy(), codebook("nf4")).absmax, offset=state.offset.item())
    assert np.array_equal(stored.codes, state.absmax.numpy())
    assert np.array_equal(stored.absmax, state.state2.absmax.numpy())


def test_int8_rows_equal_bitsandbytes(bnb: Any) -> None:
    weight = _normal(64, 96).half()
    codes, maxima, _ = bnb.int8_vectorwise_quant(weight.clone())
    ours, ours_maxima = quantize_rows(weight.float().numpy())
    assert np.array_equal(ours, codes.numpy())
    assert np.array_equal(ours_maxima, maxima.numpy())
    assert np.abs(dequantize_rows(ours, ours_maxima) - weight.float().numpy()).max() <= ours_maxima.max() / 254 * 1.001


def test_a_row_of_zeros_stays_zero() -> None:
    codes, maxima = quantize_rows(np.zeros((2, 3), dtype=np.float32))
    assert not codes.any() and not dequantize_rows(codes, maxima).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_a_sentence(bad: float) -> None:
    weight = np.ones((4, 64), dtype=np.float32)
    weight[2, 5] = bad
    with pytest.raises(AnalysisError, match="NaN or infinity"):
        quantize_blocks(weight, codebook("nf4"))
    with pytest.raises(AnalysisError, match="NaN or infinity"):
        quantize_rows(weight)


def test_what_cannot_be_quantized_is_a_sentence() -> None:
    with pytest.raises(AnalysisError, match="block of 65 weights"):
        quantize_blocks(np.ones(64), codebook("nf4"), 65)
    with pytest.raises(AnalysisError, match="no weights"):
        quantize_blocks(np.ones((0, 4)), codebook("nf4"))
    with pytest.raises(AnalysisError, match="no code book 'nf5'"):
        codebook("nf5")


@settings(max_examples=60, deadline=None)
@given(
    weights=arrays(np.float32, st.integers(1, 300), elements=st.floats(-(2.0**66), 2.0**66, width=32)),
    book=st.sampled_from(["nf4", "fp4", "int4"]),
)
def test_every_weight_takes_a_nearest_level(weights: np.ndarray, book: str) -> None:
    quantized = quantize_blocks(weights, codebook(book), 32)
    scale = np.repeat(quantized.absmax, 32)[: weights.size].astype(np.float64)
    safe = np.where(scale < 1e-30, 1, scale)
    normalised = np.where(scale < 1e-30, 0, weights / safe)
    distances = np.abs(normalised[:, None] - codebook(book).table.astype(np.float64))
    chosen = distances[np.arange(weights.size), quantized.codes]
    usable = scale >= 1e-30
    assert np.all(chosen[usable] <= distances.min(axis=1)[usable] + 1e-6)
    assert np.array_equal(unpack_codes(pack_codes(quantized.codes), weights.size), quantized.codes)


@settings(max_examples=30, deadline=None)
@given(weights=arrays(np.float32, 64, elements=st.floats(-100, 100, width=32)), scale=st.integers(-20, 20))
def test_codes_do_not_depend_on_a_power_of_two(weights: np.ndarray, scale: int) -> None:
    weights[np.abs(weights) < 1e-6] = 0
    scaled = quantize_blocks(np.ldexp(weights, scale), codebook("nf4"), 64)
    assert np.array_equal(scaled.codes, quantize_blocks(weights, codebook("nf4"), 64).codes)


@pytest.mark.real
@pytest.mark.parametrize("book", ["nf4", "fp4"])
def test_real_weights_equal_bitsandbytes(bnb: Any, starter_model: Path, book: str) -> None:
    model = open_model(starter_model)
    for linear in model.linear_layers[::13]:
        _assert_equal_to_bitsandbytes(bnb, torch.tensor(read_linear(linear)), book, 64)
