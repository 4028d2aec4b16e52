"""The page's look: its style, and answers and reasons as HTML."""

from __future__ import annotations

import base64
import io
from html import escape

from configuration_ume.scores import quantity
from modeling_ume.modalities_ume import MODALITIES
from training_ume.serve.judges import Card, Judge, Reasons, Visit

# ------------------------------------------------------------------------------------------------------------- as HTML

CSS = """
.gradio-container {max-width: 1180px !important; margin: auto !important}
#upload [data-testid="upload-icon"] {display: none}
#upload [data-testid="upload-text"] {padding-top: 18px; font-size: .95rem}
/* a message says more, and what was there before still holds */
:is(#answers, #picture) [data-testid="status-tracker"]:has(> .error) {display: none}
#picture img {width: 100%; height: 100%; object-fit: contain}
.ume-card {border: 1px solid var(--border-color-primary); border-radius: 10px; padding: 14px 16px; margin: 0 0 14px;
  background: var(--background-fill-primary); color: var(--body-text-color)}
.ume-card h3 {margin: 0 0 10px; font-size: 1.15rem; overflow-wrap: anywhere; color: var(--body-text-color)}
.ume-models {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 22px}
.ume-models h4 {margin: 0 0 6px; font-size: .9rem; font-weight: 600; color: var(--body-text-color); opacity: .8}
.ume-rows {display: grid; grid-template-columns: minmax(3.5rem, max-content) 1fr max-content; gap: 5px 10px;
  align-items: center; margin: 0; font-variant-numeric: tabular-nums}
.ume-rows dt {overflow-wrap: anywhere; max-width: 11rem}
.ume-rows dt.first {font-weight: 700}
.ume-rows dd {margin: 0; color: var(--body-text-color)}
.ume-rows dd:nth-of-type(even) {text-align: right}
.ume-track {position: relative; display: block; height: 12px; border-radius: 3px;
  background: var(--border-color-primary)}
.ume-track i {position: absolute; top: 0; bottom: 0; border-radius: 3px; background: #4878a8}
.ume-track i.image {background: #c47f2c}
.ume-track i.start {background: #8a8f98}
.ume-track i.against {background: repeating-linear-gradient(45deg, #b5473c 0 4px, #d98a82 4px 8px)}
.ume-card figure {margin: 12px 0 0; max-width: 320px}
.ume-card figure img {width: 100%; border-radius: 6px; display: block}
.ume-card figcaption, .ume-note {font-size: .85rem; color: var(--body-text-color); opacity: .8;
  margin: 5px 0}
.ume-wait {animation: ume-wait 1.2s ease-in-out infinite alternate}
@keyframes ume-wait {to {opacity: .4}}
@media (prefers-reduced-motion: reduce) {.ume-wait {animation: none}}
"""


def render(judges: list[Judge], visit: Visit) -> str:
    """The questions and answers of a visit as HTML that loads nothing; what strangers wrote is escaped."""
    if not visit.cards:
        return '<p class="ume-note">The answers will stand here.</p>'
    return "".join(render_card(judges, card) for card in visit.cards)


def render_answers(judges: list[Judge], cards: list[Card]) -> str:
    """The same of answers without reasons."""
    if not cards:
        return '<p class="ume-note">The answers will stand here.</p>'
    return "".join(render_card(judges, card, explained=False) for card in cards)


def render_card(judges: list[Judge], card: Card, explained: bool = True) -> str:
    parts = []
    for number, (judge, answers) in enumerate(zip(judges, card.answers, strict=True)):
        rows = "".join(
            f"<dt{'' if place else ' class=first'}>{escape(found['answer'])}</dt>"
            f"<dd>{bar(0, found['score'])}</dd><dd>{found['score']:.1%}</dd>"
            if "score" in found
            else f"<dt class=first>{escape(found['name'])}</dt><dd></dd><dd>{quantity(found['answer'])}</dd>"
            for place, found in enumerate(answers)
        )
        reasons = '<p class="ume-note ume-wait">Looking for the reasons …</p>' if explained else ""
        if card.reasons is not None:
            reasons = render_reasons(answers[0], card.reasons[number])
        parts.append(f'<section><h4>{escape(judge.title)}</h4><dl class="ume-rows">{rows}</dl>{reasons}</section>')
    return (
        f'<article class="ume-card"><h3>{escape(card.question)}</h3><div class="ume-models">{"".join(parts)}</div>'
        "</article>"
    )


def render_reasons(best: dict, why: Reasons) -> str:
    """The heat map, and bars that lead from the probability without anything to the one with all."""
    said = escape(best["answer"])
    file = io.BytesIO()
    why.heat.save(file, "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    where = f"What in the image speaks for “{said}”" if why.speaks_for else f"Nothing in the image speaks for “{said}”"
    nouns = {kind.short: kind.noun for kind in MODALITIES.values()}
    rows, so_far = [("neither" if len(why.shapley) == 2 else "none", "start", 0.0, why.start)], why.start
    for name, by in why.shapley.items():
        rows.append((nouns[name], name, so_far, by))
        so_far += by
    added = " and ".join(nouns[name] for name in why.shapley)
    missing = "either" if len(why.shapley) == 2 else "any"
    bars = "".join(
        f"<dt>{name}</dt><dd>{bar(begin, by, kind)}</dd>"
        f"<dd>{f'{by:.1%}' if kind == 'start' else f'{100 * by:+.1f}'}</dd>"
        for name, kind, begin, by in rows
    )
    return (
        f'<figure><img src="{source}" alt="Heat map: {where.lower()}."><figcaption>{where}.</figcaption></figure>'
        f'<p class="ume-note">Probability of “{said}” without {missing}, and what {added} add</p>'
        f'<dl class="ume-rows ume-modalities">{bars}</dl>'
    )


def bar(begin: float, by: float, kind: str = "") -> str:
    """A bar from `begin` to `begin + by`, of 0 … 1; striped where it leads back."""
    left, right = sorted(min(max(x, 0.0), 1.0) for x in (begin, begin + by))
    kind = "against" if by < 0 else kind
    return (
        f'<span class="ume-track"><i class="{kind}" style="left:{100 * left:.1f}%;width:{100 * (right - left):.1f}%">'
        "</i></span>"
    )


# ------------------------------------------------------------------------------------------------------------ the page


NAME_EXAMPLES = """() => {
  const names = %s;
  document.querySelectorAll("#examples button").forEach((button, i) => button.setAttribute("aria-label", names[i]));
}"""
# On a telephone the answers may begin below the screen.
SHOW_ANSWERS = """() => {
  const answers = document.getElementById("answers");
  if (answers.getBoundingClientRect().top > 0.6 * window.innerHeight) answers.scrollIntoView({block: "start"});
}"""
