"""EVA initialisation of a LoRA (arXiv 2410.07170): A starts along the principal directions of each layer's inputs on training data.

PEFT does the incremental decomposition. It asks for batches until every direction has settled, and for ever where a batch has fewer
tokens than the rank or the data has fewer directions; both are bounded here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from studio.core.errors import MethodError

if TYPE_CHECKING:
    from peft import PeftModel

MAX_BATCHES = 100
"""More than ever needed where the directions settle at all: a handful is usual."""

HINT = "Use a larger training.batch_size, a smaller rank, or method.init default."


def initialize_eva(model: PeftModel, batches: Iterable[dict[str, Any]], rank: int) -> None:
    """Set every A of the 'default' adapter; every B stays zero. Raises MethodError where the data is too little for the rank."""
    from peft import initialize_lora_eva_weights

    enough = [batch for batch in batches if int(batch["attention_mask"].sum()) > rank]
    if not enough:
        raise MethodError(f"EVA needs more than {rank} tokens in a batch for rank {rank}, and no batch has them.", HINT)
    was_training = model.training
    model.eval()
    initialize_lora_eva_weights(model, dataloader=_Repeated(enough), show_progress_bar=False)
    model.train(was_training)


class _Repeated:
    """The batches over and over, up to a bound."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for turn in range(MAX_BATCHES):
            yield self.batches[turn % len(self.batches)]
        raise MethodError(f"EVA found no stable directions in {MAX_BATCHES} batches: the data has fewer than the rank.", HINT)
