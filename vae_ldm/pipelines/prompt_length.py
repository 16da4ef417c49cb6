"""Says which words of a prompt a pipeline does not read, in the place of what its libraries say of the padding."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from transformers import PreTrainedTokenizerBase

from vae_ldm.models.text_encoder import cut_off

_MOST_TOLD = 5
"""Prompts of one pipeline that are named as too long."""
_LIBRARIES = (StableDiffusionPipeline, StableDiffusionImg2ImgPipeline, PreTrainedTokenizerBase)
_THEIR_WORDS = ("was truncated because", "Token indices sequence length")

_log = logging.getLogger(__name__)


@contextmanager
def telling_what_is_cut_off(pipeline: StableDiffusionPipeline, *prompts: str | Sequence[str] | None) -> Iterator[None]:
    """Warn of each prompt that is too long, once for a pipeline; within, the libraries say nothing of it."""
    told: set[str] = pipeline.__dict__.setdefault("_told_as_too_long", set())
    every = [each for some in prompts for each in ([some] if isinstance(some, str) else some or ())]
    for prompt in dict.fromkeys(every):
        if prompt not in told and len(told) < _MOST_TOLD and (line := cut_off(pipeline.tokenizer, prompt)) is not None:
            told.add(prompt)
            _log.warning("%s", line)
    loggers = [logging.getLogger(library.__module__) for library in _LIBRARIES]
    for logger in loggers:
        logger.addFilter(_is_not_about_length)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_not_about_length)


def _is_not_about_length(record: logging.LogRecord) -> bool:
    return not any(words in str(record.msg) for words in _THEIR_WORDS)
