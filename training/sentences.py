"""Sentences as radiologists write them, of many organs: what a text encoder must still tell apart after training.

They describe nothing that is trained on: most of their findings are no attribute. They stand in for reports where none are
given, so that captions are not all that an adapter ever sees.
"""

import numpy as np

PLACES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "head": (
        ("left frontal lobe", "right cerebellar hemisphere", "pons", "corpus callosum", "left basal ganglia", "pituitary gland",
         "right temporal horn", "periventricular white matter", "sphenoid sinus", "internal auditory canal"),
        ("extra-axial mass", "restricted diffusion", "chronic lacunar infarct", "vasogenic oedema", "microhaemorrhage",
         "ring-enhancing lesion", "arachnoid cyst", "encephalomalacia", "mucosal thickening", "cavernous malformation"),
    ),
    "spine": (
        ("L4-L5 disc", "C5-C6 level", "conus medullaris", "T12 vertebral body", "left neural foramen", "facet joints at L5-S1",
         "ligamentum flavum", "thecal sac", "sacrum", "paraspinal muscles"),
        ("broad-based disc bulge", "moderate canal stenosis", "nerve root impingement", "compression fracture", "syrinx",
         "Modic type 2 endplate change", "annular fissure", "grade 1 spondylolisthesis", "epidural collection",
         "facet arthropathy"),
    ),
    "knee": (
        ("posterior horn of the medial meniscus", "anterior cruciate ligament", "medial femoral condyle", "patellar cartilage",
         "lateral tibial plateau", "quadriceps tendon", "popliteal fossa", "medial collateral ligament"),
        ("horizontal cleavage tear", "full-thickness chondral defect", "bone marrow contusion", "partial-thickness tear",
         "mucoid degeneration", "subchondral fracture", "loose body", "ganglion cyst"),
    ),
    "shoulder": (
        ("supraspinatus tendon", "superior labrum", "acromioclavicular joint", "biceps anchor", "subacromial bursa",
        "humeral head",
         "infraspinatus footprint"),
        ("articular-sided partial tear", "tendinosis", "SLAP tear", "Hill-Sachs deformity", "bursal fluid", "calcific deposit",
         "muscle atrophy with fatty infiltration"),
    ),
    "abdomen": (
        ("segment VII of the liver", "left kidney", "pancreatic tail", "common bile duct", "spleen", "right adrenal gland",
         "gallbladder neck", "portal vein", "terminal ileum"),
        ("arterially enhancing nodule", "simple cyst", "ductal dilatation", "wedge-shaped infarct", "stone", "steatosis",
         "bland thrombus", "mural thickening", "lipid-rich adenoma"),
    ),
    "pelvis": (
        ("peripheral zone of the prostate", "left ovary", "junctional zone", "bladder dome", "right femoral head", "rectum",
         "sigmoid mesentery", "cervix"),
        ("T2 dark focus", "endometrioma", "adenomyosis", "avascular necrosis", "extramural vascular invasion", "polypoid mass",
         "diverticular disease", "enlarged lymph node"),
    ),
    "chest": (
        ("left ventricular wall", "anterior mediastinum", "right breast at ten o'clock", "pericardium", "mitral valve",
         "left axilla", "interventricular septum"),
        ("late gadolinium enhancement", "non-mass enhancement", "spiculated mass", "pericardial effusion", "regurgitant jet",
         "wall motion abnormality", "fibroadenoma"),
    ),
    "limb": (
        ("Achilles tendon", "scaphoid waist", "triangular fibrocartilage", "talar dome", "common extensor origin",
        "plantar fascia",
         "iliotibial band", "second metatarsal"),
        ("stress fracture", "tenosynovitis", "osteochondral lesion", "interstitial tear", "avulsion", "fasciitis",
        "synovial cyst"),
    ),
}  # fmt: skip
GRAMMARS = (
    "There is a {size} {finding} in the {place}.", "{finding} of the {place}, measuring {size}.",
    "No {finding} is identified in the {place}.", "The {place} is unremarkable.", "Stable {finding}, {place}, since {year}.",
    "{place}: {finding}, likely {age}.", "Findings are suspicious for {finding} involving the {place}.",
    "The patient has a history of {finding}; the {place} has been followed since {year}.",
    "Compared with {year}, the {finding} in the {place} has {trend}.", "Impression: {size} {finding} at the {place}.",
    "Query {finding}. Clinically pain around the {place} for {weeks} weeks.", "The {place} is intact without {finding}.",
    "Interval {trend2} of the {finding} adjacent to the {place}.",
    "Postoperative change at the {place} with residual {finding}.",
)  # fmt: skip


def radiology_sentences(count: int = 300, seed: int = 0) -> list[str]:
    """`count` different sentences, organs equally often, the same for the same arguments."""
    rng = np.random.default_rng([seed, 17])
    found: dict[str, None] = {}
    while len(found) < count:
        places, findings = PLACES[str(rng.choice(list(PLACES)))]
        text = str(rng.choice(GRAMMARS)).format(
            place=rng.choice(places),
            finding=rng.choice(findings),
            size=rng.choice(["6 mm", "1.4 cm", "large", "tiny", "2.3 x 1.8 cm"]),
            year=rng.integers(2005, 2025),
            age=rng.choice(["acute", "chronic", "congenital", "incidental", "degenerative"]),
            trend=rng.choice(["enlarged", "decreased in size", "resolved", "not changed"]),
            trend2=rng.choice(["growth", "resolution", "development", "improvement"]),
            weeks=rng.integers(2, 20),
        )
        found.setdefault(text[0].upper() + text[1:])
    return list(found)
