"""Whether a sentence of a report denies what it names, by rules.

Negation follows NegEx (Chapman et al., 2001). A sentence is negated when it denies, on both sides of a word of CONTRAST
where it has one, and every finding that it names (FINDINGS, and words that end as diagnoses do) lies in a scope of denial.
After "no" or "without" the scope reaches to a word of END ("but", "however", "except") or the end of the sentence; before
"is not seen" it reaches back to the verb before; "normal" denies the words that follow it, up to a comma or preposition.
PSEUDO phrases ("no change", "cannot be excluded", "without contrast") deny nothing. Limit: a finding that the tables do not
know is not seen beside a denial.
"""

import re

from index.vocabulary import listed

LONGEST = 2000
"""letters in which a sentence denies; what is longer is none"""
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
    r"\b(?:no|none|nothing|without|w/o|denie[sd]|denying|negative for|free of|absence of|lack of|lacks|neither|nor|never|"
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
