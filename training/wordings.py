"""The words that people use for what a series shows: by attribute and value, with lay words, abbreviations and protocol names.

Decisions:
- A word stands under a value if it is true of every series that has the value; `prostate` is not of every pelvis, nor
  `cervical` of every spine: they have values of their own, and `glioma` is left out. A protocol's name (MPRAGE, HASTE) stands
  under the one weighting that it is used for, since no value parts one protocol from another.
- GROUPS are words true of several values; NEITHER is what a word may or may not be said of: neither taught nor punished.
- T2-weighted, said of FLAIR or STIR, is held false though physics allows it: who types it wants bright fluid without
  inversion, and catalogues mean that too. `Fluid-sensitive` is the word for all of them. A 3D series may be read in any plane.
- What can be denied (DENIABLE) gets a value `not X`: true of series known to have nothing, false of those that have X.
"""

WORDS: dict[str, dict[str, list[str]]] = {
    "sequence": {
        "T1": ["T1-weighted", "T1w", "T1", "T1 weighted", "T1 weighting", "T1 spin echo", "T1 TSE", "MPRAGE", "T1 SPGR",
               "T1 gradient echo", "T1 VIBE", "T1 FLASH", "longitudinal relaxation weighted", "T1 anatomical", "T1 BRAVO"],
        "T1C": ["T1-weighted post-contrast", "gadolinium-enhanced T1", "T1 with contrast", "T1 after gadolinium contrast",
                "T1-weighted with contrast", "T1 post gad", "enhanced T1-weighted", "T1+C", "T1 Gd", "T1 C+", "post-Gd T1",
                "T1w post-contrast", "MPRAGE post contrast", "VIBE with contrast", "T1CE", "T1-weighted after contrast agent",
                "T1 following intravenous gadolinium", "T1 with dye"],
        "T2": ["T2-weighted", "T2w", "T2", "T2 weighted", "T2 turbo spin echo", "T2 TSE", "T2 FSE", "T2 fast spin echo",
               "T2 SPACE", "T2 weighting", "T2 HASTE", "T2 BLADE", "transverse relaxation weighted", "T2 anatomical"],
        "FLAIR": ["FLAIR", "T2 FLAIR", "fluid-attenuated inversion recovery", "T2-weighted FLAIR", "dark fluid",
                  "fluid attenuated inversion recovery", "FLAIR T2w", "SPACE FLAIR", "TIRM dark fluid", "fluid-suppressed T2",
                  "CSF-suppressed", "T2 with nulled CSF", "3D FLAIR CUBE", "water-suppressed T2"],
        "PD": ["proton density weighted", "PD-weighted", "PD", "proton density", "PDw", "intermediate-weighted", "PD TSE",
               "PD FSE", "rho-weighted", "spin density weighted", "proton-density", "proton density turbo spin echo"],
        "T2STAR": ["T2*-weighted", "T2* gradient echo", "T2star", "gradient echo T2*", "GRE T2*", "T2* GRE", "T2 star",
                   "T2* FFE", "haemosiderin-sensitive gradient echo", "MEDIC", "hemo gradient echo"],
        "STIR": ["STIR", "short tau inversion recovery", "T2 STIR", "fat-suppressed inversion recovery",
                 "TIRM fat-suppressed", "STIR TSE", "short-TI inversion recovery", "fat-nulled inversion recovery",
                 "short inversion time recovery"],
        "DWI": ["diffusion-weighted", "DWI", "diffusion weighted imaging", "diffusion trace", "trace-weighted", "b1000",
                "high b-value diffusion", "DW-MRI", "diffusion-weighted EPI", "DWI b=1000", "diffusion trace images"],
        "ADC": ["ADC", "apparent diffusion coefficient", "ADC map", "diffusion coefficient map", "apparent diffusion map",
                "map of the diffusion coefficient", "calculated ADC", "diffusivity map"],
        "SWI": ["SWI", "susceptibility-weighted", "susceptibility weighted imaging", "SWAN", "venous BOLD"],
        "MRA": ["MRA", "MR angiography", "time of flight", "TOF", "TOF angiography", "angiogram", "vessel imaging"],
        "EPI": ["echo planar", "EPI", "functional", "BOLD", "fMRI", "resting state"],
        "CINE": ["cine", "cine SSFP", "cine loop", "beating heart movie"],
        "DCE": ["dynamic contrast-enhanced", "DCE", "dynamic enhanced", "dynamic post-contrast series"],
        "PERFUSION": ["perfusion", "perfusion-weighted", "PWI", "DSC perfusion", "blood flow imaging"],
    },
    "body_region": {
        "brain": ["brain", "head", "cerebral", "cranial", "cerebrum", "neuro", "intracranial", "skull and brain",
                  "neurocranium"],
        "spine": ["spine", "spinal cord", "vertebral column", "spinal", "backbone", "back", "vertebrae", "spinal canal",
                  "intervertebral discs", "spinal column"],
        "abdomen": ["abdomen", "abdominal organs", "liver and kidneys", "upper abdomen", "abdominal", "belly", "tummy",
                    "liver, spleen and pancreas", "hepatic", "stomach area", "abdo"],
        "pelvis": ["pelvis", "pelvic", "pelvic organs", "lower abdomen and pelvis", "hips and bladder", "small pelvis",
                   "bladder"],
        "knee": ["knee", "knee joint", "knee cartilage", "menisci", "knee ligaments", "kneecap", "femorotibial joint",
                 "patella and menisci", "cruciate ligaments", "kneejoint"],
        "breast": ["breast", "breasts", "mammary", "mammary glands", "mamma", "breast tissue"],
        "heart": ["heart", "cardiac chambers", "cardiac", "myocardium", "ventricles of the heart", "myocardial", "CMR"],
        "neck": ["neck", "soft tissues of the neck", "throat", "larynx"],
        "chest": ["chest", "thorax", "mediastinum", "lungs"],
        "shoulder": ["shoulder", "rotator cuff", "glenohumeral joint", "shoulder joint"],
        "hip": ["hip", "hip joint", "acetabulum", "hips"],
        "ankle": ["ankle", "ankle joint", "Achilles tendon"],
        "foot": ["foot", "feet", "forefoot", "toes"],
        "wrist": ["wrist", "carpal bones", "wrist joint"],
        "hand": ["hand", "fingers", "thumb"],
        "elbow": ["elbow", "elbow joint"],
    },
    "plane": {
        "axial": ["axial", "transverse", "transaxial", "ax", "tra", "horizontal slices", "axial plane"],
        "sagittal": ["sagittal", "sag", "side view", "sagittal plane", "from the side", "seen from the side"],
        "coronal": ["coronal", "cor", "frontal plane", "coronal plane", "front view", "seen from the front"],
        "3d": ["3D", "three-dimensional", "volumetric", "isotropic 3D", "3D volume", "isotropic", "volume acquisition"],
    },
    "contrast": {
        "yes": ["with contrast", "after gadolinium", "contrast-enhanced", "post contrast", "post-contrast", "post gad", "C+",
                "with gadolinium", "after contrast administration", "with contrast agent", "following IV contrast", "+C",
                "with dye", "enhanced", "contrast given", "gadolinium-enhanced", "contrasted", "with gad"],
        "no": ["without contrast", "non-contrast", "no contrast agent given", "unenhanced", "native", "pre-contrast", "C-",
               "no gadolinium", "without gadolinium", "contrast was not given", "no contrast", "plain", "noncontrast",
               "no intravenous contrast", "not contrast-enhanced", "before contrast", "no dye"],
    },
    "lesion": {
        "yes": ["lesion", "lesions", "focal lesion", "abnormality", "pathology", "abnormal", "focal abnormality", "disease",
                "something wrong", "abnormal finding", "pathological change", "a spot"],
        "no": ["no lesion", "without lesion", "normal", "no abnormality", "healthy volunteer", "unremarkable",
               "nothing wrong", "normal appearance", "no pathology", "no focal lesion", "lesion-free", "lesions are absent",
               "clean", "not abnormal", "no hyperintense lesion", "no bright spots", "no abnormal signal",
               "without any abnormality", "no disease seen", "no lesions identified", "within normal limits",
               "lesion not seen", "free of lesions", "negative scan"],
    },
    "finding": {
        "multiple sclerosis": ["multiple sclerosis", "demyelinating lesions", "MS plaques", "MS lesions", "demyelination",
                               "MS"],
        "white matter changes": ["leukoaraiosis", "small vessel disease", "age-related white matter changes",
                                 "microangiopathy"],
        "brain tumour": ["brain tumour", "brain tumor", "intracranial mass", "cerebral neoplasm", "brain mass",
                         "brain cancer"],
        "organ tumour": ["solid tumour of an organ", "carcinoma", "malignant organ tumour"],
        "metastasis": ["metastasis", "metastases", "metastatic disease", "secondary deposits", "mets"],
        "stroke": ["acute infarct", "ischaemic stroke", "stroke", "infarction", "infarct", "cerebral ischaemia",
                   "brain infarction", "ischemic stroke", "ischemia"],
        "haemorrhage": ["haemorrhage", "hemorrhage", "bleed", "bleeding", "haematoma", "blood in the brain"],
        "joint effusion": ["joint effusion", "fluid in the joint", "swollen joint", "excess joint fluid", "hydrops"],
        "pericardial effusion": ["pericardial effusion", "fluid around the heart", "pericardial fluid"],
        "myocardial infarct": ["myocardial infarct", "heart attack", "myocardial scar", "scarred myocardium"],
        "cardiomyopathy": ["cardiomyopathy", "hypertrophic cardiomyopathy", "thickened heart muscle", "HCM"],
        "fibroadenoma": ["fibroadenoma", "benign breast lump", "benign breast mass"],
        "meniscal tear": ["meniscal tear", "torn meniscus", "meniscus tear", "meniscus rupture"],
        "ligament tear": ["ligament tear", "ACL tear", "torn cruciate ligament", "cruciate ligament rupture"],
        "cyst": ["cyst", "cystic lesion", "fluid-filled cyst", "simple cyst", "benign cyst"],
        "disc herniation": ["disc herniation", "herniated disc", "slipped disc", "prolapsed disc", "disc protrusion"],
        "disc degeneration": ["disc degeneration", "degenerative disc", "desiccated disc", "worn disc",
                              "degenerative disc disease"],
        "haemangioma": ["haemangioma", "hemangioma", "liver haemangioma"],
        "fibroid": ["fibroid", "uterine fibroid", "leiomyoma", "myoma"],
        "none": ["healthy", "normal study", "no focal abnormality", "healthy control", "normal examination", "no finding",
                 "nothing abnormal detected", "no pathological finding", "unremarkable study", "NAD", "control subject"],
    },
    "age": {
        "child": ["an infant", "a child", "a young child", "paediatric", "a kid", "a 6-year-old", "pediatric", "a toddler"],
        "young": ["a young adult", "a person in the twenties or thirties", "a 30-year-old", "a 24-year-old", "aged 35",
                  "a student"],
        "middle": ["a middle-aged adult", "a 50-year-old", "a person in the fifties", "middle-aged", "a 45-year-old",
                   "aged 58"],
        "old": ["an elderly patient", "an old person", "a 75-year-old", "a senior", "elderly", "geriatric", "aged 80",
                "a pensioner"],
    },
    "part": {
        "cervical": ["cervical spine", "C-spine", "cervical vertebrae", "spine of the neck", "neck vertebrae"],
        "thoracic": ["thoracic spine", "T-spine", "dorsal spine", "thoracic vertebrae", "mid back"],
        "lumbar": ["lumbar spine", "L-spine", "lumbar vertebrae", "lower back", "lumbar"],
    },
    "sex": {
        "F": ["female pelvis", "uterus", "womb", "uterus and ovaries", "gynaecological pelvis", "pelvis of a woman"],
        "M": ["male pelvis", "prostate", "prostate and pelvis", "prostate gland", "pelvis of a man"],
    },
    "fat_suppressed": {
        "yes": ["fat-suppressed", "fat-saturated", "fat sat", "FS", "with fat suppression", "fatsat", "SPAIR",
                "fat suppression on", "fat is dark", "fat signal removed"],
        "no": ["without fat suppression", "non-fat-suppressed", "no fat sat", "fat is bright", "not fat-saturated",
               "bright fat"],
    },
    "skull_stripped": {
        "yes": ["skull-stripped", "brain-extracted", "brain extracted", "without skull", "skull removed", "brain only", "BET",
                "no skull", "scalp removed", "defaced to the brain"],
        "no": ["with skull", "not skull-stripped", "skull included", "including scalp", "without brain extraction",
               "skull visible"],
    },
    "fluid": {
        "bright": ["bright fluid", "fluid is bright", "bright CSF", "white fluid", "water looks white",
                   "liquid appears bright"],
        "dark": ["CSF is dark", "black CSF", "fluid appears dark", "dark ventricles", "fluid looks black",
                 "low fluid signal"],
    },
    "signal": {
        "bright": ["hyperintense lesion", "bright spot", "bright lesion", "high signal lesion", "hyperintensity",
                   "bright spots", "hyperintense focus", "white spot", "lesion of increased signal", "hyperintense lesions"],
        "dark": ["hypointense lesion", "dark spot", "dark lesion", "low signal lesion", "hypointensity",
                 "lesion of reduced signal"],
    },
}  # fmt: skip
"""{attribute: {value: words}}; part, sex, fluid and signal follow from other columns (captions.attributes_of)"""

GROUPS: dict[str, dict[str, tuple[list[str], set[str], set[str]]]] = {
    "sequence": {
        "any diffusion": (["diffusion", "diffusion imaging", "diffusion MR"], {"DWI", "ADC"}, set()),
        "any fluid-sensitive": (
            ["fluid-sensitive", "fluid sensitive sequence", "water-sensitive"], {"T2", "STIR"}, {"FLAIR", "PD", "T2STAR"},
        ),
        "any inversion": (["inversion recovery", "IR sequence"], {"FLAIR", "STIR"}, {"T1", "T1C"}),
    },
    "body_region": {
        "any joint": (["joint", "musculoskeletal", "MSK"], {"knee", "shoulder", "hip", "ankle", "wrist", "elbow"},
                      {"foot", "hand", "spine", "pelvis"}),
        "any trunk": (["torso", "trunk", "body"], {"abdomen", "pelvis", "chest"}, {"spine", "heart", "breast", "hip"}),
    },
    "finding": {
        "any tumour": (["tumour", "tumor", "neoplasm", "mass", "growth", "mass lesion"], {"brain tumour", "organ tumour"},
                        {"metastasis", "haemangioma", "fibroid", "fibroadenoma"}),
        "any effusion": (["effusion", "fluid collection", "effusions"], {"joint effusion", "pericardial effusion"}, {"cyst"}),
        "any white matter": (
            ["white matter lesions", "white matter hyperintensities", "WMH", "lesions of the white matter",
            "white matter disease",
             "hyperintense white matter lesions", "white matter spots"], {"multiple sclerosis", "white matter changes"}, set(),
        ),
        "any disc": (["disc disease", "disc problem", "disc lesion"], {"disc herniation", "disc degeneration"}, set()),
    },
    "age": {"any adult": (["an adult", "a grown-up", "an adult patient"], {"young", "middle", "old"}, set())},
}  # fmt: skip
"""{attribute: {name: (words, the values that they are true of, those that they may be true of)}}"""

NEITHER: dict[str, dict[str, set[str]]] = {
    "sequence": {
        "T1": {"T1C", "DCE", "MRA"}, "T1C": {"DCE"}, "DCE": {"T1C", "PERFUSION"}, "T2STAR": {"SWI", "EPI"}, "DWI": {"EPI"},
        "EPI": {"DWI", "ADC", "PERFUSION"}, "PERFUSION": {"DCE", "EPI"},
    },
    "body_region": {
        "chest": {"heart", "breast"}, "heart": {"chest"}, "neck": {"spine"}, "pelvis": {"hip"}, "hip": {"pelvis"},
        "hand": {"wrist"}, "wrist": {"hand"}, "foot": {"ankle"}, "ankle": {"foot"},
    },
    "plane": {"axial": {"3d"}, "sagittal": {"3d"}, "coronal": {"3d"}},
    "finding": {
        "organ tumour": {"metastasis"}, "multiple sclerosis": {"white matter changes"},
        "white matter changes": {"multiple sclerosis"}, "stroke": {"myocardial infarct"},
    },
}  # fmt: skip
"""{attribute: {value said: values of a series of which it may be true too}}"""

DENIABLE = tuple(value for value in (*WORDS["finding"], *GROUPS["finding"]) if value not in ("none", "organ tumour"))
AFFIRMED = ("{}", "with {}", "showing {}", "{} is seen", "there is {}", "evidence of {}", "demonstrating {}", "{} present",
            "positive for {}", "shows {}")  # fmt: skip
DENIED = ("no {}", "without {}", "no evidence of {}", "negative for {}", "{} is not seen", "free of {}", "no sign of {}",
          "absence of {}", "{} is absent", "there is no {}", "does not show {}", "{} excluded", "not {}", "no {} identified",
          "without evidence of {}")  # fmt: skip
