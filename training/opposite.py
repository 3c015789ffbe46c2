"""Sentences of findings and their opposites, made by rule, and the opposite sentence loss over such pairs.

Affirmed to denied; {X} is said without sizes, counts, degrees, articles and what goes along with it ("with oedema")
- There is a / are several {X} in the Y, measuring 12 mm.   There is no / are no {X} in the Y.
- A small {X} is seen in the Y.                             No {X} is seen in the Y.
- {X} of the Y (12 mm).  Several {X}, the largest 1.2 cm.   No {X} of the Y.  No {X}.
- {X}, right lobe of the liver, 12 mm.                      No {X} in the right lobe of the liver.
- Consistent with / suggestive of {X}.                      No evidence of {X}.
- It enhances after contrast.  It shows enhancement.        It does not enhance after contrast.  It does not show ...
- The ADC is raised.  Hyperintense on T2.                   The ADC is not raised.  Not hyperintense on T2.
- Impression: {X}.                                          Impression: no {X}.   (any word before a colon)
Denied to affirmed
- There is no {X}.  No (evidence of) {X} (is seen).         There is (a) {X}.  {X} (is seen).
- It does not enhance.  X is not raised.  Normal study.     It enhances.  X is raised.  Abnormal study.

Decisions
- "No large mass" leaves room for a small one, so degrees go with the sizes; of "A and B" denied "A or B" is said.
- None where a sentence hedges, says several things, fits no rule, or where is_negated would not tell the two apart.
- What goes along ("with ...") ends at a comma or "in the", and some place of the finding's may be lost with it.
- The loss is COLIPRI's (arXiv 2510.15042): a volume's cosines with a sentence and its opposite in a two-way softmax.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.nn import functional

from index.vocabulary import listed
from training.findings import Mention, mentions_in, mentions_of
from training.negation import DIAGNOSIS, FINDINGS, is_negated
from training.reports import LIST_MARK, parse_report, regions_of

LONGEST_WORDS = 40
_I = re.IGNORECASE
_NUMBER = r"\d+(?:\.\d+)?"
_SPAN = rf"{_NUMBER}(?:\s*[x×-]\s*{_NUMBER})"
SIZE = re.compile(
    rf"(?:\b(?:approximately|about|up to)\s+)?\b(?:{_SPAN}*\s*-?\s*(?:mm|cm|millimet\w+|centimet\w+)\b|{_SPAN}{{2}})",
    _I,
)
_MEASURED = re.compile(
    rf",?\s*(?:that |which )?(?:measur(?:ing|es|ed)|the (?:largest|biggest|larger))\b.*?{SIZE.pattern}"
    r"(?:\s+in\s+(?:size|diameter|length|[\w ]*dimensions?))?",
    _I,
)
_DEGREE = (
    r"a couple of|a number of|a few|a (?:\w+ )?amount of|(?:small )?amounts of|at least|moderate to severe|mild to moderate|"
    "(?:high|low)[- ]grade|small|large|larger|tiny|huge|big|sizable|sizeable|mild|mildly|milder|moderate|moderately|severe|"
    "severely|minimal|minimally|marked|markedly|extensive|prominent|slight|slightly|subtle|trace|massive|very|fairly|avid|"
    r"multiple(?! sclerosis)|several|few|numerous|many|some|scattered|two|three|four|five|six|another|other|\d+(?![\w/-])"
)
_LEADING = re.compile(rf"^(?:(?:{_DEGREE}|an?|the)\b[\s,]*(?:and\s+(?=(?:{_DEGREE})\b))?)+", _I)
_INNER = re.compile(rf"\b(?:with|and|or)\s+(?:an?\s+)?(?:(?:{_DEGREE})\s+)+(?=\w)", _I)
_COMPANION = re.compile(r",?\s+with\s+.*?(?=\s+(?:in|at)\s+the\b|,|$)", _I)
_CONCLUSION = re.compile(r",?\s+(?:most )?(?:(?:compatible|consistent) with|suggestive of|suggesting)\b.*", _I)
_HEDGE = re.compile(
    r"\b(?:may|might|could|should|would|can|possib\w+|probab\w+|suspect\w*|likely|perhaps|cannot|suspicio\w+|question\w*|evaluate|"
    r"versus|vs|either|if|recommend\w*|concern\w*|history|prior|previous\w*|interval|but|however|although|though|except|without|which|"
    r"who|because|while|unchanged|more|less|comparison|i|we|she|he|patient|as (?:above|described|noted))\b|[;?]",
    _I,
)
_DENYING = re.compile(r"\b(?:no|not|none|without|never|neither|nor|den(?:y|ies|ied)|normal|intact|unremarkable)\b", _I)
_BE = r"(?P<be>is|are|was|were)"
_SEEN = r"seen|noted|identified|present|evident|demonstrated|visuali[sz]ed|found|observed|detected|apparent|appreciated"
_STATE = (
    "raised|reduced|increased|decreased|elevated|enlarged|dilated|thickened|displaced|torn|narrowed|compressed|swollen|"
    "impinged|herniated|ruptured|restricted|fractured|hyperintense|hypointense|abnormal|effaced|atrophic|atrophied"
)
_ACTS = {f"{verb}{end}": (does, verb) for verb in ("show", "demonstrate", "reveal", "enhance", "restrict")
         for end, does in (("", "do"), ("s", "does"))}  # fmt: skip
_ACTS |= {"showed": ("did", "show"), "demonstrated": ("did", "demonstrate"), "revealed": ("did", "reveal")}
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|be|been|there|do|does|did|appears?|extends?|measures?|represents?|suggests?|contains?|"
    rf"causes?|involves?|seems?|looks?|lies|fits|contacts?|impresses|relates?|agree|{'|'.join(_ACTS)})\b(?!-)",
    _I,
)
_PAST = re.compile(r"\b[a-z]{3,}ed\b", _I)
_ADJECTIVES = listed(
    "associated displaced pedunculated generalized generalised localized localised lobulated septated loculated calcified "
    "circumscribed defined advanced rounded shaped sided based"
)
_HEAD = re.compile(r"^(?P<head>[A-Za-z][\w/ ,-]{0,40}:)\s+(?P<rest>\S.*)$")
_COUNTED = re.compile(
    r"\b(?:lesion|mass|tear|fracture|cyst|effusion|herniation|tumour|tumor|infarct|infarction|haemangioma|hemangioma|fibroid|"
    r"metastasis|abscess|haematoma|hematoma|abnormality|nodule|collection|aneurysm|syrinx|protrusion|bulge|sprain)$",
    _I,
)
_LITTLE = (
    "(?:(?:significant|definite|discrete|demonstrated|distinct|appreciable|signs? of|(?:definite )?evidence (?:of|for)) )*"
    "(?:an? )?"
)
_PLACE = re.compile(r"(?:^|\s+)(?:in|upon|during|of|at|within|along|to|on|about|from|around)\b|,", _I)
_PART = re.compile(r"\b(?:level|lobe|recess|region|zone|pole|fossa|ganglia|white matter|wall|horn|hemisphere)\b")


@dataclass(frozen=True)
class FindingSentence:
    """A finding affirmed (text) and denied (opposite); negated: the report denies it; mentions: of the report's form."""

    text: str
    opposite: str
    section: str
    negated: bool
    mentions: tuple[Mention, ...]


@lru_cache(maxsize=65536)
def opposite_of(sentence: str) -> str | None:
    """The sentence that denies what this one affirms, or affirms what it denies; None where no rule fits."""
    text = re.sub(rf"^{LIST_MARK}\s*", "", " ".join(sentence.split()))
    text = re.sub(r"\s?\([^()]*\)", "", text).rstrip(". ")
    alone = len(text.split()) <= LONGEST_WORDS and not text.isupper() and not re.search(r"[.!?]\s", text)
    if not alone or not _names(text):
        return None
    head, negated = _HEAD.match(text), is_negated(text)
    start, body = (head["head"] + " ", head["rest"]) if head else ("", text)
    made = _affirmed(body) if negated else _denied(body)
    if not made or SIZE.search(made) or re.search(r"[()#]|\+ ", made) or is_negated(start + made) == negated:
        return None
    return f"{start}{_small(made) if start else _capital(made)}."


def finding_sentences(report: str, region: str | None = None) -> list[FindingSentence]:
    """Sentences of findings and impression that name a finding and have an opposite, as they come, none twice."""
    places = {(m.finding, m.section): m.organ for m in mentions_of(report, region)}
    found = []
    for sentence in parse_report(report).sentences:
        if sentence.section not in ("findings", "impression") or not (opposite := opposite_of(sentence.text)):
            continue
        told = mentions_in(sentence.text, sentence.section)
        mentions = tuple(replace(m, organ=m.organ or places.get((m.finding, m.section), "")) for m in told)
        text = _capital(re.sub(rf"^{LIST_MARK}\s*", "", sentence.text))
        pair = (opposite, text) if is_negated(text) else (text, opposite)
        found += [FindingSentence(*pair, sentence.section, is_negated(text), mentions)] if mentions else []
    return list(dict.fromkeys(found))


def opposite_sentence_loss(cosines: torch.Tensor, present: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of a two-way softmax over cosines * scale, mean over all pairs that there are.

    cosines: (B, K, 2) of a volume with the affirmed and with the denied form; present: (B, K) integers, 1 where the
    affirmed form is true, 0 where the denied one is, -1 where there is no pair; scale: (). Without any pair zero, with
    gradients. COLIPRI (arXiv 2510.15042).
    """
    there = present >= 0
    logits = cosines.float() * scale
    if not bool(there.any()):
        return logits.sum() * 0.0
    return functional.cross_entropy(logits[there], 1 - present[there].long())


def _names(text: str) -> bool:
    """Whether the text names a finding, or calls a whole study normal."""
    words = re.findall(r"[a-z]\w+", text.lower())
    return any(w in FINDINGS or DIAGNOSIS.fullmatch(w) for w in words) or bool(mentions_in(text))


def _denied(text: str) -> str | None:
    """A sentence that affirms, denied."""
    text = SIZE.sub("", _MEASURED.sub("", text))
    text = re.sub(r"\s+,", ",", " ".join(text.split())).rstrip(" ,")
    if _HEDGE.search(text) or _DENYING.search(text):
        return None
    if there := re.match(rf"there {_BE} (?:also |now )?(?:evidence of )?(?P<x>.+)$", text, _I):
        return None if _VERB.search(there["x"]) else f"There {there['be']} no {_thing(there['x'])}"
    if like := re.match(r"(?:findings )?(?:consistent with|suggestive of|compatible with) (?P<x>.+)$", text, _I):
        return None if _VERB.search(like["x"]) else f"No evidence of {_thing(like['x'])}"
    if _VERB.search(text):
        return _denied_verb(text)
    if re.match(rf"(?:{_STATE}|isointense) on \S+$", text, _I):
        return f"Not {_small(text)}"
    return f"No {_thing(text)}" if _is_finding(text) else None


def _is_finding(text: str) -> bool:
    """Whether the words before a place name a finding, and do so without a verb in the past."""
    words = _PLACE.split(_LEADING.sub("", text), maxsplit=1)[0]
    return _names(words) and all(m[0].lower() in FINDINGS | _ADJECTIVES for m in _PAST.finditer(words))


def _denied_verb(text: str) -> str | None:
    """A sentence of one verb, denied."""
    if len(_VERB.findall(text)) > 1:
        return None
    if seen := re.match(rf"(?P<x>.+?) {_BE} (?P<how>(?:{_SEEN})\b.*)$", text, _I):
        unfit = re.match(r"(?:the|this|these|it)\b", seen["x"], _I) or not _is_finding(seen["x"])
        return None if unfit else f"No {_thing(seen['x'])} {seen['be']} {seen['how']}"
    if state := re.match(rf"(?P<x>.+?) {_BE} (?P<how>(?:\w+ly )?(?P<s>(?:{_STATE})\b.*))$", text, _I):
        return f"{state['x']} {state['be']} not {_COMPANION.sub('', _CONCLUSION.sub('', state['s']))}"
    if act := re.match(rf"(?P<x>.+?) (?P<verb>{'|'.join(_ACTS)})(?P<how>\b.*)$", text, _I):
        does, verb = _ACTS[act["verb"].lower()]
        what = _COMPANION.sub("", _CONCLUSION.sub("", _LEADING.sub("", act["how"].strip())))
        return f"{act['x']} {does} not {verb} {_article(what)}{what}".strip()
    return None


def _affirmed(text: str) -> str | None:
    """A sentence that denies, affirmed."""
    if re.match(r"(?:normal|unremarkable) (?:mri?|study|examination|exam|scan)$", text, _I):
        return f"Abnormal {text.split(maxsplit=1)[1]}"
    if len(_DENYING.findall(text)) != 1 or re.search(r"[;]|\b(?:but|however|except|who|which|rather)\b", text):
        return None
    if no := re.match(rf"(?:there {_BE} )?no {_LITTLE}(?P<x>.+?)(?P<seen> (?:is|are|was|were|can be) \w+)?$", text, _I):
        if _VERB.search(no["x"]) or (no["seen"] and not re.search(_SEEN, no["seen"])):
            return None
        article = _article(no["x"]) if no["be"] in ("is", "was") else ""
        return f"There {no['be']} {article}{no['x']}" if no["be"] else f"{no['x']}{no['seen'] or ''}"
    if act := re.match(r"(?P<x>.+?) (?P<do>does|do) not (?P<verb>enhance|restrict)(?P<how>\b.*)$", text, _I):
        return f"{act['x']} {act['verb']}{'s' if act['do'] == 'does' else ''}{act['how']}"
    if state := re.match(rf"(?P<x>.+?) {_BE} not (?P<how>(?:{_STATE}|{_SEEN})\b.*)$", text, _I):
        return f"{state['x']} {state['be']} {state['how']}"
    unlike = re.match(rf"not (?P<x>(?:{_STATE}|isointense) on \S+)$", text, _I)
    return str(unlike["x"]) if unlike else None


def _thing(text: str) -> str:
    """What is denied: without article, degree and companions, its place said with a preposition, its list with or."""
    text = _INNER.sub(lambda m: m[0].split()[0] + " ", _small(_LEADING.sub("", text)))
    text = _COMPANION.sub("", _CONCLUSION.sub("", text))
    first, *more = text.split(", ")
    place = ", ".join(more)
    placed = not _names(place) and (regions_of(place) or _PART.search(place))
    if not placed or _PLACE.search(first):
        return _either(text)
    return f"{_either(first)} {'at' if 'level' in place else 'in'} the {place}"


def _either(text: str) -> str:
    """A and B as A or B, where B is a finding."""
    before, joined, after = text.rpartition(" and ")
    return f"{before} or {_LEADING.sub('', after)}" if joined and mentions_in(before) and mentions_in(after) else text


def _article(text: str) -> str:
    thing = _PLACE.split(text, maxsplit=1)[0]
    counted = _COUNTED.search(thing) and " or " not in thing
    return "" if not counted else "an " if thing[0].lower() in "aeiou" else "a "


def _small(text: str) -> str:
    """With a small first letter, unless the first word is an abbreviation, a name or a code."""
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first[1:2].islower() and first[1:].islower() else text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
