"""English MRI reports, parsed by rules: sections, sentences, body regions, negations.

Headings. A heading is a phrase of HEADINGS with at most three words of QUALIFIERS around it. It stands at the start of a
line before a colon, before a dash, or alone on its line; or within a line before a colon, where it is written in capitals
or follows the end of a sentence. Other words before a colon ("C4-5:", "LIGAMENTS:") divide a section and end none.
- EXAM, STUDY and PROCEDURE are technique where they name imaging, else other. MRI and MR head findings, as "MRI brain:" does
  in clinical notes, where no findings or impression are open.
- Text under no heading is findings where none are headed so, else other.
- In a report of a single line that heads no findings, other headings than the impression's hold for one sentence.

Sentences end at . ! or ? before a blank and what may begin one (a capital, a digit, a bracket), at an empty line, before the
mark of a list, and where a short line is followed by a capital. They do not end after ABBREVIATIONS, after NUMBERED words
before a number, after a list's own number, or within a number.

Regions are those of the words in index.vocabulary and of the anatomy named in ANATOMY.

Negations are those of negation.py.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from index.vocabulary import REGION_OF, listed, words_of
from training.negation import is_negated

HEADINGS = {
    "technique": "technique|protocol|(?:pulse )?sequences|contrast(?: agent)?|technical (?:details|factors)",
    "examination": "exam|examination|study|procedure|(?:exam|study) type|type of exam|procedure (?:performed|details)",
    "findings": "findings?|interpretation|observations?|report|description|results?",
    "impression": "impressions?|imp|conclusions?|opinion|summary|assessment|diagnosis",
    "other": "history|history of present illness|indications?|clinical|comparisons?|priors?|prior studies|patient|age|sex|"
    "reason for (?:the |this )?(?:[a-z]+ ){0,2}(?:exam|examination|study|mri|consultation|visit|referral)|cc|hx|hpi|pmh|"
    "psh|fhx|shx|fhx/shx|shx/fhx|chief complaint|complaints?|meds|medications?|allergies|course|plan|recommendations?|"
    "addendum|signed|information|question|background|review of systems|vital signs|data|ms|cn|motor|sensory|coord|station|"
    "gait|reflexes|anesthesia|(?:pre|post)operative diagnosis",
}
"""section: its headings, as alternatives of a regular expression in lower case"""
QUALIFIERS = (
    "clinical|medical|past|present|brief|relevant|imaging|mri?|final|initial|preliminary|radiologic|radiological|hospital|"
    "family|social|surgical|scan|gen|general|physical|pertinent"
)
_CORE = "|".join(f"(?P<{section}>{phrases})" for section, phrases in HEADINGS.items())
_PLAIN = "|".join(HEADINGS.values())
_NAME = (
    rf"(?:(?:(?:{QUALIFIERS})[ \t]+){{0,3}}(?:{_CORE})(?:[ \t]*(?:and|&|/)[ \t]*[a-z]+){{0,2}}"
    rf"|(?P<imaging>mri?(?:[ /](?!(?:{_PLAIN})\b)[\w/-]+){{0,4}}))"
)
_LINE_HEADING = re.compile(
    rf"^[ \t#*_>]*(?:(?:\d{{1,2}}|[IVX]+)[.)][ \t]+)?(?P<name>{_NAME})[ \t*_]*(?:\([^()\n]{{0,40}}\)[ \t]*)?"
    r"(?P<mark>:[*_]*|[-–—]+(?=\s)|\.?[ \t]*$)",
    re.IGNORECASE | re.MULTILINE,
)
_INNER_HEADING = re.compile(rf"(?<=\s)(?P<name>{_NAME})[ \t]*(?P<mark>:)", re.IGNORECASE)
IMAGING = listed("mri mr mra mrcp mrv ct tomography imaging resonance sequences t1 t2 flair dwi stir contrast scan")
ABBREVIATIONS = listed(
    "Dr Drs Mr Mrs Ms Prof St Jr e.g i.e E.g I.e vs Vs approx ca cf Cf resp incl excl viz al inc Inc est"
)
TITLES = listed("Dr Drs Mr Mrs Ms Prof")
NUMBERED = listed("No no Nos nos Fig fig Figs figs Im im Se se Ser ser Vol vol Nr nr")
SHORT_LINE = 60
"""letters; a line that was wrapped is longer"""
LIST_MARK = r"(?:\d{1,2}[.)](?!\d)|\(\d{1,2}\)|[-*•–·](?=\s))"

_PARTS = {
    "brain": "cerebellar hemisphere hemispheres hemispheric intracranial intraventricular ventricles sulci sulcal gyri gyrus "
    "cisterns thalamus thalami thalamic pons pontine medulla midbrain brainstem callosum putamen caudate ganglia centrum "
    "semiovale periventricular leptomeningeal dural falx tentorium clivus sylvian frontal parietal occipital "
    "insula insular hippocampi hippocampal amygdala mastoid sinuses encephalomalacia glioma meningioma",
    "spine": "vertebra vertebrae vertebral disc discs disk disks thecal conus equina foramina foraminal neuroforamina "
    "neuroforaminal endplate endplates uncovertebral apophyseal spondylosis spondylolisthesis intradural",
    "knee": "meniscus menisci meniscal cruciate acl pcl patellar patellofemoral femorotibial popliteal trochlea iliotibial "
    "popliteus retinacula",
    "shoulder": "supraspinatus infraspinatus subscapularis rotator glenohumeral acromioclavicular acromion glenoid "
    "subacromial bankart",
    "hip": "acetabulum acetabular femoralhead femoralneck trochanter trochanteric gluteus",
    "ankle": "talus talar talofibular calcaneofibular achilles peroneal peroneus syndesmosis tibiotalar",
    "foot": "metatarsal metatarsals cuboid navicular cuneiform calcaneal lisfranc",
    "wrist": "scapholunate lunate lunotriquetral triquetrum scaphoid fibrocartilage carpal",
    "hand": "metacarpal metacarpals phalanx phalanges",
    "elbow": "radiocapitellar ulnotrochlear epicondylitis epicondyle olecranon capitellum",
    "abdomen": "splenic hydronephrosis ascites portal mesenteric retroperitoneal",
    "pelvis": "uterine endometrium endometrial ovaries ovarian adnexal prostatic",
    "heart": "myocardial pericardial aortic mitral",
    "breast": "areola areolar retroareolar nipple birads",
    "chest": "mediastinal pleural pulmonary hilar",
    "neck": "pharyngeal laryngeal",
}
ANATOMY = {word: region for region, words in _PARTS.items() for word in words.split()}
FOREIGN = listed("anca csp tsp wb cou hals torax pols heup hand ear main")
"""words of index.vocabulary that mean something else in English prose (ANCA, on the other hand)"""
OTHER_SPINES = re.compile(r"\b(?:tibial|iliac|scapular|nasal) spines?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Sentence:
    """text without line breaks; section: technique, findings, impression or other; regions as they come, of
    index.sequence.REGIONS; negated: findings are denied, and none is affirmed."""

    text: str
    section: str
    regions: tuple[str, ...]
    negated: bool


@dataclass(frozen=True)
class Report:
    """Each section's text without its headings; '' where there is none. sentences: of all sections, as they come."""

    technique: str
    findings: str
    impression: str
    other: str
    sentences: list[Sentence]


@dataclass(frozen=True)
class Part:
    """A heading as it is written, with its colon; '' before the first. The parts' headings and bodies are the whole text."""

    heading: str
    section: str
    body: str


def parse_report(text: str) -> Report:
    """Sections and sentences of an English report. Any text has them; nothing but headings is left out."""
    found: dict[str, list[str]] = {section: [] for section in ("technique", "findings", "impression", "other")}
    sentences = []
    for part in parts_of(text):
        told = split_sentences(part.body)
        sentences += [Sentence(one, part.section, regions_of(one), is_negated(one)) for one in told]
        found[part.section] += [" ".join(told)] if told else []
    return Report(**{section: "\n".join(texts) for section, texts in found.items()}, sentences=sentences)


def text_views(report: str) -> list[str]:
    """The texts that a report may stand as: the whole, each section, each sentence; none twice, none of one word."""
    parsed = parse_report(report)
    sections = (parsed.technique, parsed.findings, parsed.impression, parsed.other)
    views = [report, *sections, *(_unlisted(s.text) for s in parsed.sentences)]
    tidy = (" ".join(view.split()) for view in views)
    return list(dict.fromkeys(view for view in tidy if len(view.split()) > 1))


def _unlisted(sentence: str) -> str:
    return re.sub(rf"^{LIST_MARK}\s*", "", sentence)


def parts_of(text: str) -> list[Part]:
    """The text, with plain line ends, cut at its headings; joined again, headings and bodies are the text."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    spans = _headings(text)
    starts = [start for start, _, _ in spans] + [len(text)]
    found = [Part("", "", text[: starts[0]])]
    for (start, stop, kind), end in zip(spans, starts[1:], strict=True):
        heading, body, last = text[start:stop], text[stop:end], found[-1]
        if kind == "imaging" and last.section in ("findings", "impression"):
            found[-1] = Part(last.heading, last.section, last.body + heading + body)
        else:
            found.append(Part(heading, _section(kind, body), body))
    headed = any(part.section == "findings" for part in found)
    found[0] = Part("", "other" if headed else "findings", found[0].body)
    return found if headed or "\n" in text.strip() else _short(found)


def _headings(text: str) -> list[tuple[int, int, str]]:
    """(first and past-the-last character, section) of each heading, in order."""
    at_lines = [m for m in _LINE_HEADING.finditer(text) if _heads_line(m)]
    taken = {place for m in at_lines for place in range(*m.span())}
    inner = [m for m in _INNER_HEADING.finditer(text) if m.start() not in taken and _heads_within(m, text)]
    both = sorted([*at_lines, *inner], key=lambda m: m.start())
    return [(m.start(), m.end(), _kind(m)) for m in both]


def _kind(match: re.Match[str]) -> str:
    return next(kind for kind in (*HEADINGS, "imaging") if match[kind])


def _heads_line(match: re.Match[str]) -> bool:
    """Without a colon a heading begins with a capital, and an image's name is no heading."""
    if match["imaging"] and not match["name"].startswith("MR"):
        return False
    return match["mark"].startswith(":") or (match["name"][0].isupper() and not match["imaging"])


def _heads_within(match: re.Match[str], text: str) -> bool:
    """In capitals, or with a capital after the end of a sentence."""
    name = match["name"]
    if name.isupper() and not match["imaging"]:
        return True
    before = text[max(0, match.start() - 40) : match.start()].rstrip()
    return before[-1:] in ".!?;)" and (name.startswith("MR") if match["imaging"] else name[0].isupper())


def _section(kind: str, body: str) -> str:
    if kind == "examination":
        return "technique" if IMAGING.intersection(words_of(body[:120])) else "other"
    return "findings" if kind == "imaging" else kind


def _short(parts: list[Part]) -> list[Part]:
    """A report of one line without headed findings: what follows the first sentence of another heading is findings."""
    found = []
    for part in parts:
        cut = next(_ends(part.body), len(part.body))
        if not part.heading or part.section == "impression":
            found.append(part)
        else:
            found += [Part(part.heading, part.section, part.body[:cut]), Part("", "findings", part.body[cut:])]
    return found


def split_sentences(text: str) -> list[str]:
    """Sentences in order, white space made single; together they hold all that is not white space."""
    cuts = [0, *_ends(text), len(text)]
    pieces = (" ".join(text[a:b].split()) for a, b in itertools.pairwise(cuts))
    return [piece for piece in pieces if piece]


_BREAK = re.compile(r"(?P<stop>[.!?]+[\"'”’)\]]*)(?=\s)|(?P<line>\s*\n\s*)")
_NEXT = re.compile(r"\s*(\S?)")
_LISTED = re.compile(LIST_MARK)
_NUMBER_ALONE = re.compile(r"\s*(?:\(?\d{1,2}[.)]?|[-*•–·])\s*")


def _ends(text: str) -> Iterator[int]:
    """Where sentences end."""
    start = 0
    for match in _BREAK.finditer(text):
        if _NUMBER_ALONE.fullmatch(text, start, match.start()):
            continue
        if _stops(text, start, match) if match["stop"] else _breaks(text, match):
            start = match.end() if match["stop"] else match.start()
            yield start


def _stops(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether a full stop ends a sentence, and no abbreviation."""
    following = _NEXT.match(text, match.end())[1]  # type: ignore[index]
    if following.islower() or (following and following in ",;:.)"):
        return False
    words = text[max(start, match.start() - 40) : match.start()].split()
    word = words[-1].lstrip("([\"'“‘") if words else ""
    if match["stop"] != ".":
        return True
    if word in ABBREVIATIONS or (word in NUMBERED and following.isdigit()):
        return False
    return not (len(word) == 1 and len(words) > 1 and words[-2].rstrip(".") in TITLES)


def _breaks(text: str, match: re.Match[str]) -> bool:
    """Whether a line's end ends a sentence."""
    follows = text[match.end() : match.end() + 1]
    if _LISTED.match(text, match.end()):
        return True
    if match["line"].count("\n") > 1:
        return not follows.islower() or text[match.start() - 1 : match.start()] in ".:;!?"
    length = match.start() - text.rfind("\n", 0, match.start()) - 1
    return length < SHORT_LINE and follows.isupper()


def regions_of(sentence: str) -> tuple[str, ...]:
    """Body regions that the words name, in the order in which they come."""
    words = words_of(OTHER_SPINES.sub(" ", sentence))
    return tuple(dict.fromkeys(_REGION[word] for word in words if word in _REGION))


_REGION = {word: region for word, region in {**ANATOMY, **REGION_OF}.items() if word not in FOREIGN}
