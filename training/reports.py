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

Negation follows NegEx (Chapman et al., 2001). A sentence is negated when it denies, on both sides of a word of CONTRAST
where it has one, and every finding that it names (FINDINGS, and words that end as diagnoses do) lies in a scope of denial.
After "no" or "without" the scope reaches to a word of END ("but", "however", "except") or the end of the sentence; before
"is not seen" it reaches back to the verb before; "normal" denies the words that follow it, up to a comma or preposition.
PSEUDO phrases ("no change", "cannot be excluded", "without contrast") deny nothing. Limit: a finding that the tables do not
know is not seen beside a denial.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from index.vocabulary import REGION_OF, listed, words_of

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
LONGEST = 2000
"""letters in which a sentence denies; what is longer is none"""
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

FINDINGS = listed(
    "lesion lesions mass masses tumor tumors tumour tumours tear tears tearing torn fracture fractures fractured effusion "
    "effusions edema oedema enhancement enhancing enhances herniation herniated bulge bulging protrusion extrusion infarct "
    "infarcts infarction infarctions ischemia ischaemia ischemic hemorrhage haemorrhage hemorrhages bleed bleeding hematoma "
    "haematoma cyst cysts cystic shift effect atrophy restriction restricted abnormality abnormalities abnormal deficit "
    "deficits compression impingement contusion sprain strain strained fluid collection nodule nodules metastasis metastases "
    "metastatic malignancy carcinoma cancer abscess infection inflammation inflammatory thrombus thrombosis aneurysm "
    "malformation degeneration degenerative desiccation thickening thickened narrowing narrowed displacement displaced "
    "dislocation subluxation defect defects erosion erosions plaque plaques hyperintense hyperintensity hyperintensities "
    "hypointense hypointensity increased decreased elevated enlarged enlargement dilated dilatation dilation adenopathy "
    "swelling swollen irregularity irregular discontinuity disease syrinx ectopia invagination demyelination demyelinating "
    "loss change changes fraying reduced raised rupture ruptured scarring spur spurs spurring osteophyte osteophytes "
    "effacement involvement injury injuries pathology pathological weakness pain obstruction"
)
DIAGNOSIS = re.compile(r"\w{3,}(?:itis|oma|omas|osis|oses|opathy|ectasia|megaly|plasia|ectasis|orrhage|aemia|emia)")
_LITTLE = "significant|interval|definite|appreciable|substantial|other|further|overall|major|real"
PSEUDO = re.compile(
    rf"\b(?:no|without|not)(?: any)?(?: (?:{_LITTLE}))* (?:changes?|increase|decrease|difference)\b"
    r"|\bnot (?:only|just|merely|necessarily|certain|tested|done)\b"
    r"|\bnot (?:entirely |completely |quite )?(?:normal|unremarkable|intact)\b"
    r"|\b(?:cannot|could not|not)(?: entirely| completely)?(?: be)?(?: entirely| completely)? (?:excluded?|ruled? out)\b"
    r"|\b(?:with (?:and|or) )?(?:no|non|without|w/o)(?: any)?(?: (?:intravenous|iv))? (?:contrast|gadolinium)\b(?! enhanc)"
    r"|\bgram negative\b"
)
BEFORE = re.compile(
    r"\b(?:no|none|without|w/o|denie[sd]|denying|negative for|free of|absence of|lack of|lacks|neither|nor|never|"
    r"rather than|not|cannot|fails to)\b(?! \d)"
)
BEHIND = re.compile(
    r"\b(?:(?:is|are|was|were|be|been|can|could|do|does|did) (?:not|no longer)|cannot)(?: be)?(?: \w+ly)?"
    r" (?:seen|identified|evident|appreciated|present|visuali[sz]ed|demonstrated|noted|detected|found|observed|apparent)\b"
    r"|\b(?:is|are|was|were) (?:negative|absent|denied|ruled out)\b"
)
NORMAL = re.compile(
    r"\b(?:normal|normally|unremarkable|intact|preserved|maintained|patent|continuous|negative|within normal limits|"
    r"appropriate for age)\b"
)
END = re.compile(
    r"\b(?:but|however|except|although|though|yet|nevertheless|apart from|aside from|other than|with the exception of|"
    r"there (?:is|are|was|were)|which|who|due to|secondary to)\b|;"
)
CONTRAST = re.compile(r"\b(?:but|however|except|apart from|aside from|with the exception of)\b")
_NORMAL_REACH = re.compile(r"[^,:]*?(?=,|:|\b(?:with|without|of|in|within|at|from|and|is|are)\b|$)")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|reveals?|demonstrates?|there)\b")


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


def is_negated(sentence: str) -> bool:
    """Whether the sentence denies findings and affirms none."""
    text = (
        sentence[:LONGEST]
        .lower()
        .replace("’", "'")
        .replace("\ufffd", "'")
        .replace("can't", "cannot")
        .replace("n't", " not")
    )
    text = PSEUDO.sub("_", " ".join(re.sub(r"[^\w/,;:']+", " ", text.replace("can not", "cannot")).split()))
    scopes = [*_forward(text), *_backward(text), *_of_normal(text)]
    findings = (m for m in re.finditer(r"[a-z]\w+", text) if m[0] in FINDINGS or DIAGNOSIS.fullmatch(m[0]))
    if not scopes or not all(any(a <= m.start() < b for a, b in scopes) for m in findings):
        return False
    clauses = [clause for clause in CONTRAST.split(text) if clause.strip(" ,")]
    return all(any(denial.search(clause) for denial in (BEFORE, BEHIND, NORMAL)) for clause in clauses)


def _forward(text: str) -> list[tuple[int, int]]:
    ends = [m.start() for m in END.finditer(text)] + [len(text)]
    return [(m.end(), next(e for e in ends if e >= m.end())) for m in BEFORE.finditer(text)]


def _backward(text: str) -> list[tuple[int, int]]:
    stops = [m.end() for pattern in (_VERB, END) for m in pattern.finditer(text)]
    return [(max((s for s in stops if s <= m.start()), default=0), m.start()) for m in BEHIND.finditer(text)]


def _of_normal(text: str) -> list[tuple[int, int]]:
    return [(m.end(), _NORMAL_REACH.match(text, m.end()).end()) for m in NORMAL.finditer(text)]  # type: ignore[union-attr]
