import json

import pytest
import torch
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from tests.support.small_networks import save_clip
from vae_ldm.errors import WeightsError
from vae_ldm.models.text_encoder import cut_off, load_text_encoder, new_text_encoder, new_tokenizer, tokenize

CAPTIONS = ["a photo of a Red tin", "a photo of a label, torn", "grüße"]


def words(tokenizer, prompt: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)


def test_every_word_of_the_captions_is_known_lower_cased():
    tokenizer = new_tokenizer(CAPTIONS, max_length=24)
    assert words(tokenizer, "A photo of a RED tin") == ["<begin>", "a", "photo", "of", "a", "red", "tin", "<end>"]
    assert words(tokenizer, "label, torn") == ["<begin>", "label", ",", "torn", "<end>"]
    assert words(tokenizer, "GRÜSSE grüße GRÜßE")[2:4] == ["grüße", "grüße"]


def test_letters_with_marks_are_one_letter_however_they_are_written():
    tokenizer = new_tokenizer(["café"], max_length=24)
    assert words(tokenizer, "cafe\u0301") == ["<begin>", "café", "<end>"]


def test_other_words_are_unknown():
    tokenizer = new_tokenizer(CAPTIONS, max_length=24)
    assert words(tokenizer, "a zebra of tin") == ["<begin>", "a", "<unknown>", "of", "tin", "<end>"]


def test_words_that_look_like_its_marks_are_words():
    tokenizer = new_tokenizer(["a pad"], max_length=24)
    assert words(tokenizer, "pad") == ["<begin>", "pad", "<end>"]


@pytest.mark.parametrize(
    ("captions", "min_length", "length"),
    [(CAPTIONS, 2, 9), (["a"], 2, 3), ([""], 2, 2), (["a " * 50], 2, 24), (["a"], 16, 16), (["a " * 17], 16, 19)],
)
def test_length_is_the_longest_captions_between_the_least_and_the_most_allowed(captions, min_length, length):
    tokenizer = new_tokenizer(captions, max_length=24, min_length=min_length)
    assert tokenizer.model_max_length == length
    assert tokenize(tokenizer, ["a " * 60]).shape == (1, length)


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("a photo of a dress", None),
        ("a Photo of a Dress, red", 'the prompt is 2 tokens too long for this model, which does not read ", red"'),
        ("a photo of a big zebra", 'the prompt is 1 token too long for this model, which does not read "zebra"'),
    ],
)
def test_what_is_cut_off_a_prompt_is_named_as_it_was_written(prompt, line):
    assert cut_off(new_tokenizer(["a photo of a dress"], max_length=24), prompt) == line


def test_ids_do_not_depend_on_the_order_of_captions():
    one, other = (new_tokenizer(captions, max_length=24) for captions in (CAPTIONS, CAPTIONS[::-1]))
    assert one.get_vocab() == other.get_vocab()
    assert one.get_vocab()["<pad>"] == 0


def test_token_ids_are_padded_and_cut_as_the_pipeline_does():
    tokenizer = new_tokenizer(CAPTIONS, max_length=6)
    ids = tokenize(tokenizer, ["", "a photo of a red tin"])
    assert ids.dtype == torch.int64
    pad, begin, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<begin>", "<end>"))
    assert ids[0].tolist() == [begin, end, pad, pad, pad, pad]
    assert ids[1, 0] == begin
    assert ids[1, -1] == end


def test_saved_and_opened_it_is_the_same(tmp_path):
    tokenizer = new_tokenizer(CAPTIONS, max_length=24)
    tokenizer.save_pretrained(tmp_path)
    opened = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert opened.model_max_length == tokenizer.model_max_length
    assert torch.equal(tokenize(opened, CAPTIONS), tokenize(tokenizer, CAPTIONS))


def test_states_follow_from_the_prompt_and_not_from_its_neighbours():
    tokenizer = new_tokenizer(CAPTIONS, max_length=24)
    torch.manual_seed(0)
    encoder = new_text_encoder(tokenizer, hidden_size=32, num_layers=2, num_heads=4).eval()
    ids = tokenize(tokenizer, CAPTIONS)
    with torch.no_grad():
        states = encoder(ids)[0]
        alone = encoder(ids[:1])[0]
    assert states.shape == (3, tokenizer.model_max_length, 32)
    torch.testing.assert_close(states[:1], alone)
    assert not torch.allclose(states[0], states[1])


# --- pretrained -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folders", [("", ""), ("tokenizer", "text_encoder")])
def test_a_pretrained_text_encoder_is_opened_frozen(tmp_path, folders):
    saved = save_clip(tmp_path, *folders)
    tokenizer, encoder = load_text_encoder(str(tmp_path))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), encoder.parameters(), strict=True))
    assert words(tokenizer, "A tin") == ["<|startoftext|>", "a</w>", "tin</w>", "<|endoftext|>"]
    assert tokenize(tokenizer, ["a tin"]).shape == (1, 12)


def test_no_text_encoder_is_one_line(tmp_path):
    with pytest.raises(WeightsError, match="no CLIP text encoder found") as caught:
        load_text_encoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_needs_code_of_its_own_is_refused(tmp_path):
    save_clip(tmp_path)
    (tmp_path / "tok.py").write_text("raise AssertionError('code of a model ran')")
    wanted = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": [None, "tok.T"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(wanted))
    with pytest.raises(WeightsError, match="needs code of its own, which never runs here; name a model whose class"):
        load_text_encoder(str(tmp_path))


def test_a_text_encoder_without_its_tokenizer_is_one_line(tmp_path):
    save_clip(tmp_path / "whole")
    CLIPTextModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "half")
    with pytest.raises(WeightsError, match="no tokenizer beside the text encoder") as caught:
        load_text_encoder(str(tmp_path / "half"))
    assert "\n" not in str(caught.value)
