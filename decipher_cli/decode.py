"""Fit a light decoder on the frozen encoder's patches, and apply it: masks and boxes in the patient's own geometry."""

from decipher_cli.decode_apply import apply
from decipher_cli.decode_fit import fit

EXAMPLES = {
    "fit": (
        "decipher decode fit --masks masks.csv --data ./archive -o lesions",
        "decipher decode fit --task detect --masks masks.csv --epochs 40 --json",
        "decipher decode fit --masks organs.csv --decoder unetr --folds 5 -o organs",
    ),
    "apply": (
        "decipher decode apply lesions ./archive -o masks",
        "decipher decode apply lesions brain.nii.gz -o masks --json",
        'decipher decode apply organs ./archive -o masks --text "left kidney" --format nifti',
    ),
}
VERBS = (fit, apply)
