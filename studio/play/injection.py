"""The adapters that may answer on one base, and which of them answers in which row of a batch.

PEFT holds one family of tuners on a model at a time, so adapters of another family are taken out before one's own are put in; after
`strip` the model is the base as it was loaded. Names of panes are the page's own; PEFT sees a0, a1, ..., because its module names take
no dots. The strength of an adapter scales what it adds: s B A for LoRA, the up-projection for a bottleneck adapter; DoRA and a prefix
add nothing that a factor could scale, so they have none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.core.errors import PlayError
from studio.core.sampling import check_strength
from studio.methods.adapters import AdapterInfo, check_fits, load_adapter
from studio.play.mixed_lora import BASE_TAG, can_slice, sliced_rows

BASE = "base"


class Injection:
    """Adapters on `base`. `offer` names them, `hold` puts those needed in, `rows` says who answers where."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.offered: dict[str, tuple[Path, AdapterInfo]] = {}
        self.family = ""
        self._tags: dict[str, str] = {}
        self._peft: Any = None
        self._strength: dict[str, float] = {}

    def offer(self, adapters: Mapping[str, tuple[Path, AdapterInfo]]) -> None:
        """Make exactly these adapters (pane name -> folder and description) available. Raises MethodError and offers none then."""
        if {name: folder for name, (folder, _) in adapters.items()} == {name: folder for name, (folder, _) in self.offered.items()}:
            return
        self.strip()
        self.offered = {}
        for _, info in adapters.values():
            check_fits(self.base, info)
        self.offered = dict(adapters)
        self._tags = {name: f"a{index}" for index, name in enumerate(adapters)}

    def mixes(self, name: str) -> bool:
        """Whether PEFT answers for this pane exactly in a batch with others: the base and LoRA without DoRA.

        Other tuners ignore the row's adapter without saying so.
        """
        return name == BASE or can_mix(self.offered[name][1])

    def hold(self, names: Sequence[str]) -> None:
        """Put the family of `names` in where another one is. Raises MethodError; the base is stripped then."""
        family = next((self.offered[name][1].family for name in names if name != BASE), "")
        if not family or family == self.family:
            return
        self.strip()
        try:
            for name, (folder, info) in self.offered.items():
                if info.family == family:
                    self._peft = load_adapter(self._peft or self.base, folder, self._tags[name])
                    self.family = family
        except BaseException:
            self.strip()
            raise

    def strip(self) -> None:
        """Take every adapter out."""
        if self.family and self.family != "prefix":
            self._peft.unload()
        self._peft, self.family, self._strength = None, "", {}

    def is_clean(self) -> bool:
        """Whether no tuner's module is left in a base that should hold none."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return bool(self.family) or not any(isinstance(module, BaseTunerLayer) for module in self.base.modules())

    def new_cache(self, names: Sequence[str]) -> Any:
        """An empty key-value cache, or one that holds the prefix of the one pane in `names`."""
        if self.family == "prefix" and list(names) != [BASE]:
            self._peft.set_adapter(self._tags[names[0]])
            return self._peft.get_prompt(1)
        from transformers import DynamicCache

        return DynamicCache(config=self.base.config)

    @contextlib.contextmanager
    def rows(self, names: Sequence[str]) -> Iterator[None]:
        """Within it the base model answers as exactly `names`, row by row."""
        if not self.family or (self.family == "prefix" and list(names) != [BASE]):
            yield
        elif all(name == BASE for name in names):
            with self._peft.disable_adapter():
                yield
        elif self.family == "lora" and can_slice(self.base, tags := self._row_tags(names)):
            with sliced_rows(self.base, tags):
                yield
        elif len(set(names)) == 1:
            self._peft.set_adapter(self._tags[names[0]])
            self._peft.requires_grad_(False)
            yield
        else:
            with self._peft.base_model._enable_peft_forward_hooks(adapter_names=self._row_tags(names)):
                yield

    def _row_tags(self, names: Sequence[str]) -> list[str]:
        """PEFT's names for the rows of a mixed batch."""
        return [BASE_TAG if name == BASE else self._tags[name] for name in names]

    def set_strength(self, name: str, strength: float) -> None:
        """Scale what a held adapter adds; 1 is as trained, 0 is the base. Raises PlayError where it has no strength to set."""
        if strength == self._strength.get(name, 1.0):
            return
        info = self.offered[name][1]
        if not has_strength(info):
            raise PlayError(f"The strength of {name} cannot be set.", "LoRA without DoRA and bottleneck adapters have one. Set it to 1.")
        check_strength(strength)
        tag = self._tags[name]
        for module in self.base.modules():
            if hasattr(module, "set_scale") and tag in getattr(module, "lora_A", {}):
                module.set_scale(tag, strength)
            elif tag in getattr(module, "bottleneck_up", {}):
                _scale_up_projection(module.bottleneck_up[tag], strength)
        self._strength[name] = strength


def can_mix(info: AdapterInfo) -> bool:
    return info.family == "lora" and not info.settings.get("use_dora")


def has_strength(info: AdapterInfo) -> bool:
    return info.family == "adapter" or can_mix(info)


def _scale_up_projection(up: Any, strength: float) -> None:
    """Scale from the trained values, which are kept aside, so that 0 is not for ever."""
    if not hasattr(up, "trained_values"):
        up.trained_values = (up.weight.detach().clone(), up.bias.detach().clone())
    weight, bias = up.trained_values
    up.weight.data = weight * strength
    up.bias.data = bias * strength
