"""What a quantization error means: the error of one layer's output on real text, and the whole model's loss under each type.

`python -m studio.analysis.effect [--home HOME]` speaks studio.core.protocol and answers the verb `effect`
{model, layer, module, block_size, double_quant} with Effect as JSON; events "progress" (a short phrase). It loads the model in fp32,
so it lives in a process of its own that is ended afterwards.

Weights go through the same code as everywhere in the laboratory and are read back in fp32; activations stay whole, as in QLoRA. The
text is the starter dataset's last rows, the loss that of the answers' tokens in nats. It does not know other texts or other tasks, and
on so few tokens a difference below about 0.01 says little.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from studio.analysis.codebooks import codebook
from studio.analysis.locate import model_folder
from studio.analysis.quantization_info import QUANTIZATION_TYPES, QuantizationOptions
from studio.analysis.quantize import dequantize_blocks, dequantize_rows, double_dequantize, double_quantize, quantize_blocks, quantize_rows
from studio.analysis.tensors import LinearLayer, open_model, read_linear
from studio.core.errors import AnalysisError
from studio.core.paths import StudioHome
from studio.core.protocol import Call, serve
from studio.core.spec import RunSpec

ROWS = 8
MAX_TOKENS = 256
LARGEST_PARAMETERS = 1_000_000_000
Text = tuple[list[int], list[bool]]
Report = Callable[[str], None]


@dataclass(frozen=True)
class TypeEffect:
    """One type: relative error of the module's weights and of its output (root mean square), and the model's loss in nats."""

    weight_error: float
    output_error: float
    loss: float


@dataclass(frozen=True)
class Effect:
    """`loss` is that of the weights as stored; `tokens` were scored, from `rows` texts; `types` by name."""

    module: str
    rows: int
    tokens: int
    loss: float
    types: dict[str, TypeEffect]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m studio.analysis.effect", description="What a quantization error does to answers.")
    parser.add_argument("--home", default=None, help="the studio's home")
    home = StudioHome.find(parser.parse_args().home)
    serve({"effect": lambda call: answer(call, home)})


def answer(call: Call, home: StudioHome) -> dict[str, Any]:
    """The verb's handler. Errors: AnalysisError, ModelNotFound, ModelError, OutOfMemory."""
    args = call.args
    options = QuantizationOptions(block_size=int(args.get("block_size", 64)), double_quant=bool(args.get("double_quant", True)))
    where = (str(args["model"]), int(args["layer"]), str(args["module"]))
    return asdict(measure_effect(where, home, options, lambda phrase: call.emit("progress", phrase)))


def measure_effect(where: tuple[str, int, str], home: StudioHome, options: QuantizationOptions, report: Report) -> Effect:
    """The effect of each type on (model id, layer, module). Errors: as `answer`."""
    import torch

    from studio.models.load import load_base

    options.check()
    files = open_model(model_folder(where[0], home))
    _check_size(sum(ref.size for ref in files.tensors.values()))
    linear = files.linear(*where[1:])
    report("Loading the model")
    base = load_base(RunSpec.parse({"model": {"id": str(files.folder), "quantization": "none", "dtype": "float32"}}), home)
    texts = _read_texts(base.tokenizer, home)
    with torch.no_grad():
        report("Weights as stored")
        loss, tokens, inputs = _score(base.model, texts, linear)
        weight = read_linear(linear)
        types = {}
        for name in options.types:
            report(f"Weights in {name.upper()}")
            changed = requantize(weight, name, options)
            for other in files.linear_layers:
                _put(base.model, other, requantize(read_linear(other), name, options))
            types[name] = TypeEffect(
                weight_error=_relative(weight - changed, weight),
                output_error=_relative(inputs @ (weight - changed).T, inputs @ weight.T),
                loss=_score(base.model, texts, None)[0],
            )
    return Effect(linear.name, len(texts), tokens, loss, types)


def requantize(weight: np.ndarray, name: str, options: QuantizationOptions) -> np.ndarray:
    """A weight (out, in) as it comes back from one type, float32."""
    if name not in QUANTIZATION_TYPES:
        raise AnalysisError(f"There is no quantization type {name!r}.", f"Choose from {', '.join(QUANTIZATION_TYPES)}.")
    if name == "int8":
        return dequantize_rows(*quantize_rows(weight))
    blocks = quantize_blocks(weight, codebook(name), options.block_size)
    absmax = double_dequantize(double_quantize(blocks.absmax)) if options.double_quant else None
    return dequantize_blocks(blocks, absmax).reshape(weight.shape)


def _check_size(parameters: int) -> None:
    if parameters > LARGEST_PARAMETERS:
        message = f"This model has {parameters:,} parameters; measuring its loss under every type would take too long here."
        raise AnalysisError(message, f"Choose one of at most {LARGEST_PARAMETERS:,}, such as the starter model.")


def _read_texts(tokenizer: Any, home: StudioHome) -> list[Text]:
    from studio.models.chat import encode_conversation

    try:
        lines = home.starter_data.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise AnalysisError("The starter dataset is not set up yet.", "Run `python -m studio setup`, which builds it.") from error
    texts = []
    for row in map(json.loads, lines[-ROWS:]):
        messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        encoded = encode_conversation(tokenizer, messages)
        texts.append((encoded.ids[:MAX_TOKENS], encoded.labelled[:MAX_TOKENS]))
    return texts


def _score(model: Any, texts: list[Text], watched: LinearLayer | None) -> tuple[float, int, np.ndarray]:
    """Mean loss of the labelled tokens, their number, and what went into `watched`: (tokens, in)."""
    import torch

    seen: list[np.ndarray] = []
    total, tokens = 0.0, 0
    hook = (
        _submodule(model, watched).register_forward_pre_hook(lambda _, args: seen.append(args[0][0].float().cpu().numpy()))
        if watched
        else None
    )
    for ids, labelled in texts:
        tensor = torch.tensor([ids], device=model.device)
        logits = model(input_ids=tensor).logits[0, :-1].float()
        kept = torch.tensor(labelled[1:], device=model.device)
        losses = torch.nn.functional.cross_entropy(logits, tensor[0, 1:], reduction="none")
        total += float(losses[kept].sum())
        tokens += int(kept.sum())
    if hook:
        hook.remove()
    return total / max(tokens, 1), tokens, np.concatenate(seen) if seen else np.empty((0, 0))


def _put(model: Any, linear: LinearLayer, weight: np.ndarray) -> None:
    import torch

    numbers = weight.T if linear.transposed else weight
    _submodule(model, linear).weight.data.copy_(torch.from_numpy(np.ascontiguousarray(numbers)))


def _submodule(model: Any, linear: LinearLayer) -> Any:
    for name in _names(linear):
        try:
            return model.get_submodule(name)
        except AttributeError:
            continue
    raise AnalysisError(f"The loaded model has no module {linear.name}.", "Choose a model with plain linear layers.")


def _names(linear: LinearLayer) -> Iterator[str]:
    yield linear.name
    yield f"model.{linear.name}"
    yield f"transformer.{linear.name}"


def _relative(error: np.ndarray, whole: np.ndarray) -> float:
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(error)) / size if size > 0 and math.isfinite(size) else 0.0


if __name__ == "__main__":
    main()
