"""The playground's speed on the starter model, side by side from one run: `python -m tests.benchmarks.playground [--json] [--tokens N]`.

two_panes_vs_one      seconds of base and LoRA (rank 8, all linear layers, random weights) together over seconds of the base alone
adapter_vs_base       seconds of the adapter alone over the base alone: the part of the above that is the adapter's own
first_token_vs_plain  time to the first token of both panes over transformers' generate of one token of the base
first_token_vs_two    the same over generate called for base and adapter, one after the other
first_token_vs_one    the same over the time to the first token of the base's pane alone: what a second pane adds
floor                 the base's linear layers alone over twice the prompt's positions, over once: what two prompts cost at least
long_...              the four of them with a prompt of about 370 tokens in place of 50
streaming_cost        seconds with every token sent as text over seconds without, minus 1
cancel_ms             from the cancel to the end of computing
returned              share of the worker's memory that the system has back after unloading

Each ratio is the median over rounds in which its sides were measured one after the other; first tokens are the least of five in a
round, because they are short. No answer ends early: the stop tokens are left out, so that every side computes the same number of tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from studio.core.paths import StudioHome
from studio.core.sampling import Sampling
from studio.core.spec import ModelSpec, RunSpec
from studio.jobs.worker import Worker
from studio.methods import get_method
from studio.methods.adapters import save_adapter
from studio.play import engine as engine_module
from studio.play.engine import Engine, Question

ASKED = "Write a Python function named `clamp`.\n\nReturn value limited to the range from low to high."
PROMPT = [{"role": "user", "content": ASKED}]
LONG_PROMPT = [{"role": "user", "content": ASKED + " Explain every step of it at length." * 40}]
REPEATS = 5


class EndlessEngine(Engine):
    """Answers that never end by themselves."""

    def stop_ids(self) -> frozenset[int]:
        return frozenset()


class SilentStream:
    """In place of the text stream: tokens are counted, never decoded or sent."""

    text = ""

    def __init__(self, tokenizer: object) -> None:
        pass

    def push(self, token: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def make_adapter(engine: Engine, folder: Path) -> Path:
    """A random LoRA adapter of the quickstart's size; the engine has to load its base anew afterwards."""
    spec = RunSpec.parse({"method": {"family": "lora", "rank": 8}})
    tuned = get_method("lora").attach(engine.loaded.model, spec, engine.loaded.tokenizer)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    save_adapter(tuned, folder / "adapter", spec)
    engine.unload()
    return folder / "adapter"


def seconds(engine: Engine, panes: list[str], tokens: int, prompt: list[dict[str, str]] = PROMPT) -> tuple[float, float]:
    """(whole answer, first token) in seconds."""
    question = Question(dict.fromkeys(panes, prompt), Sampling(max_new_tokens=tokens))
    began = time.perf_counter()
    done = engine.answer(question, lambda event, data: None, lambda: False)
    return time.perf_counter() - began, max(pane["first_token_s"] for pane in done["panes"])


def silent_seconds(engine: Engine, tokens: int) -> float:
    stream, engine_module.TextStream = engine_module.TextStream, SilentStream
    try:
        return seconds(engine, ["base"], tokens)[0]
    finally:
        engine_module.TextStream = stream


def plain_first_token(engine: Engine, pane: str, prompt: list[dict[str, str]]) -> float:
    """transformers' own generate, one token of the base or the adapter, in seconds."""
    ids = torch.tensor([engine.encode(prompt)])
    with engine.injection.rows([pane]), torch.inference_mode():
        began = time.perf_counter()
        engine.loaded.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False)
        return time.perf_counter() - began


def first_tokens(engine: Engine, prompt: list[dict[str, str]]) -> dict[str, float]:
    """The first token of both panes over each of what it is compared with; of each the least of REPEATS times, taken in turn."""
    positions = len(engine.encode(prompt))
    ways: list[Callable[[], float]] = [
        lambda: seconds(engine, ["base", "tuned"], 1, prompt)[1], lambda: seconds(engine, ["base"], 1, prompt)[1],
        lambda: plain_first_token(engine, "base", prompt), lambda: plain_first_token(engine, "tuned", prompt),
        lambda: linear_seconds(engine, positions), lambda: linear_seconds(engine, 2 * positions),
    ]  # fmt: skip
    taken = zip(*([way() for way in ways] for _ in range(REPEATS)), strict=True)
    both, one, base, tuned, once, twice = map(min, taken)
    return {
        "first_token_vs_plain": both / base, "first_token_vs_two": both / (base + tuned), "first_token_vs_one": both / one,
        "floor": twice / once,
    }  # fmt: skip


@torch.inference_mode()
def linear_seconds(engine: Engine, positions: int) -> float:
    """All linear layers of the base's blocks over so many positions, in seconds."""
    named = engine.loaded.model.named_modules()
    weights = [part.weight for name, part in named if isinstance(part, torch.nn.Linear) and "lora" not in name and "lm_head" not in name]
    read = {width: torch.ones(positions, width, dtype=weights[0].dtype) for width in {weight.shape[1] for weight in weights}}
    began = time.perf_counter()
    for weight in weights:
        torch.nn.functional.linear(read[weight.shape[1]], weight)
    return time.perf_counter() - began


def cancel_and_return(home: StudioHome, folder: Path) -> tuple[float, float]:
    """(milliseconds from cancel to the end of computing, share of memory returned) of a worker process."""
    worker = Worker("studio.play", folder / "play.log", arguments=["--home", str(home.root)])
    load = {"model": {"id": "starter"}}
    worker.call("load", **load)
    stream = worker.stream("generate", panes=["base"], messages=PROMPT, sampling={"max_new_tokens": 2000})
    for count, event in enumerate(stream):
        if count > 5 or event.name == "done":
            break
    began = time.perf_counter()
    stream.close()
    worker.call("render", messages=PROMPT)  # answered only once the cancelled request has ended
    cancel_ms = 1000 * (time.perf_counter() - began)
    process = psutil.Process(worker.pid)
    held = process.memory_info().rss
    worker.close()
    left = process.memory_info().rss if process.is_running() and process.status() != psutil.STATUS_ZOMBIE else 0
    return cancel_ms, 1 - left / held


def measure(home: StudioHome, tokens: int, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as made:
        engine = EndlessEngine(home)
        engine.load(ModelSpec(), "none", {})
        adapter = make_adapter(engine, Path(made))
        engine.load(ModelSpec(), "none", {"tuned": str(adapter)})
        seconds(engine, ["base", "tuned"], 8)
        kept: dict[str, list[float]] = {}
        for _ in range(rounds):
            base, _ = seconds(engine, ["base"], tokens)
            both, _ = seconds(engine, ["base", "tuned"], tokens)
            tuned, _ = seconds(engine, ["tuned"], tokens)
            long = {f"long_{name}": ratio for name, ratio in first_tokens(engine, LONG_PROMPT).items()}
            found = {
                "two_panes_vs_one": both / base, "adapter_vs_base": tuned / base, **first_tokens(engine, PROMPT), **long,
                "streaming_cost": base / silent_seconds(engine, tokens) - 1, "base_tokens_per_s": tokens / base,
                "both_tokens_per_s": tokens / both,
            }  # fmt: skip
            for name, value in found.items():
                kept.setdefault(name, []).append(value)
        cancel_ms, returned = cancel_and_return(home, Path(made))
    return {name: statistics.median(values) for name, values in kept.items()} | {"cancel_ms": cancel_ms, "returned": returned}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    found = measure(StudioHome.find(), options.tokens, options.rounds)
    print(json.dumps(found) if options.json else "\n".join(f"{name:26} {value:8.3f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
