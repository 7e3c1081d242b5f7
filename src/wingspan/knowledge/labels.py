"""Labels of posts as questions: the one wording that prepare teaches and evaluate asks."""

from __future__ import annotations

LABEL_CLASSES = ("negative", "neutral", "positive")
_NEUTRAL_WITHIN = 0.5  # on the -4 to 4 scale of VADER's raters (Hutto & Gilbert 2014)


def label_question(name: str, text: str) -> str:
    """The question whose answer is one of `LABEL_CLASSES`; `name` is the label's, such as `sentiment`."""
    asked = "this post" if name == "sentiment" else f"the {name} of this post"
    return f"Is {asked} positive, neutral or negative?\n\nPost: {' '.join(text.split())}"


def label_class(value: float) -> str:
    """The class of a mean rating from -4 to 4: neutral strictly inside half a point around zero."""
    if abs(value) < _NEUTRAL_WITHIN:
        return "neutral"
    return "positive" if value > 0 else "negative"
