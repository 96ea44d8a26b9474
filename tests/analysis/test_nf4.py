"""What is measured on a matrix equals what dense quantization and dequantization give; and theory equals simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from studio.analysis.codebooks import codebook
from studio.analysis.jsonable import to_jsonable
from studio.analysis.model_report import report_model, report_module
from studio.analysis.nf4 import measure_linear
from studio.analysis.normal_theory import normal_ideal
from studio.analysis.quantization_info import QuantizationOptions, TensorReport
from studio.analysis.quantize import (
    dequantize_blocks,
    dequantize_rows,
    double_dequantize,
    double_quantize,
    quantize_blocks,
    quantize_rows,
)
from studio.analysis.tensors import open_model
from studio.core.errors import AnalysisError

OCCUPANCY_PERCENT = [1.85, 4.37, 5.85, 7.07, 8.09, 8.82, 9.24, 8.83, 8.13, 7.80, 7.33, 6.67, 5.81, 4.79, 3.61, 1.73]


def _measure(folder: Path, weight: torch.Tensor, options: QuantizationOptions | None = None) -> TensorReport:
    folder.mkdir(exist_ok=True)
    save_file({"model.layers.0.mlp.up_proj.weight": weight.contiguous()}, folder / "model.safetensors")
    return measure_linear(open_model(folder).linear(0, "up_proj"), options)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def normal_report(tmp_path_factory: pytest.TempPathFactory) -> TensorReport:
    return _measure(tmp_path_factory.mktemp("normal"), _normal(2048, 1024))


@pytest.mark.parametrize(("name", "rmse"), [("nf4", 0.0920), ("fp4", 0.1219), ("int4", 0.1077)])
def test_normal_weights_give_the_known_error(normal_report: TensorReport, name: str, rmse: float) -> None:
    info = normal_report.types[name]
    assert info.relative_rmse == pytest.approx(rmse, abs=2e-4)
    assert normal_ideal(name, 64).relative_rmse == pytest.approx(rmse, abs=2e-4)
    assert info.predicted_relative_rmse == pytest.approx(info.relative_rmse_single, rel=5e-3)
    assert info.sqnr_db == pytest.approx(-20 * np.log10(rmse), abs=0.02)


@pytest.mark.parametrize(("block_size", "rmse"), [(32, 0.0873), (128, 0.0956), (256, 0.0987), (4096, 0.1101)])
def test_theory_gives_the_known_error_of_other_blocks(block_size: int, rmse: float) -> None:
    assert normal_ideal("nf4", block_size).relative_rmse == pytest.approx(rmse, abs=3e-4)


def test_normal_weights_use_the_codes_as_the_table_says(normal_report: TensorReport) -> None:
    counts = np.array(normal_report.types["nf4"].code_counts)
    assert np.abs(100 * counts / counts.sum() - OCCUPANCY_PERCENT).max() < 0.1
    assert np.abs(100 * np.array(normal_ideal("nf4", 64).occupancy) - OCCUPANCY_PERCENT).max() < 0.05
    assert normal_report.types["nf4"].entropy_bits == pytest.approx(3.884, abs=2e-3)


def test_normal_weights_look_normal(normal_report: TensorReport) -> None:
    weights = normal_report.weights
    assert abs(weights.excess_kurtosis) < 0.02
    assert weights.ks_distance < 0.01
    assert weights.std == pytest.approx(1, abs=3e-3)
    assert weights.outlier_column_count == 0


def test_double_quantization_adds_little_error_and_saves_bits(normal_report: TensorReport) -> None:
    info = normal_report.types["nf4"]
    assert 0 < info.relative_rmse / info.relative_rmse_single - 1 < 6e-4
    assert info.bits_per_weight == pytest.approx(4.12698, abs=1e-4)


def test_without_double_quantization_four_and_a_half_bits(tmp_path: Path) -> None:
    info = _measure(tmp_path, _normal(64, 64), QuantizationOptions(("nf4",), 64, False)).types["nf4"]
    assert info.bits_per_weight == 4.5
    assert info.relative_rmse == info.relative_rmse_single
    assert info.absmax.relative_rmse == 0


@pytest.mark.parametrize("shape", [(96, 320), (7, 33), (1, 5), (300, 1000)])
@pytest.mark.parametrize("block_size", [32, 64, 4096])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_equal_dense_quantization(tmp_path: Path, shape: tuple[int, int], block_size: int, dtype: torch.dtype) -> None:
    weight = (_normal(*shape, seed=3) ** 3 * 0.01).to(dtype)
    report = _measure(tmp_path, weight, QuantizationOptions(block_size=block_size))
    dense = weight.float().numpy()
    for name in ("nf4", "fp4", "int4"):
        info, quantized = report.types[name], quantize_blocks(dense, codebook(name), block_size)
        assert info.code_counts == tuple(np.bincount(quantized.codes, minlength=len(info.levels)).tolist())
        single = dequantize_blocks(quantized).reshape(shape)
        double = dequantize_blocks(quantized, double_dequantize(double_quantize(quantized.absmax))).reshape(shape)
        assert info.relative_rmse_single == pytest.approx(_relative(dense, single), rel=1e-4)
        assert info.relative_rmse == pytest.approx(_relative(dense, double), rel=1e-4)
    codes, maxima = quantize_rows(dense)
    assert report.types["int8"].code_counts == tuple(np.bincount(codes.reshape(-1).astype(int) + 127, minlength=255).tolist())
    assert report.types["int8"].relative_rmse == pytest.approx(_relative(dense, dequantize_rows(codes, maxima)), rel=1e-3)
    assert sum(report.weights.histogram_counts) == dense.size


def _relative(dense: np.ndarray, back: np.ndarray) -> float:
    return float(np.sqrt(((dense.astype(np.float64) - back) ** 2).sum() / (dense.astype(np.float64) ** 2).sum()))


def test_moments_equal_scipy(tmp_path: Path) -> None:
    from scipy import stats

    weight = _normal(200, 300) ** 3 * 1e-9 + 2e-10
    report = _measure(tmp_path, weight).weights
    values = weight.double().numpy().ravel()
    assert report.excess_kurtosis == pytest.approx(stats.kurtosis(values), rel=1e-3)
    assert report.std == pytest.approx(values.std(), rel=1e-5)
    exact = stats.kstest((values - values.mean()) / values.std(), "norm").statistic
    assert report.ks_distance == pytest.approx(exact, abs=0.012)


def test_worst_block_and_outlier_columns_are_found(tmp_path: Path) -> None:
    weight = _normal(64, 128) * 0.01
    weight[:, 17] *= 30
    weight[5, 64:128] = torch.linspace(-20, 19, 64)
    report = _measure(tmp_path, weight)
    worst = report.types["nf4"].worst
    assert (worst.index, worst.row, worst.column, worst.absmax) == (11, 5, 64, 20)
    weight[5] = 0
    report = _measure(tmp_path, weight)
    assert [column.column for column in report.weights.outlier_columns] == [17]


def test_a_matrix_of_zeros_is_measured_without_dividing_by_zero(tmp_path: Path) -> None:
    report = _measure(tmp_path, torch.zeros(8, 64))
    assert report.weights.excess_kurtosis is None
    assert report.weights.ks_distance is None
    assert report.weights.zero_blocks == 8
    for info in report.types.values():
        assert (info.relative_rmse, info.sqnr_db, info.worst) == (0, None, None)
    json.dumps(to_jsonable(report), allow_nan=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_name_the_tensor(tmp_path: Path, bad: float) -> None:
    weight = torch.ones(8, 64)
    weight[3, 3] = bad
    with pytest.raises(AnalysisError, match=r"model\.layers\.0\.mlp\.up_proj holds NaN or infinity"):
        _measure(tmp_path, weight)


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="no quantization type 'nf5'"):
        _measure(tmp_path, torch.ones(2, 2), QuantizationOptions(types=("nf5",)))
    with pytest.raises(AnalysisError, match="block of 60"):
        _measure(tmp_path, torch.ones(2, 2), QuantizationOptions(block_size=60))
    with pytest.raises(AnalysisError, match="holds no weights"):
        _measure(tmp_path, torch.ones(0, 2))


def test_a_model_is_reported_and_found_again_in_the_cache(tiny_llama: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = report_model(tiny_llama, cache=tmp_path, progress=lambda done, of: seen.append((done, of)))
    assert seen[-1] == (14, 14)
    second = report_model(tiny_llama, cache=tmp_path, progress=lambda done, of: pytest.fail("measured again"))
    assert second == first
    assert report_module(tiny_llama, 1, "q_proj", cache=tmp_path) == report_module(tiny_llama, 1, "q_proj")
    assert first.totals["nf4"].linear_size_bytes == sum(
        report_module(tiny_llama, cell.layer, cell.module, cache=tmp_path).types["nf4"].size_bytes for cell in first.modules
    )
    assert first.totals["nf4"].model_size_bytes < first.totals["int8"].model_size_bytes < first.stored_size_bytes


def test_a_torn_cache_and_other_options_are_measured_again(tiny_llama: Path, tmp_path: Path) -> None:
    first = report_model(tiny_llama, cache=tmp_path)
    for file in tmp_path.rglob("*.json"):
        file.write_text(file.read_text()[:100])
    assert report_model(tiny_llama, cache=tmp_path) == first
    other = report_model(tiny_llama, QuantizationOptions(block_size=128), cache=tmp_path)
    assert other.totals["nf4"].bits_per_weight < first.totals["nf4"].bits_per_weight


@pytest.mark.real
def test_the_starter_model_is_measured_whole(starter_model: Path) -> None:
    report = report_model(starter_model, QuantizationOptions(types=("nf4", "int8")))
    assert len(report.modules) == 210
    assert 0.08 < report.totals["nf4"].relative_rmse < 0.11
    assert report.totals["int8"].sqnr_db > 35
