"""Small labelled texts, and a text model of random weights that trains and exports in seconds."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable
from pathlib import Path

CLASSES = ("delivery", "payment", "praise")
_WORDS = {
    "delivery": ("parcel", "courier", "late", "tracking", "包裹", "快递", "太慢"),
    "payment": ("refund", "card", "charged", "invoice", "退款", "付款", "发票"),
    "praise": ("great", "lovely", "thanks", "perfect", "很好", "喜欢", "谢谢"),
}
_COMMON = ("the", "my", "is", "was", "a", "so", "very", "today", "please", "我", "的", "今天", "请")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Make (text, label) in turn of the classes, half of them in Chinese: words of the class among common ones."""
    chooser = random.Random(seed)
    made = []
    for number in range(count):
        label, is_chinese = CLASSES[number % len(CLASSES)], number // len(CLASSES) % 2 == 1
        own, common = ([word for word in words if word.isascii() != is_chinese] for words in (_WORDS[label], _COMMON))
        words = chooser.choices(own, k=chooser.randint(2, 3)) + chooser.choices(common, k=chooser.randint(2, 4))
        chooser.shuffle(words)
        made.append((f"{'' if is_chinese else ' '}".join(words) + f" {number}", label))
    return made


def make_pairs(count: int, seed: int = 0, candidates: int = 4) -> list[tuple[str, str, str, str]]:
    """Make (query_id, question, answer, label): each question has candidates, of which those in words of praise are relevant (1)."""
    chooser = random.Random(seed)
    pairs = []
    for number, (text, label) in enumerate(make_texts(count, seed)):
        query = number // candidates
        question = f"question {chooser.choice(_COMMON)} {query}"
        pairs.append((f"q{query}", question, text, "1" if label == "praise" else "0"))
    return pairs


def write_pairs(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("query_id", "question", "answer", "label"), *rows])
    return path


def write_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def write_encoder(folder: Path, more: Iterable[str] = ()) -> Path:
    """Save a BERT of 2 layers with seeded random weights, and a WordPiece tokenizer that knows the words of `make_texts`, and of `more` texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [text for text, _ in make_texts(60)] + ["abcdefghijklmnopqrstuvwxyz 0123456789 [](){}<>.,;:!?'\"-_/@# é ü ñ"]
    words = [word for text in (*texts, *more) for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    tokenizer = Tokenizer(models.WordPiece(vocabulary_of(words), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    around = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.token_to_id("[PAD]"),
    )
    BertModel(config).save_pretrained(folder)
    return folder


def vocabulary_of(words: list[str]) -> dict[str, int]:
    """Number the special tokens, every character at the beginning of a word and inside one, and the words that come more than once.

    The trainer of `tokenizers` would do as well, but breaks ties otherwise in every process.
    """
    characters = sorted({mark + character for word in words for place, character in enumerate(word) for mark in ("", "##" * (place > 0))})
    whole = sorted({word for word in words if words.count(word) > 1 and len(word) > 1})
    return {token: number for number, token in enumerate([*SPECIAL, *characters, *whole])}


_NAMES = ("ada", "grace", "alan", "linus", "王芳", "李伟")
_PLACES = ("paris", "new york", "rome", "buenos aires", "北京", "上海")


def make_entities(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Make {"text", "entities"} in turn in English and Chinese: names of people and places among common words, some of two words."""
    chooser = random.Random(seed)
    made: list[dict[str, object]] = []
    for number in range(count):
        is_chinese = number % 2 == 1
        between = "" if is_chinese else " "
        own = [(name, kind) for names, kind in ((_NAMES, "PER"), (_PLACES, "LOC")) for name in names if name.isascii() != is_chinese]
        common = [(word, "") for word in _COMMON if word.isascii() != is_chinese]
        words = [*chooser.sample(own, chooser.randint(0, 2)), *chooser.choices(common, k=chooser.randint(2, 5))]
        chooser.shuffle(words)
        text, entities = "", []
        for word, kind in words:
            text += between if text else ""
            if kind:
                entities.append({"start": len(text), "end": len(text) + len(word), "label": kind})
            text += word
        made.append({"text": f"{text} {number}", "entities": entities})
    return made


def write_entities(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_labelled(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Make {"text", "labels"} in turn in English and Chinese: words of none, one or two of the classes among common ones."""
    chooser = random.Random(seed)
    made: list[dict[str, object]] = []
    for number in range(count):
        is_chinese = number % 2 == 1
        labels = chooser.sample(CLASSES, chooser.choice((0, 1, 1, 2)))
        words = [word for label in labels for word in chooser.choices([word for word in _WORDS[label] if word.isascii() != is_chinese], k=2)]
        words += chooser.choices([word for word in _COMMON if word.isascii() != is_chinese], k=chooser.randint(2, 4))
        chooser.shuffle(words)
        made.append({"text": ("" if is_chinese else " ").join(words) + f" {number}", "labels": sorted(labels)})
    return made


def make_scored(count: int, seed: int = 0) -> list[tuple[str, str, str, str]]:
    """Make (query_id, question, answer, score): the more of its four words praise, in English or Chinese, the higher the score, from 0 to 5."""
    chooser = random.Random(seed)
    made = []
    for number in range(count):
        is_chinese = number % 2 == 1
        own, other, common = ([word for word in words if word.isascii() != is_chinese] for words in (_WORDS["praise"], _WORDS["payment"], _COMMON))
        praised = chooser.randint(0, 4)
        words = chooser.choices(own, k=praised) + chooser.choices(other, k=4 - praised) + chooser.choices(common, k=2)
        chooser.shuffle(words)
        score = min(5.0, max(0.0, 1.25 * praised + chooser.uniform(-0.3, 0.3)))
        made.append((f"q{number // 4}", f"question {chooser.choice(common)} {number // 4}", ("" if is_chinese else " ").join(words), f"{score:.2f}"))
    return made
