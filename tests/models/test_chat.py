"""Chat templates: the prompt trained on is the prompt asked, answers and their end are found, failures are named."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.core.errors import ModelError
from studio.models.chat import encode_conversation, encode_prompt, encode_text, render_prompt

# Qwen3's habit, shortened: reasoning of earlier answers disappears once somebody speaks again.
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}(thought){% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DATED = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}" + NO_SYSTEM
UNENDED = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

QUESTION = {"role": "user", "content": "Return the largest value."}
ANSWER = {"role": "assistant", "content": "def largest(values):\n    return max(values)"}
TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40).filter(lambda text: "<|" not in text)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def metaspace_tokenizer():
    """Like Llama 2's: any text it is given begins with a space of its own, and with <s> unless told otherwise."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    bpe.train_from_iterator(
        ["Question Answer the largest value of values max def return\n\n### : = ( )"] * 3,
        trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>"], show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def merging_tokenizer(tokenizer):
    """Like most real ones, it has a token for two line breaks in a row."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(["a\n\nb\n\n"] * 5, trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=special, show_progress=False))
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", chat_template=tokenizer.chat_template)
    assert len(made("\n\n")["input_ids"]) == 1
    return made


def with_template(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def trained_text(tokenizer, encoded):
    return tokenizer.decode([token for token, trained in zip(*encoded, strict=True) if trained], clean_up_tokenization_spaces=False)


def test_the_answer_and_its_end_are_trained_on_and_nothing_else(tokenizer):
    encoded = encode_conversation(tokenizer, [QUESTION, ANSWER])
    assert trained_text(tokenizer, encoded) == ANSWER["content"] + "<|im_end|>"
    assert encoded.labelled[-1] is False, "the line break behind the end of turn is the template's, not the model's"
    whole = tokenizer.apply_chat_template([QUESTION, ANSWER], tokenize=False)
    assert tokenizer.decode(encoded.ids, clean_up_tokenization_spaces=False) == whole


def test_every_answer_of_a_conversation_is_trained_on(tokenizer):
    again = {"role": "assistant", "content": "min(values)"}
    encoded = encode_conversation(tokenizer, [QUESTION, ANSWER, {"role": "user", "content": "And the least?"}, again])
    assert trained_text(tokenizer, encoded) == ANSWER["content"] + "<|im_end|>" + again["content"] + "<|im_end|>"


def test_the_prompt_is_what_transformers_itself_makes_of_it(tokenizer):
    system = {"role": "system", "content": "Be brief."}
    own = tokenizer.apply_chat_template([system, QUESTION], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert encode_prompt(tokenizer, [system, QUESTION]) == own
    assert tokenizer.decode(own) == render_prompt(tokenizer, [system, QUESTION])


@settings(deadline=None, max_examples=60)
@given(texts=st.lists(TEXTS, min_size=2, max_size=6))
def test_the_prompt_trained_on_is_the_prompt_asked_token_for_token(tokenizer, texts):
    """Whatever the texts (line breaks and spaces at the border included), after any number of turns, with and without a template."""
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    turns = turns[: len(turns) // 2 * 2]
    for template in (tokenizer.chat_template, None, NO_SYSTEM):
        model = with_template(tokenizer, template)
        trained = encode_conversation(model, turns)
        for place in range(1, len(turns), 2):
            prompt = encode_prompt(model, turns[:place])
            assert trained.ids[: len(prompt)] == prompt
            assert trained.labelled[len(prompt)] is True
            assert not trained.labelled[len(prompt) - 1]


def test_a_border_that_would_merge_into_one_token_stays_a_border(merging_tokenizer):
    """Of three line breaks, two of which are one token elsewhere, the first belongs to the prompt; also when the answer is history."""
    turns = [QUESTION, {"role": "assistant", "content": "\n\nreturn"}, QUESTION, ANSWER]
    trained = encode_conversation(merging_tokenizer, turns)
    for place in (1, 3):
        prompt = encode_prompt(merging_tokenizer, turns[:place])
        assert trained.ids[: len(prompt)] == prompt
    assert trained_text(merging_tokenizer, trained) == f"\n\nreturn<|im_end|>{ANSWER['content']}<|im_end|>"


def test_turns_after_the_last_answer_are_left_out(tokenizer):
    assert encode_conversation(tokenizer, [QUESTION, ANSWER, QUESTION]) == encode_conversation(tokenizer, [QUESTION, ANSWER])


def test_a_template_that_rewrites_earlier_turns_is_named(tokenizer):
    model = with_template(tokenizer, REWRITING)
    with pytest.raises(ModelError, match="rewrites what came before message 4"):
        encode_conversation(model, [QUESTION, ANSWER, QUESTION, ANSWER])
    single = encode_conversation(model, [QUESTION, ANSWER])
    prompt = encode_prompt(model, [QUESTION])
    assert single.ids[: len(prompt)] == prompt
    asked = encode_prompt(model, [QUESTION, ANSWER, QUESTION])
    assert model.decode(asked, clean_up_tokenization_spaces=False) == render_prompt(model, [QUESTION, ANSWER, QUESTION])


def test_a_template_that_refuses_a_role_is_named(tokenizer):
    model = with_template(tokenizer, NO_SYSTEM)
    with pytest.raises(ModelError, match="roles system, user: System role not supported") as error:
        encode_prompt(model, [{"role": "system", "content": "Be brief."}, QUESTION])
    assert "system prompt" in error.value.hint
    with pytest.raises(ModelError, match="chat template refuses"):
        encode_prompt(with_template(tokenizer, "{{ messages[0]['content'] "), [QUESTION])


def test_a_template_cannot_reach_out_of_its_sandbox(tokenizer):
    escaping = with_template(tokenizer, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ModelError, match="chat template refuses"):
        encode_prompt(escaping, [QUESTION])


def test_a_conversation_without_answer_is_refused(tokenizer):
    with pytest.raises(ModelError, match="no answer"):
        encode_conversation(tokenizer, [QUESTION])


def test_a_rendered_beginning_of_text_is_not_doubled(tokenizer, metaspace_tokenizer):
    bos = tokenizer.bos_token_id
    assert encode_prompt(with_template(tokenizer, NO_SYSTEM), [QUESTION]).count(bos) == 1
    rendering = with_template(metaspace_tokenizer, NO_SYSTEM.replace("<|im_end|>", "</s>"))
    encoded = encode_conversation(rendering, [QUESTION, ANSWER])
    assert encoded.ids[0] == 1
    assert encoded.ids.count(1) == 1


def test_a_dated_template_gives_the_same_prompt_every_day(tokenizer):
    assert render_prompt(with_template(tokenizer, DATED), [QUESTION]).startswith("26 Jul 2024")


def test_a_template_without_end_of_turn_gets_one_so_that_the_model_stops(tokenizer):
    encoded = encode_conversation(with_template(tokenizer, UNENDED), [QUESTION, ANSWER])
    assert encoded.ids[-1] == tokenizer.eos_token_id
    assert encoded.labelled[-1]


def test_added_tokens_that_are_no_special_ones_end_no_answer(tokenizer):
    """Code models have runs of spaces as added tokens."""
    from tokenizers import AddedToken

    model = with_template(tokenizer, UNENDED)
    model.add_tokens([AddedToken("        ", special=False, normalized=False)])
    encoded = encode_conversation(model, [QUESTION, {"role": "assistant", "content": "if x:\n        return y"}])
    assert trained_text(model, encoded) == "if x:\n        return y\n<|im_end|>"


def test_without_a_template_the_plain_one_is_used(tokenizer, metaspace_tokenizer):
    plain = with_template(tokenizer, None)
    turns = [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER]
    encoded = encode_conversation(plain, turns)
    assert plain.decode(encoded.ids, clean_up_tokenization_spaces=False) == (
        f"Be brief.\n\n### Question:\n{QUESTION['content']}\n\n### Answer:\n{ANSWER['content']}<|im_end|>\n\n"
    )
    assert trained_text(plain, encoded) == ANSWER["content"] + "<|im_end|>"
    assert encode_prompt(metaspace_tokenizer, [QUESTION])[:1] == [metaspace_tokenizer.bos_token_id]
    assert encode_prompt(metaspace_tokenizer, [QUESTION]).count(metaspace_tokenizer.bos_token_id) == 1


def test_a_tokenizer_that_begins_texts_with_a_space_puts_none_before_an_answer(metaspace_tokenizer):
    turns = [{"role": "user", "content": "the largest value"}, {"role": "assistant", "content": "max values"}]
    encoded = encode_conversation(metaspace_tokenizer, turns)
    answer = [token for token, trained in zip(*encoded, strict=True) if trained]
    assert not metaspace_tokenizer.convert_ids_to_tokens(answer)[0].startswith("▁")
    prompt = encode_prompt(metaspace_tokenizer, turns[:1])
    assert encoded.ids[: len(prompt)] == prompt


def test_plain_text_is_trained_on_throughout_and_ends(tokenizer, metaspace_tokenizer):
    encoded = encode_text(tokenizer, "def is_even(number):")
    assert trained_text(tokenizer, encoded) == "def is_even(number):<|im_end|>"
    assert all(encoded.labelled)
    assert encode_text(tokenizer, "text<|im_end|>").ids.count(tokenizer.eos_token_id) == 1
    assert encode_text(tokenizer, "text", closed=False).ids == tokenizer("text")["input_ids"]
    begun = encode_text(metaspace_tokenizer, "values")
    assert begun.ids[0] == metaspace_tokenizer.bos_token_id
    assert begun.labelled[0] is False


@pytest.mark.real
def test_the_starter_model_is_trained_on_the_prompt_it_is_asked(starter_model):
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(starter_model)
    turns = [QUESTION, {"role": "assistant", "content": "```python\ndef largest(values):\n    return max(values)\n```"}, QUESTION, ANSWER]
    trained = encode_conversation(real, turns)
    for place in (1, 3):
        prompt = encode_prompt(real, turns[:place])
        assert trained.ids[: len(prompt)] == prompt
    own = real.apply_chat_template([QUESTION], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert encode_prompt(real, [QUESTION]) == own
    assert trained_text(real, trained) == turns[1]["content"] + "<|im_end|>" + ANSWER["content"] + "<|im_end|>"
