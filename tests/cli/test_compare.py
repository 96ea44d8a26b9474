"""`compare` with a real worker: the base alone, several adapters, and the base quantized; each text is the freshly loaded model's own."""

from __future__ import annotations

import pytest

from tests.cli.conftest import json_lines, said

ASKED = ["--prompt", "Count the words.", "--max-new-tokens", "10", "--json"]


def test_the_base_alone(run, fresh, lively_llama):
    code, out, _ = run("compare", "--model", str(lively_llama), *ASKED)
    (told,) = json_lines(out)
    assert code == 0 and told["base"] == fresh(said("Count the words."), 10)
    assert [pane["pane"] for pane in told["panes"]] == ["base"] and told["run"] is None and "adapted" not in told


def test_what_quantization_changes(run, fresh, lively_llama):
    ways = ["--quantization", "none", "--quantization", "nf4", "--quantization", "int8"]
    (told,) = json_lines(run("compare", str(lively_llama), *ways, *ASKED)[1])
    assert [pane["title"] for pane in told["panes"]] == ["Base (not quantized)", "Base (NF4)", "Base (int8)"]
    expected = [fresh(said("Count the words."), 10, quantization) for quantization in ("none", "nf4", "int8")]
    assert [pane["text"] for pane in told["panes"]] == expected and len(set(expected)) == 3
    held = [told["loaded"]["base_bytes"], *(copy["base_bytes"] for copy in told["loaded"]["copies"].values())]
    assert held[0] > held[2] > held[1] > 0 and told["loaded"]["memory_bytes"] > sum(held)


def test_several_adapters_each_named_by_its_folder(run, fresh, lively_llama, make_adapter):
    folders = [make_adapter("lora", 1), make_adapter("prefix", 1)]
    code, out, _ = run("compare", str(lively_llama), str(folders[0]), "--adapter", str(folders[1]), *ASKED)
    (told,) = json_lines(out)
    assert code == 0 and [pane["title"] for pane in told["panes"]] == ["Base", "lora-1", "prefix-1"]
    assert told["panes"][2]["text"] == fresh(said("Count the words."), 10, folder=folders[1])
    assert told["passes"] == [["base", f"folder:{folders[0]}"], [f"folder:{folders[1]}"]] and told["adapted"] == told["panes"][1]["text"]


def test_for_a_person_it_names_each_answer_and_the_memory(run, lively_llama):
    code, out, err = run("compare", str(lively_llama), "--prompt", "-", "--max-new-tokens", "3", lines=("Count.", "Twice."))
    assert code == 0 and out.startswith("\n── prompt\nCount.\nTwice.\n\n── Base: 3 tokens, ")
    assert "In memory: the base in " in err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing"], "There is no run 'nothing'"),
        (["starter", "--model", "other/model"], "Several base models"),
        (["starter", "--quantization", "nf4", "--quantization", "nf4"], "already: NF4"),
        (["starter", "--adapter", "gone"], "There is no run 'gone'"),
        (["starter", "--top-k", "-1"], "top_k is 0 or more"),
        (["starter", "--strength", "nan"], "strength goes from 0 to 2"),
        (["starter", "--temperature", "nan", "--top-p", "5"], "temperature goes from 0 to 5; top_p is above 0"),
    ],
)
def test_what_cannot_be_compared_is_named_before_anything_is_loaded(arguments, named, run):
    code, out, err = run("compare", *arguments, *ASKED)
    assert code == 1 and named in err and json_lines(out)[-1]["error"]
