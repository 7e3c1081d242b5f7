"""Content words of a text: what a search matches and what a citation must share with its post."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

# Function words of English and French: frequent, and about nothing.
_STOP_WORDS = """
a about above after again all am an and another any anyone anything are aren't as at be because been before being below
between both but by can can't could did didn't do does doesn't doing don't down during each else few for from further
get got had has hasn't have haven't having he her here hers him his how i i'm i've if in into is isn't it it's its just
like me more most my no nor not now of off on once one only or other our out over own people platform post posted posts
said same say saying says she should so some someone something such talk talking tell than that that's the their them
then there these they they're think thinks this those through to too under until up us very was we were what what's
when where which while who whom why will with would write writes wrote you you're your yours
au autre autres aux avec c'est ce ces cet cette d'un d'une dans de des dit dont du elle elles en est et eux faire fait
gens il ils j'ai je la le les leur leurs lui ma mais me mes moi mon même n'est ne nos notre nous on ont ou où par parle
parlent pas pensent plus pour qu'est qu'il qu'on quand que quel quelle quelles quelqu'un quels qui quoi sa sans se sera
ses si son sont sous sur ta te tes toi ton tous tout toute toutes très tu un une va vers vos votre vous y à écrit
écrivent été être
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def words(text: str) -> list[str]:
    """Lower-case words in order, `don't` as one word."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def content_words(text: str) -> list[str]:
    """Words that carry meaning, in order; numbers count, single letters do not."""
    return [word for word in words(text) if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())]
