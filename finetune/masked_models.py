"""Base models with a masked-language head: any Hugging Face encoder by name or folder, and the folder that a pretraining leaves.

What of a checkpoint has no head gets a fresh one, whose last layer is the table of embeddings. Code out of a repository is never run.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.masking import UNASKED, MaskedBody, Masking
from finetune.text_models import Extension, check_loaded, extend, hub_errors, input_of, origin_of, place_of
from fmx import storage
from fmx.contract import TextInput
from fmx.errors import ModelError, UsageError, disk_errors, first_line
from fmx.texts import TOKENIZER_FILE, reserved_ids, tokenizer_of

CONTINUES = "##"
"""WordPiece's mark of a piece that goes on a word."""
_NAMED = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")


@dataclass(frozen=True)
class MaskedBase:
    """A model that answers what was hidden, and what its rows are made with."""

    module: MaskedBody
    spec: TextInput
    tokenizer: str
    """Its tokenizer.json."""
    names: dict[str, Any]
    """The tokenizer's special tokens and window, as `transformers` wants them."""
    masking: Masking
    origin: str
    has_fresh_head: bool


def build_masked_model(name: str, max_length: int, extension: Extension | None = None, *, whole_words: bool = False) -> MaskedBase:
    """Build an encoder with its masked-language head, or with a fresh one.

    Args:
        name: `all-minilm-l6-v2` (embedded), a folder, or a name on the hub.
        max_length: tokens of a row.
        extension: of the vocabulary; new embeddings and a fresh head are drawn from torch's random state.
        whole_words: hide words and not pieces of them.

    Raises:
        ModelError: not there, no masked-language model with a fast tokenizer, no mask, or its window is smaller than `max_length`.
        UsageError: whole words are asked for where pieces do not show to which word they belong.
        SurroundingsError: transformers is not installed.
    """
    place = place_of(name)
    with hub_errors(name):
        from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, use_fast=True)
        if tokenizer.mask_token_id is None:
            raise ModelError(f"{name} has no mask token, so nothing can be hidden.", hint="Give a model of the BERT or RoBERTa family.")
        spec, serialised = input_of(name, tokenizer, config, max_length, 1)
        options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        model, told = AutoModelForMaskedLM.from_pretrained(place, trust_remote_code=False, **options)
        prefix = f"{model.base_model_prefix}."
        check_loaded(name, (key.removeprefix(prefix) for key in told["missing_keys"] if key.startswith(prefix)))
        if extension is not None:
            spec, serialised = extend(model, spec, serialised, extension)
    masking = _masking(name, spec, serialised, tokenizer.mask_token_id, whole_words=whole_words)
    body = MaskedBody(model, spec.pad_id)
    _try(body, name, spec, masking)
    names = {key: getattr(tokenizer, key) for key in _NAMED if getattr(tokenizer, key, None) is not None}
    names["model_max_length"] = tokenizer.model_max_length
    is_fresh = any(not key.startswith(prefix) for key in told["missing_keys"])
    return MaskedBase(body, spec, serialised, names, masking, origin_of(name), is_fresh)


def _masking(name: str, spec: TextInput, serialised: str, mask_id: int, *, whole_words: bool) -> Masking:
    tokenizer = tokenizer_of(serialised.encode(), f"The tokenizer of {name}")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    size = 1 + max(vocabulary.values())
    ordinary = torch.zeros(size, dtype=torch.bool)
    ordinary[[*vocabulary.values()]] = True
    ordinary[[*reserved_ids(tokenizer, spec), mask_id]] = False
    if spec.unknown_id is not None:
        ordinary[spec.unknown_id] = False
    if not whole_words:
        return Masking(mask_id, ordinary)
    if type(tokenizer.model).__name__ != "WordPiece" or tokenizer.model.continuing_subword_prefix != CONTINUES:
        raise UsageError(f"--whole-words is for WordPiece tokenizers, and that of {name} is none.", hint="Leave it out.")
    continues = torch.zeros(size, dtype=torch.bool)
    continues[[i for token, i in vocabulary.items() if token.startswith(CONTINUES) and len(token) > len(CONTINUES)]] = True
    return Masking(mask_id, ordinary, continues)


def _try(body: MaskedBody, name: str, spec: TextInput, masking: Masking) -> None:
    """Answer two hidden tokens of a row as long as the window. Raises: `ModelError` where that does not work."""
    rows = torch.full((1, 2, spec.max_length), UNASKED)
    rows[:, 0] = int(masking.ordinary.nonzero()[0])
    rows[:, :, 1:3] = rows[:, :1, 1:3]
    body.eval()
    try:
        with torch.inference_mode():
            logits = body(rows)
        if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < spec.vocabulary:
            raise ModelError(f"{name} has a masked-language head that fmx cannot train.", hint="Use a BERT, RoBERTa, DistilBERT or ELECTRA model.")
    except ModelError:
        raise
    except Exception as error:  # a model raises what it likes
        raise ModelError(
            f"{name} cannot be pretrained: {first_line(error)}", hint="Try a smaller --max-length, or a model of the BERT family."
        ) from error
    finally:
        body.train()


def write_masked_model(folder: Path, base: MaskedBase) -> None:
    """Write a model with its tokenizer as `transformers` reads them, flushed to the disk.

    Args:
        folder: a working folder.
        base: trained.

    Raises:
        SurroundingsError: the disk is full.
        ModelError: what was written is not read as it was trained with.
    """
    with hub_errors(str(folder)):
        from safetensors import SafetensorError
        from tokenizers import Tokenizer
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(base.tokenizer), **base.names)  # type: ignore[no-untyped-call]
        with disk_errors("writing the model"):
            fast.save_pretrained(folder)
            try:
                base.module.model.save_pretrained(folder)
            except SafetensorError as error:  # for what the system says too
                raise OSError(errno.ENOSPC if "No space left" in str(error) else errno.EIO, first_line(error)) from error
        read = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, use_fast=True)
    if read.get_vocab() != fast.get_vocab() or not (folder / TOKENIZER_FILE).is_file():
        raise ModelError("The tokenizer that was written is not read as it was.", hint="This is a fault of fmx; please report it.")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors leaves its file to its owner alone
        with path.open("rb") as file:
            os.fsync(file.fileno())


def tokenizer_sha256(base: MaskedBase) -> str:
    """Hash the tokenizer that rows are made with."""
    return storage.sha256_bytes(base.tokenizer.encode())
