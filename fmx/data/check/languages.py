"""In which languages texts are written, where the library that tells them apart is installed (extra `text`)."""

from __future__ import annotations

from collections.abc import Callable

from fmx.texts import LOOKED_AT

UNTOLD = "not told"
"""Too short, or between two languages."""
SURE = 0.7
"""Probability of the likeliest language from which it is believed."""
LEAST_LETTERS = {"Han": 4, "Kana": 4, "Hangul": 4}
"""Letters that tell a language at all, by script; elsewhere `LEAST_OTHERS`."""
LEAST_OTHERS = 12
MISSING = "Languages are told apart where py3langid 0.4 is installed: pip install 'fmx-toolkit[text]'."


def language_teller() -> Callable[[str, dict[str, float]], str] | None:
    """Give what says in which language a text with such shares of scripts is, as ISO 639-1 writes it, or `UNTOLD`; None without the library.

    Naive Bayes over byte n-grams (Lui and Baldwin 2012, "langid.py: An off-the-shelf language identification tool"), about 30 us a sentence.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    if not hasattr(LanguageIdentifier, "from_model_file"):  # releases before 0.4
        return None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def language(text: str, scripts: dict[str, float]) -> str:
        seen = text[:LOOKED_AT]
        script = max(scripts, key=lambda name: scripts[name])
        if sum(map(str.isalpha, seen)) < LEAST_LETTERS.get(script, LEAST_OTHERS):
            return UNTOLD
        name, probability = identifier.classify(seen)
        return str(name) if probability >= SURE else UNTOLD

    return language
