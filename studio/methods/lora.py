"""LoRA: a low-rank change beside each frozen weight (arXiv 2106.09685, equation 3), and the variants practitioners use.

    y = W x + s B A x,   A (r, in), B (out, r),   s = alpha / r

W is frozen, A and B are trained: r (in + out) parameters per layer in place of in * out. B starts at zero, so the model starts as the
base. The change has rank r at most. After training it can be added into W: no added latency.

- rsLoRA (arXiv 2312.03732, theorem 3.2): s = alpha / sqrt(r), which keeps the size of updates alike over ranks.
- DoRA (arXiv 2402.09353, equation 5): m (W + s B A) / ||W + s B A|| by output row; the magnitude m, one number per output, is trained too.
- LoRA+ (arXiv 2402.12354): B learns at a rate several times that of A (`lora_plus_ratio`).
- PiSSA (arXiv 2404.02948): A and B start as W's leading singular directions, W keeps the rest. OLoRA (arXiv 2406.01775): as leading
  columns of a QR decomposition. Both rewrite the base in memory, so the base with the adapter disabled is *not* the original there.
  Saving turns them into a plain LoRA of twice the rank, B A - B0 A0, for the original base (see `plain_lora`).
- EVA (arXiv 2410.07170): A starts as the leading right singular vectors of each layer's inputs on training data; B at zero. Ranks are
  not redistributed (rho 1), so that the parameter count is known beforehand.

Adapter weights are fp32 whatever the base's dtype: updates of bf16 weights round to nothing.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.core.errors import MethodError
from studio.core.shape import ModelShape
from studio.core.spec import LoraSpec, RunSpec
from studio.methods import frozen_base, saving
from studio.methods.base import Batches, MethodCard, MethodPart, make_card, register
from studio.methods.eva import initialize_eva
from studio.methods.targets import Target, find_targets, invalid_patterns, pattern_matches, pattern_rank, target_names

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REWRITES_BASE = ("pissa", "olora")
"""Initialisations that move part of the base's weights into the adapter."""

CARD_TEXTS = {
    "formula": "y = (W + (α / r) · B A) x",
    "added": "Two thin matrices beside each chosen weight: A maps the input to r numbers, B maps those to the output.",
    "good_for": "Fine-tuning with little memory; the usual first choice.",
    "architecture_change": "Small: a change of weights, no new layer.",
    "merges": "Merges into the base: no added latency.",
    "source": "Hu et al. 2021, arXiv 2106.09685",
}


class LoraMethod:
    """The LoRA family on a base held in any way."""

    family = "lora"
    title = "LoRA"
    sentence = "Learns a low-rank change beside the frozen weights."
    texts = CARD_TEXTS

    def problems(self, spec: RunSpec, shape: ModelShape) -> list[str]:
        method = _lora_spec(spec)
        bad = invalid_patterns(method)
        if bad:
            return [
                f"method.rank_pattern {', '.join(map(repr, bad))} is no regular expression: give the end of a module's name, as q_proj."
            ]
        targets = list(find_targets(method, shape))
        found = _missing_layers(method, shape) + _missing_targets(method, shape) + _rank_problems(targets, method.rank)
        idle = [pattern for pattern in method.rank_pattern if not any(pattern_matches(pattern, target.name) for target in targets)]
        if idle and targets:
            found.append(f"method.rank_pattern {_listed(idle)} matches none of the adapted layers: {_listed(_names(targets))}.")
        if not targets and not found:
            found.append("method.targets matches no module of this model: pick some of its linear layers, or all-linear.")
        if method.dora and method.init in REWRITES_BASE:
            found.append(f"method.init {method.init} rewrites the base's weights, which DoRA's magnitudes rest on: use one of the two.")
        if method.init == "eva" and method.rank_pattern:
            found.append("method.init eva shares ranks out between layers, which undoes method.rank_pattern: use one of the two.")
        return found

    def advice(self, spec: RunSpec) -> list[str]:
        method = _lora_spec(spec)
        found = []
        if method.init in REWRITES_BASE:
            found.append(f"{method.init} moves part of the base into the adapter while training: the saved adapter has twice the rank.")
        if method.dora:
            found.append("DoRA computes the norm of every adapted weight in each step: expect it to be clearly slower than LoRA.")
        return found

    def added_parameters(self, method: LoraSpec, shape: ModelShape) -> int:
        targets = list(find_targets(method, shape))
        magnitudes = sum(target.linear.out_features for target in targets) if method.dora else 0
        return sum(target.parameters for target in targets) + magnitudes

    def describe(self, method: LoraSpec, shape: ModelShape) -> MethodCard:
        targets = list(find_targets(method, shape))
        layers = len({target.layer for target in targets})
        first = [target for target in targets if target.layer == targets[0].layer] if targets else []
        card = make_card(self, shape, (_part(target, method.dora) for target in first), layers, self.texts)
        total = self.added_parameters(method, shape)
        # A rank pattern may make layers differ; the total is then the exact count and the parts are those of the first adapted layer.
        return MethodCard(**{**vars(card), "parameters": total, "share": total / (shape.parameters + total), "adapter_bytes": 4 * total})

    def attach(
        self, model: PreTrainedModel, spec: RunSpec, tokenizer: PreTrainedTokenizerBase, batches: Batches | None = None
    ) -> PeftModel:
        from peft import get_peft_model

        method = _lora_spec(spec)
        frozen_base.prepare_base(model, spec.quantization)
        if method.init == "eva" and batches is None:
            raise MethodError("EVA initialisation looks at training data, and none was given.", "Use the default initialisation.")
        with warnings.catch_warnings():
            # peft warns of its own conversion of PiSSA and OLoRA adapters at saving; `save` has another.
            warnings.simplefilter("ignore", UserWarning)
            config = make_config(method, model)
            _check_on_model(method, model, config)
            adapted = get_peft_model(model, config)
        if method.init == "eva" and batches is not None:
            initialize_eva(adapted, batches(), method.rank)
        if method.init in REWRITES_BASE:
            adapted.initial_lora = _copy_lora(adapted)
        return adapted

    def parameter_groups(self, model: PeftModel, spec: RunSpec) -> list[dict[str, Any]]:
        ratio = _lora_spec(spec).lora_plus_ratio
        groups: dict[str, list[Any]] = {"A": [], "B": []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups["B" if ".lora_B." in name else "A"].append(parameter)
        common = {"weight_decay": spec.training.weight_decay}
        return [
            {"params": groups["A"], "lr": spec.learning_rate, **common},
            {"params": groups["B"], "lr": spec.learning_rate * ratio, **common},
        ]

    def save(self, model: PeftModel, folder: Path, spec: RunSpec) -> None:
        method = _lora_spec(spec)
        if method.init not in REWRITES_BASE:
            saving.write_adapter(model, folder, spec, changes={"init_lora_weights": True, "eva_config": None})
            return
        initial = getattr(model, "initial_lora", None)
        if initial is None:
            raise MethodError(
                f"This {method.init} adapter's starting weights are gone, so it cannot be saved for the original base.",
                "Attach it again with the run's own settings, then load the trained weights.",
            )
        saving.write_adapter(model, folder, spec, changes=_doubled(method), convert=lambda tensors: plain_lora(tensors, initial))


def _lora_spec(spec: RunSpec) -> LoraSpec:
    if not isinstance(spec.method, LoraSpec):
        raise MethodError(f"These are settings of {spec.method.family}, not of LoRA.")
    return spec.method


def _missing_layers(method: LoraSpec, shape: ModelShape) -> list[str]:
    beyond = sorted(layer for layer in set(method.layers) if layer >= shape.layers)
    if not beyond:
        return []
    return [f"method.layers names {_listed(beyond)}, but the model's {shape.layers} layers are 0 to {shape.layers - 1}."]


def _missing_targets(method: LoraSpec, shape: ModelShape) -> list[str]:
    if not isinstance(method.targets, list):
        return []
    everywhere = method.model_copy(update={"layers": []})
    missing = [name for name in target_names(method, ()) if not any(find_targets(everywhere.model_copy(update={"targets": [name]}), shape))]
    if not missing:
        return []
    there = ", ".join(linear.short_name for linear in shape.linears)
    return [f"method.targets {_listed(missing)} matches no linear layer of this model: it has {there}."]


def _rank_problems(targets: list[Target], usual: int) -> list[str]:
    """A rank above min(in, out) adds parameters that cannot add rank. One sentence per rank; `usual` is method.rank."""
    too_high: dict[int, dict[int, list[str]]] = {}
    for target in targets:
        limit = min(target.linear.in_features, target.linear.out_features)
        if target.rank > limit:
            names = too_high.setdefault(target.rank, {}).setdefault(limit, [])
            names += [] if target.linear.short_name in names else [target.linear.short_name]
    return [_rank_problem("method.rank" if rank == usual else "method.rank_pattern", rank, limits) for rank, limits in too_high.items()]


def _rank_problem(setting: str, rank: int, limits: dict[int, list[str]]) -> str:
    """`limits`: the highest rank that is possible -> the modules it holds for."""
    bounds = {limit: f" (at most {limit})" if len(limits) > 1 else "" for limit in sorted(limits)}
    modules = _joined([_joined(limits[limit]) + bound for limit, bound in bounds.items()])
    return f"{setting} {rank} is above the rank that {modules} can have: use at most {min(limits)}."


def _joined(names: list[str]) -> str:
    """'q_proj, k_proj and v_proj'."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _names(targets: list[Target]) -> list[str]:
    return list(dict.fromkeys(target.linear.short_name for target in targets))


def _listed(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _part(target: Target, dora: bool) -> MethodPart:
    rank, linear = target.rank, target.linear
    shapes = f"A {rank} × {linear.in_features}, B {linear.out_features} × {rank}"
    if dora:
        return MethodPart(linear.name, f"{shapes}, m {linear.out_features}", target.parameters + linear.out_features)
    return MethodPart(linear.name, shapes, target.parameters)


def make_config(method: LoraSpec, model: PreTrainedModel) -> LoraConfig:
    """PEFT's own configuration for this model."""
    from peft import EvaConfig, LoraConfig
    from transformers.pytorch_utils import Conv1D

    linears = frozen_base.layer_linears(model)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=target_names(method, linears),
        layers_to_transform=sorted(set(method.layers)) or None,
        use_rslora=method.rslora,
        use_dora=method.dora,
        init_lora_weights=True if method.init == "default" else method.init,
        eva_config=EvaConfig(rho=1.0) if method.init == "eva" else None,
        rank_pattern=dict(method.rank_pattern),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linears.values()),
    )


def _check_on_model(method: LoraSpec, model: PreTrainedModel, config: LoraConfig) -> None:
    """The checks of `problems`, on the real modules: a model whose shape was not known beforehand gets the same answer."""
    linears = frozen_base.layer_linears(model)
    names = [name for name in linears if any(f".{name}".endswith(f".{target}") for target in config.target_modules)]
    if not names:
        raise MethodError(
            f"The targets {_listed(sorted(config.target_modules))} match no linear layer of this model.",
            f"It has {_listed(sorted({name.rsplit('.', 1)[-1] for name in linears}))}; all-linear takes them all.",
        )
    for name in names:
        limit = min(frozen_base.widths(linears[name]))
        rank = pattern_rank(method.rank, method.rank_pattern, name)
        if rank > limit:
            raise MethodError(f"Rank {rank} is above the rank {limit} that {name} can have.", f"Use at most {limit}.")


def _copy_lora(model: PeftModel) -> dict[str, torch.Tensor]:
    """A and B as they started, on the CPU, by the names they are saved under."""
    from peft import get_peft_model_state_dict

    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in get_peft_model_state_dict(model).items()}


def plain_lora(tensors: dict[str, torch.Tensor], initial: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The LoRA of twice the rank for the original base: B A - B0 A0 = [B, -B0] [A; A0].

    Training ran on W - s B0 A0 + s B A; on the untouched W that is the change s (B A - B0 A0).
    """
    import torch

    result = {}
    for name, tensor in tensors.items():
        start = initial[name].to(tensor)
        is_a = ".lora_A." in name
        result[name] = torch.cat([tensor, start], dim=0) if is_a else torch.cat([tensor, -start], dim=1)
    return result


def _doubled(method: LoraSpec) -> dict[str, Any]:
    """Config changes that keep s with twice the rank: alpha grows as s = alpha / r or alpha / sqrt(r) asks."""
    return {
        "init_lora_weights": True,
        "r": 2 * method.rank,
        "lora_alpha": method.alpha * (2**0.5 if method.rslora else 2),
        "rank_pattern": {name: 2 * rank for name, rank in method.rank_pattern.items()},
    }


register(LoraMethod())
