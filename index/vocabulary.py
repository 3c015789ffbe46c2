"""The words that people, scanners and file names use for what a series shows.

Design: texts become plain lower-case words once, whatever their language, case and glue; tables say what a word means. In a
table of ranks the first row that holds a word wins, so that a row names what is more particular before what is less. Short
or ambiguous words (main, pie, se) stay out: a word that is missing leaves a null, a wrong one tells a lie.
"""

import re
import unicodedata
from functools import lru_cache

Ranks = dict[str, tuple[int, str]]

_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "AE", "Ö": "OE", "Ü": "UE"})
_CAPITAL = re.compile(r"(?<=[A-Za-z0-9][a-z])(?=[A-Z])")
_STAR = re.compile(r"t2[ _]?\*")
# What BIDS entities say of person, session and task (ses-post, task-hand) is not said of the image.
_ENTITIES = re.compile(r"(?<![A-Za-z0-9])(?:sub|ses|task|run|dir|desc|rec)-[A-Za-z0-9+]+")
_WORD = re.compile(r"[a-z0-9]+")
_PLANE_GLUED = re.compile(r"(?<![a-z0-9])(ax|sag|cor|tra)(?=t[12]|pd|stir|flair|dwi|swi|adc|[23]d)")
_GLUED = re.compile(
    r"(?<![a-z0-9])(?:[sed](t[12]w)(?![a-z0-9])|[sed]?(t[12]w?|pdw?)(?=ax|tra|sag|cor|tse|fse|se|frfse|fs|fatsat|ffe|gre|tfe|"
    r"spir|spair|dixon|space|spc|cube|vista|flair|stir|tirm|haste|blade|prop|mprage|fl[23]d|vibe|[23]d|post|pre(?!p)|km|dark))"
)


def listed(words: str) -> frozenset[str]:
    """The words of one text, as a set."""
    return frozenset(words.split())


# Two words that mean something else together than apart.
_JOINED = listed(
    "darkfluid dafl t2star t1map t2map t1rho r2star fieldmap b0map b1map phasemap phasecontrast fatfraction wholebody "
    "sijoint headneck headandneck headand femoralhead femoralneck femurneck fibularhead ulnarhead headcoil headfirst feetfirst "
    "carebolus testbolus "
    "precontrast postcontrast noncontrast nocontrast withcontrast postop preop cspine tspine lspine 3plane threeplane "
    "triplane 3pl shortaxis longaxis fiestac radialhead humeralhead wo delayedenhancement mrcholangio spinallabeling "
    "4dflow partphase mprage fcmri fieldmapping"
)


def unaccented(text: str) -> str:
    """The text without accents, German umlauts written as two letters."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", text).translate(_UMLAUTS))
    return "".join(letter for letter in text if not unicodedata.combining(letter))


def words_of(*texts: str | None) -> tuple[str, ...]:
    """Lower-case words of the texts, without accents: split at what is neither letter nor digit, at a change to upper
    case, and where a weighting or plane is glued to what follows (T1TSE, AXT2).
    """
    return _words(" ".join(text for text in texts if text))


@lru_cache(maxsize=8192)
def _words(text: str) -> tuple[str, ...]:
    text = _ENTITIES.sub(" ", unaccented(text)) if "-" in text else unaccented(text)
    text = _STAR.sub("t2star ", _CAPITAL.sub(" ", text).lower())
    found: list[str] = []
    for word in _WORD.findall(_GLUED.sub(r"\1\2 ", _PLANE_GLUED.sub(r"\1 ", text))):
        if found and found[-1] + word in _JOINED:
            found[-1] += word
        else:
            found.append(word)
    return tuple(found)


def _ranks(*rows: tuple[str, str]) -> Ranks:
    ranks: Ranks = {}
    for rank, (meaning, words) in enumerate(rows):
        for word in words.split():
            ranks.setdefault(word, (rank, meaning))
    return ranks


def meaning(words: tuple[str, ...], ranks: Ranks) -> str | None:
    """What the words mean by the table's first row that holds one of them; None where none does."""
    found = [ranks[word] for word in words if word in ranks]
    return min(found)[1] if found else None


LOCALIZER = listed(
    "localizer localiser lokalizer lokalisator localizador localisateur localizzatore loc locs scout scouts survey aahscout "
    "smartbrain autoalign 3plane 3pl threeplane triplane topogram"
)
# An area of the cortex is "localised" too, by functional MRI.
FUNCTIONAL = listed("bold fmri rsfmri fcmri functional func task ep2d")

# What timing cannot tell, or tells less surely.
SPECIFIC = _ranks(
    ("LOCALIZER", " ".join(LOCALIZER)),
    ("OTHER", "eadc exponential fractional anisotropy colfa carebolus testbolus smartprep bolustrak"),
    ("ADC", "adc dadc apparent"),
    ("SWI", "swi swan swip susceptibility qsm venobold fsbb bsi suszeptibilitaet"),
    (
        "MRA",
        "mra tof angio angiography angiogram angiographie angiografia mrv venography venographie cemra pcmra pca qiss "
        "trance inhance",
    ),
    (
        "PERFUSION",
        "perfusion perf dsc asl pcasl pasl casl spinallabeling cbf cbv rcbv rcbf relcbf relcbv relmtt mtt ttp",
    ),
    ("DCE", "dce dynamic dyn dynamisch vibrant disco grasp ktrans kep dynava"),
    ("MRA", "twist tricks trak 4dtrak"),
    ("CINE", "cine kino"),
    ("OTHER", "fieldmap fieldmapping phasemap phasediff b0map b1map"),
    (
        "DWI",
        "dwi ddwi sdwi dti tensor diff diffusion tracew trace resolve hardi ivim dwibs dki noddi diffusie diffusione difusion "
        "difusao",
    ),
    ("EPI", "bold fmri rsfmri fcmri sbref epi feepi seepi"),
    ("T2", "ciss fiestac psif"),
    (
        "OTHER",
        "mt0 mt1 mton mtoff mtr elastography elastogram elastographie t1map t2map t1rho "
        "mapping r2star qt1 qt2 molli shmolli sasha pdff fatfraction qflow venc 4dflow phasecontrast svs csi "
        "mrs trufi truefisp trufisp fiesta bffe btfe bssfp basg cosmic dess calibration",
    ),
    ("STIR", "stir"),
    ("FLAIR", "flair darkfluid dafl"),
    ("T2STAR", "t2star t2starw t2s medic merge hemo haemo"),
)
PLAIN = _ranks(
    (
        "T1",
        "t1 t1w t1wi mprage mp2rage bravo fspgr spgr irspgr flash vibe starvibe lava thrive ethrive psir lge mde t1c t1ce "
        "t1gd t1post unit1",
    ),
    (
        "T2",
        "t2 t2w t2wi haste ssfse sshtse fase2d fase3d mrcp mrcholangio drive myelo myelographie myelography",
    ),
    ("PD", "pd pdw proton dp dpw"),
    ("OTHER", "mre"),
)
# Short forms that mean something in file names but something else in descriptions (FL: fluid there, FLASH here).
NAME_ONLY = _ranks(("FLAIR", "fl"), ("OTHER", "fa ph partphase phasediff imaginary"))
# How the signal is read out; products whose names stand for one way of doing it.
ECHO = _ranks(
    ("EP", "epi ep2d epse epfid feepi seepi feepi2d seepi2d"),
    (
        "GR",
        "gre ffe tfe fgre efgre3d flash spgr fspgr irspgr vibe starvibe lava thrive ethrive mprage mp2rage bravo tfl medic "
        "merge swan fl2d fl3d mpgr tof",
    ),
    ("SE", "tse fse frfse haste ssfse sshtse fase2d fase3d space cube vista tirm blade propeller irfse"),
)

AGENT_YES = listed(
    "post gad gadolinium gado gd ce km mdc kontrastmittel contrast contraste contrasto withcontrast postcontrast "
    "dotarem gadovist primovist eovist multihance magnevist prohance omniscan delayedenhancement t1c t1ce t1gd t1post "
    "cemra gadolinio injecte"
)
AGENT_IMPLIED = listed("dce dsc lge")
NO_AGENT = {*listed("no none n nein without null nil na n/a non keine - -- ."), "not applicable"}
AGENT_NO = listed(
    "pre native nativ nativo noncontrast nocontrast precontrast unenhanced nonenhanced nogad nongad nogd blanco"
)
WITHOUT = listed("without wo no non not ohne sin sans senza sem zonder kein s")
# Words that take "post" or "without" away from the contrast agent.
POST_OTHER = listed(
    "op surgery surgical void voiding rt chemo tx treatment therapy biopsy exercise processed processing proc stress partum "
    "mortem defecation contraction evac evacuation prandial fossa cruciate elements"
)

# What closed vocabularies say: the suffixes of BIDS, DICOM's Acquisition Contrast and vendors' Image Type.
BIDS_SUFFIXES = {
    "T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR", "PDw": "PD", "T2starw": "T2STAR", "T2star": "T2STAR", "dwi": "DWI",
    "sbref": "EPI", "bold": "EPI", "cbv": "PERFUSION", "asl": "PERFUSION", "m0scan": "PERFUSION", "angio": "MRA",
    "swi": "SWI", "epi": "EPI", "UNIT1": "T1", "inplaneT1": "T1", "inplaneT2": "T2", "adc": "ADC", "ADC": "ADC",
    "trace": "DWI",
    **dict.fromkeys((
        "MESE", "MEGRE", "VFA", "IRT1", "MTR", "MTS", "MTRmap", "MTsat", "T1map", "T2map", "T2starmap", "R1map", "R2map",
        "R2starmap", "PDmap", "S0map", "M0map", "MWFmap", "Chimap", "T1rho", "TB1map", "TB1DAM", "TB1TFL", "phasediff",
        "phase1", "phase2", "phase", "magnitude", "magnitude1", "magnitude2", "fieldmap", "FA", "colFA", "expADC",
    ), "OTHER"),
}  # fmt: skip
SPECIFIC_CONTRASTS = {
    "T2_STAR": "T2STAR", "STIR": "STIR", "FLUID_ATTENUATED": "FLAIR", "PERFUSION": "PERFUSION", "TIME_OF_FLIGHT": "MRA",
}  # fmt: skip
PLAIN_CONTRASTS = {"T1": "T1", "T2": "T2", "PROTON_DENSITY": "PD"}
IMAGE_TYPES = {
    **dict.fromkeys(("T1 MAP", "T2 MAP", "T2_STAR MAP", "R2 MAP", "R2_STAR MAP", "T1RHO MAP", "FF", "FAT_FRACTION",
                     "FIELD_MAP", "B0", "B1", "VELOCITY", "VELOCITY MAP", "P", "PHASE", "PHASE MAP", "I", "IMAGINARY"),
                    "OTHER"),
    **dict.fromkeys(("RCBV", "RCBF", "RELCBV", "RELCBF", "RELMTT", "CBF", "CBV", "MTT", "TTP", "TMAX", "PBP", "GBP",
                     "PERFUSION", "ASL"), "PERFUSION"),
    "SWI": "SWI", "LOCALIZER": "LOCALIZER", "FMRI": "EPI",
}  # fmt: skip

_PARTS_OF_BODY = {
    "brain": "brain head headand skull cerebrum cerebral cerebellum neuro pituitary sella hypophyse iac orbit orbits orbita "
    "eye ear circleofwillis hippocampus hirn kopf schaedel cranium cranial cerveau crane tete encephale cerebro cabeza craneo "
    "encefalo cranio cervello hersenen mozg glowa hjerne hjaerna",
    "spine": "spine spinal cspine tspine lspine sspine ctspine tlspine lsspine cervical lumbar lumbosacral sacrum coccyx cord "
    "spinalcord hws bws lws csp tsp lsp wirbelsaeule rachis columna coluna rachide colonna wervelkolom kregoslup "
    "lombaire cervicale dorsale lumbale thorakale",
    "neck": "neck headneck headandneck carotid carotids larynx pharynx nasopharynx oropharynx thyroid parathyroid parotid "
    "tongue hals cou collo cuello pescoco",
    "chest": "chest thorax thorace torax lung lungs lunge mediastinum sternum poumon pulmon pulmao",
    "heart": "heart cardiac cardio myocardium coronary herz coeur cardiaque cardiaco cardiaca corazon coracao cuore shortaxis "
    "longaxis sax lvot rvot",
    "breast": "breast breasts mamma mammae mammo brust seins mammella borst",
    "abdomen": "abdomen abdominal abdome addome abdomenpelvis liver hepatic hepatobiliary biliary kidney kidneys renal "
    "pancreas mrcp gallbladder bileduct spleen stomach colon bowel adrenal leber niere nieren abdpelvis oberbauch bauch foie "
    "reins higado figado fegato rinon buik enterography",
    "pelvis": "pelvis pelvic prostate prostata uterus ovary cervix vagina rectum rectal anal bladder penis scrotum testis "
    "perineum becken bassin bacino bekken sijoint",
    "hip": "hip hips huefte hanche cadera quadril anca heup",
    "knee": "knee knees patella knie genou rodilla joelho ginocchio kolano",
    "shoulder": "shoulder shoulders schulter epaule hombro ombro spalla schouder",
    "ankle": "ankle ankles sprunggelenk osg cheville tobillo tornozelo caviglia enkel",
    "foot": "foot feet forefoot hindfoot midfoot toe toes calcaneus fuss vorfuss pied piede voet",
    "wrist": "wrist wrists carpus handgelenk poignet muneca punho polso pols",
    "hand": "hand hands finger fingers thumb daumen",
    "elbow": "elbow elbows ellenbogen ellbogen coude codo cotovelo gomito elleboog",
    "whole_body": "wholebody ganzkoerper wb",
}  # fmt: skip
REGION_OF = {word: region for region, words in _PARTS_OF_BODY.items() for word in words.split()}
