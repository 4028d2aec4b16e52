"""The languages that questions are in, for a card's metadata: told by letters and by the commonest words.

It is a rough count, enough to tell that a table is in German and not in English; what it cannot tell, it does not say.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

NAMES = {
    "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fr": "French", "he": "Hebrew", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pt": "Portuguese", "th": "Thai", "zh": "Chinese",
}  # fmt: skip
# Letters of one language alone, those of Japanese before the ones that it shares with Chinese.
LETTERS = {
    "ja": "\u3040-\u30ff", "ko": "\uac00-\ud7af", "zh": "\u4e00-\u9fff", "el": "\u0370-\u03ff",
    "he": "\u0590-\u05ff", "th": "\u0e00-\u0e7f",
}  # fmt: skip
WORDS = {
    "en": "what is are the there which how many who where does do this that of in on any was has have color colour",
    "de": "was ist sind der die das wie viele welche welcher welches wer wo gibt es ein eine auf im dem hat welchem",
    "fr": "quel quelle quels quelles est sont le la les combien que qui où il y a un une dans sur ce de y-a-t-il",
    "es": "qué cuál cuántos cuántas quién dónde es son está están el la los las hay un una en de del cómo tiene",
    "it": "che cosa cos'è quale quanti quante chi dove è sono il lo la gli le c'è un una nel nella di del come",
    "pt": "qual quais quantos quantas quem onde é são está estão o a os as há um uma no na de do da que como tem",
    "nl": "wat is zijn de het hoeveel welke wie waar er een op in van heeft hoe welk dit dat staat ligt",
}
LETTER_OF = {name: re.compile(f"[{letters}]") for name, letters in LETTERS.items()}
WORDS_OF = {name: frozenset(words.split()) for name, words in WORDS.items()}
LEAST = 0.05  # of the questions, for a language to be named
TOLD = 0.5  # of the questions, for any to be named


def language_of(question: str) -> str | None:
    """The code of the language that a question is in; None where that cannot be told."""
    for name, letter in LETTER_OF.items():
        if letter.search(question):
            return name
    words = re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", question.casefold())
    hits = {name: sum(word in known for word in words) for name, known in WORDS_OF.items()}
    most = max(hits.values())
    best = [name for name, count in hits.items() if count == most]
    return best[0] if most and len(best) == 1 else None


def languages_of(questions: Iterable[str]) -> list[str]:
    """The languages of the questions, the commonest first; none where most cannot be told."""
    questions = [question for question in questions if question.strip()]
    counts = Counter(map(language_of, questions))
    unknown = counts.pop(None, 0)
    if unknown > (1 - TOLD) * len(questions):
        return []
    return [name for name, count in counts.most_common() if count >= LEAST * len(questions)]
