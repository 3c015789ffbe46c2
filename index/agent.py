"""Contrast agents and body parts as the catalogue may hold them: words of closed lists, never what people typed.

Design: the tags behind both are free text in practice and may hold anything, a name too; only a known word leaves here. An
agent is told by its generic name whatever the brand, a body part by the defined term of DICOM PS3.16 Annex L. Whether an
agent was given is told by tag and by words apart; words that say both say nothing.
"""

import re
from functools import lru_cache

from index import vocabulary
from index.vocabulary import listed, unaccented, words_of

_AGENTS = {
    "gadobutrol": "gadobutrol gadovist gadavist",
    "gadoterate": "gadoterate gadoteric gadoterat gadotersaeure gadoterico dota dotarem artirem clariscan dotagraf cyclolux",
    "gadopentetate": "gadopentetate gadopentetic gadopentetat dtpa magnevist magnegita magnograf magnetol",
    "gadobenate": "gadobenate gadobenic gadobenat bopta multihance",
    "gadoxetate": "gadoxetate gadoxetic gadoxetat gadoxetsaeure eob primovist eovist",
    "gadoteridol": "gadoteridol prohance",
    "gadodiamide": "gadodiamide gadodiamid omniscan",
    "gadoversetamide": "gadoversetamide optimark",
    "gadofosveset": "gadofosveset vasovist ablavar",
    "gadopiclenol": "gadopiclenol elucirem vueway",
    "gadoquatrane": "gadoquatrane",
    "mangafodipir": "mangafodipir teslascan",
    "ferumoxytol": "ferumoxytol feraheme rienso",
    "ferumoxides": "ferumoxides ferumoxide feridex endorem",
    "ferumoxtran": "ferumoxtran combidex sinerem ferrotran",
    "ferumoxsil": "ferumoxsil lumirem gastromark",
    "ferucarbotran": "ferucarbotran resovist cliavist",
    "ferristene": "ferristene abdoscan",
}
_AGENT_OF = {word: agent for agent, words in _AGENTS.items() for word in words.split()}
_GADOLINIUM = listed("gadolinium gadolinio gado gad gd gbca gdca")
_NEGATED = listed("no non not without wo ohne kein sans sin senza sem")


@lru_cache(maxsize=1024)
def contrast_agent_of(text: str | None) -> str | None:
    """The known agent that a text names: its generic name in lower case, 'gadolinium' where only that is said, else None."""
    words = re.findall(r"[a-z]+", unaccented(text or "").lower())
    if not _NEGATED.isdisjoint(words):
        return None
    named = next((_AGENT_OF[word] for word in words if word in _AGENT_OF), None)
    return named or ("gadolinium" if not _GADOLINIUM.isdisjoint(words) else None)


_PLUS = re.compile(r"\+ ?(?:c|gd|gad|gado|km|ce|contrast)(?![a-z])|(?<![a-z])[ci]v?\+", re.IGNORECASE)


@lru_cache(maxsize=1024)
def agent_tagged(text: str | None) -> str | None:
    """'yes' or 'no' where the tag of the contrast agent holds something; None where it does not, or says unknown."""
    agent = (text or "").strip().lower()
    if agent in ("", "unknown", "unk", "?"):
        return None
    absent = agent in vocabulary.NO_AGENT or re.fullmatch(r"0+([.,]0+)?\s*(ml|cc)?", agent)
    return "no" if absent or agent_said(words_of(agent)) == "no" else "yes"


def agent_said(words: tuple[str, ...], text: str | None = None) -> str | None:
    """'yes' or 'no' where the words (and signs such as +C in the text) speak of a contrast agent; None where of both."""
    yes = bool(text and "+" in text and _PLUS.search(text))
    no = without = False
    for before, word, after in zip(("", *words), words, (*words[1:], ""), strict=False):
        if word in vocabulary.AGENT_YES:
            other = word == "post" and (before == "ant" or after in vocabulary.POST_OTHER)
            without |= before in vocabulary.WITHOUT
            yes |= before not in vocabulary.WITHOUT and not other
        else:
            no |= word in vocabulary.AGENT_NO
            without |= word in ("wo", "without") and not after
    yes |= without and not {"w", "with"}.isdisjoint(words)
    no |= without
    yes |= not no and not vocabulary.AGENT_IMPLIED.isdisjoint(words)
    return None if yes == no else "yes" if yes else "no"


_BODY_PARTS = listed(
    "ABDOMEN ABDOMENPELVIS ACJOINT ADRENAL ANKLE AORTA ARM AXILLA BACK BILEDUCT BLADDER BRAIN BREAST BUTTOCK CALCANEUS CALF "
    "CAROTID CEREBELLUM CERVIX CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORONARYARTERY CSPINE "
    "CTSPINE EAR ELBOW ESOPHAGUS EXTREMITY EYE FACE FEMUR FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP "
    "HUMERUS IAC JAW KIDNEY KNEE LARYNX LEG LIVER LOWERLEG LOWERLIMB LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH "
    "NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PARATHYROID PAROTID PATELLA PELVIS PENIS "
    "PERINEUM PHANTOM PHARYNX PLACENTA PROSTATE RADIUS RADIUSULNA RECTUM RIB SCALP SCAPULA SCJOINT SCROTUM SELLA SHOULDER "
    "SIJOINT SKULL SMALLINTESTINE SPINALCORD SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THUMB THYMUS THYROID TIBIA "
    "TIBIAFIBULA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE ULNA UPPERARM UPPERLIMB URETER UTERUS VAGINA WHOLEBODY WRIST"
)
_OTHER_BODY_PARTS = {
    "BRAIN": "CEREBRUM HIRN GEHIRN CERVEAU ENCEPHALE CEREBRO ENCEFALO HERSENEN NEURO",
    "HEAD": "KOPF SCHAEDEL TETE CABEZA TESTA CRANIO CRANEO CRANE CRANIUM HOOFD",
    "HEADNECK": "HEADANDNECK NECKHEAD",
    "NECK": "HALS COU CUELLO COLLO PESCOCO",
    "SPINE": "WHOLESPINE WIRBELSAEULE RACHIS COLUMNA COLUNA VERTEBRA BACKBONE",
    "CSPINE": "CERVICALSPINE SPINECERVICAL CERVICAL HWS CSP SPINEC",
    "TSPINE": "THORACICSPINE SPINETHORACIC DORSALSPINE BWS TSP SPINET DSPINE",
    "LSPINE": "LUMBARSPINE SPINELUMBAR LUMBAR LWS LSP SPINEL LOMBAIRE",
    "LSSPINE": "LUMBOSACRALSPINE LUMBOSACRAL",
    "SSPINE": "SACRUM SACRALSPINE",
    "TLSPINE": "THORACOLUMBARSPINE",
    "CHEST": "THORAX TORAX TORACE",
    "LUNG": "LUNGS",
    "HEART": "CARDIAC CARDIO HERZ COEUR CORAZON CUORE CORACAO",
    "BREAST": "BREASTS MAMMA MAMMAE BRUST SEIN MAMA MAMMELLA BORST",
    "ABDOMEN": "ABD BAUCH OBERBAUCH UPPERABDOMEN ABDOME ADDOME BUIK",
    "ABDOMENPELVIS": "ABDOMENANDPELVIS ABDPELVIS ABDPEL ABDOPELVIS",
    "CHESTABDPELVIS": "CHESTABDOMENPELVIS CHESTABDPEL CAP",
    "LIVER": "LEBER FOIE HIGADO FIGADO FEGATO HEPATIC",
    "KIDNEY": "KIDNEYS NIERE NIEREN RENAL",
    "PELVIS": "BECKEN BASSIN BACINO BEKKEN PELVIC",
    "PROSTATE": "PROSTATA",
    "HIP": "HIPS HUEFTE HANCHE CADERA ANCA QUADRIL",
    "KNEE": "KNEES KNIE GENOU RODILLA GINOCCHIO JOELHO",
    "SHOULDER": "SHOULDERS SCHULTER EPAULE HOMBRO SPALLA OMBRO",
    "ANKLE": "ANKLES SPRUNGGELENK CHEVILLE TOBILLO CAVIGLIA TORNOZELO",
    "FOOT": "FEET FUSS PIED PIEDE",
    "WRIST": "WRISTS HANDGELENK POIGNET MUNECA POLSO PUNHO",
    "HAND": "HANDS MANO",
    "ELBOW": "ELBOWS ELLENBOGEN COUDE CODO GOMITO COTOVELO",
    "TMJ": "TMJOINT TEMPOROMANDIBULARJOINT",
    "ORBIT": "ORBITS ORBITA",
    "SELLA": "PITUITARY HYPOPHYSE",
    "SIJOINT": "SIJOINTS SACROILIACJOINT SACROILIAC ISG",
    "WHOLEBODY": "ENTIREBODY GANZKOERPER",
}
_BODY_PART_OF = {term: term for term in _BODY_PARTS} | {
    word: term for term, words in _OTHER_BODY_PARTS.items() for word in words.split()
}


@lru_cache(maxsize=1024)
def body_part_of(text: str | None) -> str | None:
    """Body Part Examined as a defined term of DICOM PS3.16 Annex L; None for everything else."""
    return _BODY_PART_OF.get(re.sub(r"[^A-Z]", "", unaccented(text or "").upper()))
