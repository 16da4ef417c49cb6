"""Prompts to token states: a small CLIP text encoder of our own, or a frozen pretrained one."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vae_ldm.errors import WeightsError
from vae_ldm.models.pretrained import errors_of_libraries, load_pretrained
from vae_ldm.text import counted

_PAD, _BEGIN, _END, _UNKNOWN = "<pad>", "<begin>", "<end>", "<unknown>"


def new_tokenizer(captions: Iterable[str], *, max_length: int, min_length: int = 2) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows every word of `captions`, lower-cased; other words become `<unknown>`.

    Its `model_max_length` is the longest caption with begin and end, at least `min_length` and at most `max_length`.
    """
    tokenizer = Tokenizer(models.WordLevel({}, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words: Counter[str] = Counter()
    longest = 0
    for caption in captions:
        text = tokenizer.normalizer.normalize_str(caption)
        pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        words.update(pieces)
        longest = max(longest, len(pieces))
    vocabulary = [_PAD, _BEGIN, _END, _UNKNOWN, *sorted(words)]
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer.model = models.WordLevel(ids, unk_token=_UNKNOWN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_END}", special_tokens=[(_BEGIN, ids[_BEGIN]), (_END, ids[_END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=min(max_length, max(min_length, longest + 2)),
        pad_token=_PAD,
        bos_token=_BEGIN,
        eos_token=_END,
        unk_token=_UNKNOWN,
    )


def new_text_encoder(
    tokenizer: PreTrainedTokenizerFast, *, hidden_size: int, num_layers: int, num_heads: int
) -> CLIPTextModel:
    """A randomly initialised CLIPTextModel: token ids [B, L] -> states [B, L, hidden_size]."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            projection_dim=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            max_position_embeddings=tokenizer.model_max_length,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def load_text_encoder(source: str, *, revision: str | None = None) -> tuple[PreTrainedTokenizerBase, CLIPTextModel]:
    """Tokenizer and frozen CLIPTextModel of a folder or Hub name: a CLIP repository, or a whole SD pipeline.

    Raises WeightsError where either cannot be opened.
    """
    errors: list[WeightsError] = []
    for tokenizer_folder, encoder_folder in (("", ""), ("tokenizer", "text_encoder")):
        try:
            encoder = load_pretrained(CLIPTextModel, source, revision=revision, subfolder=encoder_folder or None)
        except WeightsError as error:
            errors.append(error)
            continue
        with errors_of_libraries(f"{source}: no tokenizer beside the text encoder"):
            tokenizer = AutoTokenizer.from_pretrained(
                source, revision=revision, subfolder=tokenizer_folder, trust_remote_code=False
            )
        check_prompt_length(source, tokenizer, encoder)
        return tokenizer, encoder.requires_grad_(False)
    raise WeightsError(f"{source}: no CLIP text encoder found ({errors[0]})")


def check_prompt_length(source: object, tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel) -> None:
    """Raise WeightsError where the tokenizer gives more tokens a prompt than the text encoder takes."""
    longest = encoder.config.max_position_embeddings
    if not 2 <= tokenizer.model_max_length <= longest:
        raise WeightsError(
            f"{source}: its text encoder takes prompts of {longest} tokens, its tokenizer does not say so; "
            f'set "model_max_length": {longest} in tokenizer_config.json'
        )


def cut_off(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str | None:
    """A line that names what the tokenizer cuts off a prompt that is too long for it; None where it cuts off nothing.

    A text encoder reads `model_max_length` tokens, begin and end included.
    """
    encoded = tokenizer(prompt, truncation=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    ids, limit = encoded.input_ids, tokenizer.model_max_length
    if len(ids) <= limit:
        return None
    lost = slice(limit - 1, len(ids) - 1)  # the last place is that of the end
    if tokenizer.is_fast:
        places = encoded["offset_mapping"][lost]
        words = prompt[places[0][0] : places[-1][1]]
    else:
        words = tokenizer.decode(ids[lost])
    return f'the prompt is {counted(len(ids) - limit, "token")} too long for this model, which does not read "{words}"'


def tokenize(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> torch.Tensor:
    """Token ids, int64 [B, L], padded and cut to the tokenizer's length exactly as StableDiffusionPipeline does."""
    return tokenizer(
        list(prompts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
