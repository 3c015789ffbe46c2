"""What a report says, as labels: which finding, in which organ, on which side, affirmed or denied.

Decisions
- Sections, sentences and regions are those of training.reports, denials those of training.negation. Only findings and
  impression are read: what history tells is not seen in the images.
- A sentence is cut into clauses at semicolons, at words of contrast, before "without" and "there is", and at commas before
  a denial or "consistent with". A clause is denied or affirmed as a whole, so "No A, B or C" denies three findings, and
  "A cyst, no metastases" one of two.
- Of words that overlap the first row of FINDINGS that begins earliest counts. A tear is that of the structure in TORN that
  its clause, else its sentence, names. What GENERAL says (mass, lesion) is left out beside a particular finding.
- The organ is the nearest one named in clause, then sentence; else that of the finding; else the region that was given, or
  the one that most of the report's sentences name. Companions of a lesion (oedema, enhancement) take the lesion's organ.
- "The menisci are intact" denies a tear, "unremarkable" and "normal study" deny a lesion; other praise denies nothing.
- Limits: a finding that is hedged (possible, suspected) is affirmed; "A cyst, metastases are not seen" denies both; the
  left lobe of the liver is a side.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from index.sequence import REGIONS
from training.negation import LONGEST, NORMAL, is_negated
from training.reports import Report, parse_report, regions_of
from training.side import NOT_A_SIDE


def _rows(**phrases: str) -> dict[str, tuple[str, ...]]:
    return {name.replace("_", " "): tuple(row.split(", ")) for name, row in phrases.items()}


FINDINGS = _rows(
    white_matter_lesions="multiple sclerosis, demyelinat* plaque, demyelinat* lesion, demyelinat*, white matter lesion, "
    "white matter plaque, white matter disease, white matter ~hyperintensit*, white matter ~ischaemic change, "
    "small vessel ~disease, small vessel ~change",
    disc_herniation="disc ~herniation, herniated ~disc, disc ~protrusion, disc ~extrusion, disc ~bulge, disc bulging, "
    "annular bulging",
    disc_degeneration="disc degeneration, degenerative disc disease, degenerative disc, disc desiccation, "
    "loss of disc ~height, disc osteophyte complex",
    stenosis="stenosis, stenoses, stenotic, foraminal narrowing, canal narrowing, foraminal compromise",
    nerve_compression="impingement, impinged, cord compression, compression of the ~cord, nerve root compression",
    mass_effect="midline shift, shift of ~midline, mass effect, effacement",
    metastasis="metastasis, metastases, metastatic, marrow replacing lesion, marrow replacement",
    haemangioma="haemangioma",
    fibroid="fibroid, leiomyoma*, myoma",
    haemorrhage="haemorrhag*, haematoma*, bleed, bleeding, microbleed, blood product, haemosiderin",
    stroke="stroke, infarct*, cerebrovascular accident, cva, ischaemia",
    tumour="tumour, cancer, carcinoma*, neoplas*, malignan*, glioma, glioblastoma, astrocytoma, meningioma, lymphoma, "
    "sarcoma, schwannoma, craniopharyngioma, ependymoma, medulloblastoma, adenoma, macroadenoma, microadenoma, "
    "fibroadenoma",
    abscess="abscess, abscesses, empyema",
    infection="infection, osteomyelitis, discitis, encephalitis, meningitis",
    cyst="cyst, cystic",
    hydronephrosis="hydronephrosis",
    hydrocephalus="hydrocephalus, ventriculomegaly, ventricular enlargement, enlarged ventricle",
    free_fluid="free ~fluid, ascites",
    effusion="effusion",
    meniscal_tear="meniscal tear, torn ~meniscus",
    cruciate_ligament_tear="cruciate ligament tear, cruciate tear, acl tear, pcl tear",
    tear="tear, tearing, torn, ruptur*, avulsion",
    sprain="sprain, strain",
    contusion="contusion, bone bruise, bruising",
    oedema="oedema*, swelling",
    fracture="fracture, fractured",
    subluxation="subluxation, dislocation, spondylolisthesis",
    arthrosis="arthrosis, arthritis, osteoarthritis, chondromalacia, osteophyt*, spondylosis, degenerative change, "
    "degenerative joint disease",
    tendinosis="tendinosis, tendinopathy, tendinitis, tendonitis",
    synovitis="synovitis, tenosynovitis, synovial thickening, synovial hypertrophy",
    hypertrophy="septal hypertrophy, ventricular hypertrophy, hypertrophic cardiomyopathy",
    atrophy="atroph*, volume loss, neuronal loss",
    lymph_nodes="enlarged ~node, pathologic* ~node, lymphadenopathy, adenopathy",
    syrinx="syrinx, syringomyelia",
    tonsillar_ectopia="tonsillar ectopia, chiari*",
    aneurysm="aneurysm",
    thrombosis="thrombos*, thrombus, occlusion",
    sinusitis="mucosal thickening, sinusitis, mucosal disease",
    enhancement="enhancement, enhances, enhance, enhancing",
    restricted_diffusion="restricted diffusion, diffusion restriction, restriction of diffusion, reduced diffusion",
    mass="mass lesion, mass, masses",
    lesion="lesion, abnormalit*, nodule",
)
"""finding: its words in British spelling; * ends as it likes, ~ skips up to three words, a plural goes without saying"""
GENERAL = ("mass", "lesion")
COMPANIONS = ("oedema", "enhancement", "restricted diffusion", "mass effect")
"""findings that come with a lesion and say nothing of its kind"""
TORN = {"meniscal tear": re.compile(r"\bmenisc"), "cruciate ligament tear": re.compile(r"\bcruciate|\b[ap]cl\b")}

_ORGANS = {
    "liver": ("abdomen", "liver hepatic"),
    "kidney": ("abdomen", "kidney kidneys renal"),
    "spleen": ("abdomen", "spleen splenic"),
    "pancreas": ("abdomen", "pancreas pancreatic"),
    "gallbladder": ("abdomen", "gallbladder biliary"),
    "adrenal": ("abdomen", "adrenal adrenals"),
    "bladder": ("pelvis", "bladder vesical"),
    "prostate": ("pelvis", "prostate prostatic"),
    "uterus": ("pelvis", "uterus uterine endometrium endometrial myometrium"),
    "ovary": ("pelvis", "ovary ovaries ovarian adnexal"),
    "rectum": ("pelvis", "rectum rectal"),
}
REGION_OF_ORGAN = {region: region for region in REGIONS} | {organ: region for organ, (region, _) in _ORGANS.items()}
"""organ: its body region; a region whose organs have no names here is its own organ"""
ORGAN_OF_FINDING = {
    **dict.fromkeys(("stroke", "white matter lesions", "mass effect", "hydrocephalus", "tonsillar ectopia"), "brain"),
    **dict.fromkeys(("meniscal tear", "cruciate ligament tear"), "knee"),
    **dict.fromkeys(("disc herniation", "disc degeneration", "syrinx"), "spine"),
    "hydronephrosis": "kidney",
    "fibroid": "uterus",
    "hypertrophy": "heart",
}

_ORGAN_OF_WORD = {word: organ for organ, (_, words) in _ORGANS.items() for word in words.split()}
_BRITISH = (
    (re.compile(r"\bedema"), "oedema"),
    (re.compile(r"\bhem(?=orrhag|ang|ato|osid)"), "haem"),
    (re.compile(r"ischemi"), "ischaemi"),
    (re.compile(r"\btumor"), "tumour"),
    (re.compile(r"\bdisk"), "disc"),
    (re.compile(r"[-–/]"), " "),
)
_CLAUSE = re.compile(
    r"\s*;\s*|[\s,]+(?=(?:but|however|although|though|except|without)\b)"
    r"|[\s,]+(?=(?:(?:and|with|or|where) )?there (?:is|are|was|were|may)\b)|[\s,]+(?=(?:and|with) no\b)"
    r"|,\s*(?=(?:and |or )?(?:specifically,? )?(?:no|not|which)\b)"
    r"|,\s*(?=(?:compatible|consistent) with\b)|\s+(?=most (?:compatible|consistent) with\b)"
)
_WHOLE = re.compile(r"\bunremarkable\b|\bnormal (?:mri?|study|exam\w*|scan)\b")
_SIDE = re.compile(
    r"\b(?:(?P<both>bilateral\w*|both(?! at)|left and right|right and left)|(?P<left>left|lt)|(?P<right>right|rt))\b"
)


def _pattern(phrase: str) -> str:
    return phrase.replace("*", r"\w*").replace("~", r"(?:[\w]+ ){0,3}") + ("" if phrase.endswith("*") else "(?:e?s)?")


_NAMES = tuple(FINDINGS)
_NAMED = re.compile(
    "|".join(rf"\b(?P<f{i}>{'|'.join(map(_pattern, row))})\b" for i, row in enumerate(FINDINGS.values()))
)


@dataclass(frozen=True)
class Mention:
    """finding: of FINDINGS; organ: of REGION_OF_ORGAN, '' where unknown; side: left, right, both or ''; section: findings
    or impression."""

    finding: str
    organ: str
    side: str
    negated: bool
    section: str


def mentions_of(report: str, region: str | None = None) -> list[Mention]:
    """What the report says, in its order, nothing twice. region (of index.sequence.REGIONS): where no sentence says."""
    parsed, found, before = parse_report(report), [], ""
    fallback = region or _main_region(parsed)
    for sentence in parsed.sentences:
        if sentence.section in ("findings", "impression"):
            told = mentions_in(sentence.text, sentence.section)
            found += [_placed(mention, before, fallback) for mention in told]
            before = next((m.organ for m in told if m.organ and not m.negated), before)
    return list(dict.fromkeys(found))


def mentions_in(sentence: str, section: str = "findings", region: str = "") -> list[Mention]:
    """What one sentence says; `region` is the organ where neither sentence nor finding names one."""
    whole = _plain(sentence[:LONGEST])
    clauses = [clause for clause in _CLAUSE.split(whole) if clause and clause.strip()]
    found = [_mention(name, at, clause, whole, section) for clause in clauses for name, at in _named(clause, whole)]
    return [replace(mention, organ=mention.organ or region) for mention in dict.fromkeys(found)]


def affirmed(mentions: Iterable[Mention]) -> set[tuple[str, str]]:
    """(organ, finding) that are affirmed; a mass or lesion only where its organ has no finding of a particular kind."""
    pairs = {(m.organ, m.finding) for m in mentions if not m.negated}
    particular = {organ for organ, finding in pairs if finding not in (*GENERAL, *COMPANIONS)}
    massive = {organ for organ, finding in pairs if finding == "mass"}
    hidden = {(organ, "mass") for organ in particular} | {(organ, "lesion") for organ in particular | massive}
    return pairs - hidden


def _main_region(parsed: Report) -> str:
    """The region that more than half of all namings name; '' where none does."""
    counts = Counter(region for sentence in parsed.sentences for region in sentence.regions)
    region, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return region if 2 * count > counts.total() else ""


def _placed(mention: Mention, before: str, fallback: str) -> Mention:
    """With the organ of the lesion before, where it may speak of that, else with the fallback."""
    follows = not mention.negated and mention.finding in (*COMPANIONS, *GENERAL)
    return replace(mention, organ=mention.organ or (before if follows else "") or fallback)


def _plain(sentence: str) -> str:
    text = sentence.lower()
    for american, british in _BRITISH:
        text = american.sub(british, text)
    return " ".join(text.split())


def _named(clause: str, whole: str) -> list[tuple[str, int]]:
    """(finding, where in the clause) of one clause, general words only where nothing particular is named."""
    found = [(_torn(_NAMES[int(str(m.lastgroup)[1:])], clause, whole), m.start()) for m in _NAMED.finditer(clause)]
    if not found and NORMAL.search(clause):
        intact = [(name, 0) for name, structure in TORN.items() if structure.search(clause)]
        return intact or ([("lesion", 0)] if _WHOLE.search(clause) else [])
    particular = any(name not in (*GENERAL, *COMPANIONS) for name, _ in found)
    return [(name, at) for name, at in found if not (particular and name in GENERAL)]


def _torn(name: str, clause: str, whole: str) -> str:
    if name != "tear":
        return name
    fits = (torn for text in (clause, whole) for torn, structure in TORN.items() if structure.search(text))
    return next(fits, name)


def _mention(name: str, at: int, clause: str, whole: str, section: str) -> Mention:
    near, own = _organ(clause, at), ORGAN_OF_FINDING.get(name, "")
    organ = near or _organ(whole, whole.find(clause) + at)
    organ = own if own and organ in ("", REGION_OF_ORGAN[own]) else organ
    side = _side(clause, at) or ("" if near else _side(whole, whole.find(clause) + at))
    return Mention(name, organ, side, is_negated(clause), section)


def _organ(text: str, at: int) -> str:
    """The organ named nearest to a place in the text, else the first region that the text names."""
    named = [(abs(m.start() - at), _ORGAN_OF_WORD[m[0]]) for m in re.finditer(r"\w+", text) if m[0] in _ORGAN_OF_WORD]
    return min(named)[1] if named else next(iter(regions_of(text)), "")


def _side(text: str, at: int) -> str:
    """The side named nearest to a place in the text."""
    sides = [
        (abs(m.start() - at), str(m.lastgroup)) for m in _SIDE.finditer(NOT_A_SIDE.sub(lambda m: "_" * len(m[0]), text))
    ]
    return min(sides)[1] if sides else ""
