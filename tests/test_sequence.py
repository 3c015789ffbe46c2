"""Inference by tables of cases: timing beats words, words beat names, and the unknown stays unknown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.agent import _AGENTS, _BODY_PARTS, body_part_of, contrast_agent_of
from index.patient import age_between, age_of_string, sex_of
from index.sequence import (
    REGIONS,
    SEQUENCES,
    Tags,
    infer_contrast,
    infer_region,
    infer_sequence,
    is_localizer,
    words_of,
)
from index.tags import vendor_of


def timed(kind: str, repetition: float, echo: float, inversion: float = 0, **more: object) -> Tags:
    tags = {"scanning_sequence": tuple(kind.split()), "repetition_time_ms": repetition, "echo_time_ms": echo, **more}
    return Tags(**tags, **({"inversion_time_ms": inversion} if inversion else {}))  # type: ignore[typeddict-item]


def called(description: str, **more: object) -> Tags:
    return Tags(words_from="tag", series_description=description, **more)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (timed("SE", 550, 12), ("T1", "physics")),
        (timed("SE", 11730, 91), ("T2", "physics")),
        (timed("SE", 2300, 22), ("PD", "physics")),
        (timed("SE IR", 9000, 110, 2500), ("FLAIR", "physics")),
        (timed("SE IR", 5000, 388, 1800, series_description="T2 SPACE"), ("FLAIR", "physics")),
        (timed("SE IR", 4500, 60, 160), ("STIR", "physics")),
        (timed("GR IR", 2300, 2.98, 900), ("T1", "physics")),
        (timed("SE IR", 2000, 10, 860, series_description="Ax T1 FLAIR"), ("T1", "physics")),
        (timed("GR", 8.2, 3.2, flip_angle_deg=12.0), ("T1", "physics")),
        (timed("GR", 650, 20, flip_angle_deg=20.0), ("T2STAR", "physics")),
        (timed("GR", 28, 20, series_description="SWI_Images"), ("SWI", "tag")),
        (timed("GR", 22, 3.6, series_description="TOF_3D_multi-slab"), ("MRA", "tag")),
        (timed("GR", 22, 3.6, angio=True), ("MRA", None)),
        (timed("EP", 3000, 30), ("EPI", "physics")),
        (timed("EP", 3000, 80, b_value=1000.0), ("DWI", "physics")),
        (timed("EP SE", 3000, 80, b_value=0.0, series_description="ep2d_diff_b0"), ("DWI", "tag")),
        (Tags(image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC")), ("ADC", "physics")),
        (Tags(image_type=("DERIVED", "PRIMARY", "DIFFUSION", "TRACEW")), ("DWI", "physics")),
        (Tags(image_type=("ORIGINAL", "PRIMARY", "P", "ND")), ("OTHER", "physics")),
        (timed("SE", 550, 12, series_description="T2 ax"), ("T1", "physics")),
        (timed("SE", 550, 12, series_description="T1 ax +C", contrast_agent="Dotarem"), ("T1C", "physics")),
        (timed("SE", 600, 12, name="t1_post/IM1"), ("T1C", "physics")),
        (called("t2_tse_tra"), ("T2", "tag")),
        (called("Sag T2* MEDIC"), ("T2STAR", "tag")),
        (called("AX DWI b1000"), ("DWI", "tag")),
        (called("dADC map"), ("ADC", "tag")),
        (called("eADC (10^-6 mm\u00b2/s)"), ("OTHER", "tag")),
        (called("fl3d T1 vibe dynamic"), ("DCE", "tag")),
        (called("cine_sax", cardiac_images=25), ("CINE", "tag")),
        (Tags(name="sub/x", bids_suffix="T2w"), ("T2", "name")),
        (Tags(name="patient07/FLAIR"), ("FLAIR", "name")),
        (Tags(name="wmh/301D00252-20040121_FL"), ("FLAIR", "name")),
        (called("fl_sag"), (None, None)),
        (Tags(name="T1POST", folder="patient07"), ("T1C", "name")),
        (Tags(name="T1", folder="diffusion_study"), ("T1", "name")),
        (Tags(name="IM0001", folder="dwi"), ("DWI", "name")),
        (Tags(name="misc/example4d"), (None, None)),
        (Tags(), (None, None)),
    ],
)
def test_sequence(tags: Tags, expected: tuple[str | None, str | None]) -> None:
    found = infer_sequence(Tags(**{"words_from": "tag", **tags}))  # type: ignore[typeddict-item]
    assert found == (expected[0], expected[1] or ("tag" if expected[0] else None))


def siemens(description: str, name: str, kind: str, repetition: float, echo: float, **more: object) -> Tags:
    return timed(kind, repetition, echo, series_description=description, sequence_name=name, vendor="Siemens", **more)


def philips(description: str, kind: str, repetition: float, echo: float, **more: object) -> Tags:
    return timed(kind, repetition, echo, series_description=description, vendor="Philips", **more)


def ge(description: str, kind: str, repetition: float, echo: float, **more: object) -> Tags:
    """GE's protocol is that of the whole examination."""
    more = {"protocol_name": "BRAIN W/WO DWI MRA PERFUSION", **more}
    return timed(kind, repetition, echo, series_description=description, vendor="GE", **more)


DIFFUSION = ("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND")
VENDORS: list[tuple[Tags, str | None]] = [
    # Siemens
    (siemens("t1_mprage_sag_p2_iso", "*tfl3d1_16ns", "GR IR", 2300, 2.98, inversion=900.0, flip_angle_deg=9.0), "T1"),
    (siemens("t1_mp2rage_sag_p3_INV1", "*tfl3d1_16ns", "GR IR", 5000, 2.98, inversion=700.0, flip_angle_deg=4.0), "T1"),
    (
        siemens("t1_mp2rage_sag_p3_INV2", "*tfl3d1_16ns", "GR IR", 5000, 2.98, inversion=2500.0, flip_angle_deg=5.0),
        "PD",
    ),
    (siemens("t1_mp2rage_sag_p3_UNI_Images", "*tfl3d1_16ns", "GR IR", 5000, 2.98, flip_angle_deg=4.0), "T1"),
    (siemens("t2_spc_sag_p2_iso", "*spc_282ns", "SE", 3200, 408), "T2"),
    (siemens("t1_spc_sag_fs_post", "*spc_38ns", "SE", 700, 11, contrast_agent="Gadovist"), "T1C"),
    (siemens("t2_spc_da-fl_sag_p2_iso", "*spcir_278ns", "SE IR", 5000, 386, inversion=1800.0), "FLAIR"),
    (siemens("t2_tirm_tra_dark-fluid_fs", "*tir2d1_16", "SE IR", 9000, 81, inversion=2500.0), "FLAIR"),
    (siemens("t2_tirm_tra_dark-fluid_fs", "*tir2d1_16", "SE IR", 9000, 81), "FLAIR"),
    (siemens("t1_tirm_tra_dark-fluid", "*tir2d1_11", "SE IR", 2000, 9.4, inversion=860.0), "T1"),
    (siemens("t2_tirm_cor", "*tir2d1_12", "SE IR", 4130, 39, inversion=220.0), "STIR"),
    (siemens("t2_tse_dixon_sag_W", "*tse2d1_15", "SE", 3500, 88), "T2"),
    (siemens("t2_tse_fs_cor", "*tse2d1_15", "SE", 4000, 77, scan_options=("FS",)), "T2"),
    (siemens("t2_haste_cor_bh", "*h2d1_256", "SE", 1000, 92), "T2"),
    (siemens("pd_tse_fs_sag", "*tse2d1_7", "SE", 2600, 33), "PD"),
    (siemens("t1_vibe_dixon_tra_bh_opp", "*fl3d2", "GR", 4.17, 1.29, flip_angle_deg=9.0), "T1"),
    (siemens("t1_fl2d_tra_in-opp", "*fl2d2", "GR", 120, 2.2, flip_angle_deg=70.0), "T1"),
    (siemens("t2_trufi_cor_bh", "*tfi2d1_185", "GR", 3.9, 1.7, flip_angle_deg=60.0), "OTHER"),
    (siemens("cine_trufi_sax", "*tfi2d1_15", "GR", 41, 1.2, flip_angle_deg=60.0, cardiac_images=25), "CINE"),
    (siemens("trufi_4ch", "*tfi2d1_15", "GR", 41, 1.2, flip_angle_deg=60.0, cardiac_images=25), "CINE"),
    (siemens("t2_me2d_tra_p2", "*me2d1r3", "GR", 450, 17, flip_angle_deg=30.0), "T2STAR"),
    (siemens("t2_fl2d_tra_hemo", "*fl2d1", "GR", 620, 19.9, flip_angle_deg=20.0), "T2STAR"),
    (siemens("t2_de3d_we_sag", "*de3d1", "GR", 14.1, 5.0, flip_angle_deg=25.0, protocol_name="DESS"), "OTHER"),
    (siemens("Mag_Images", "*swi3d1r", "GR", 28, 20, protocol_name="t2_swi_tra_p2", flip_angle_deg=15.0), "SWI"),
    (siemens("Pha_Images", "*swi3d1r", "GR", 28, 20, image_type=("ORIGINAL", "PRIMARY", "P", "ND")), "OTHER"),
    (siemens("ep2d_diff_3scan_trace_p2_TRACEW", "*ep_b1000t", "EP", 3500, 89, b_value=1000.0), "DWI"),
    (siemens("ep2d_diff_3scan_trace_p2", "*ep_b0", "EP", 3500, 89, b_value=0.0), "DWI"),
    (timed("EP", 3500, 89, sequence_name="*ep_b0", vendor="Siemens"), "DWI"),
    (siemens("ep2d_bold_moco_p2", "*epfid2d1_64", "EP", 2000, 30), "EPI"),
    (siemens("ep2d_perf_p2", "*epfid2d1_128", "EP", 1600, 30, contrast_agent="Dotarem"), "PERFUSION"),
    (
        siemens("relCBF", "*epfid2d1_128", "EP", 1600, 30, image_type=("DERIVED", "PRIMARY", "PERFUSION", "RELCBF")),
        "PERFUSION",
    ),
    (siemens("tgse_pcasl_PLD1800", "tgse3d1", "SE EP", 4600, 21.8, inversion=1800.0), "PERFUSION"),
    (siemens("TOF_3D_multi-slab", "*fi3d1", "GR", 21, 3.42, flip_angle_deg=18.0), "MRA"),
    (siemens("angio_fl3d_cor_bh_TWIST", "*fldyn3d1", "GR", 2.6, 1.0, contrast_agent="Gadovist"), "MRA"),
    (siemens("t1_twist_tra_dyn", "*fldyn3d1", "GR", 4.1, 1.4, contrast_agent="Gadovist", flip_angle_deg=12.0), "DCE"),
    (siemens("t1_tse_dyn_sella", "*tse2d1_9", "SE", 400, 12, contrast_agent="Gadovist"), "DCE"),
    (siemens("gre_field_mapping", "*fm2d2r", "GR", 400, 4.92, flip_angle_deg=60.0), "OTHER"),
    (siemens("T1map_MOLLI_sax", "*tfi2d1_35", "GR IR", 280, 1.1, inversion=300.0, cardiac_images=1), "OTHER"),
    (siemens("R2Star_Images", "*fl3d6", "GR", 9, 1.2, image_type=("DERIVED", "PRIMARY", "R2_STAR MAP")), "OTHER"),
    (siemens("psir_lge_sax", "*tfl2d1_25", "GR IR", 750, 1.2, inversion=340.0, flip_angle_deg=20.0), "T1C"),
    (siemens("fMRI_localizer_faces", "*epfid2d1_64", "EP", 2000, 30), "EPI"),
    # GE
    (ge("Ax T1 FLAIR", "SE IR", 2450, 24, inversion=860.0), "T1"),
    (ge("Ax T1 FLAIR", "RM", 2450, 24), "T1"),
    (ge("Ax T2 FLAIR FS", "SE IR", 9000, 119, inversion=2470.0), "FLAIR"),
    (ge("Sag CUBE T2 FLAIR", "SE IR", 6300, 107, inversion=1780.0), "FLAIR"),
    (ge("Sag CUBE T2", "SE", 2500, 90), "T2"),
    (ge("3D Ax T1 MP-RAGE", "RM IR", 2217, 3.2, inversion=1000.0, flip_angle_deg=8.0), "T1"),
    (ge("AX BRAVO +C", "GR", 8.2, 3.2, inversion=450.0, flip_angle_deg=12.0), "T1C"),
    (ge("Ax SWAN", "GR", 37, 24, flip_angle_deg=15.0), "SWI"),
    (ge("Ax T2 PROPELLER", "SE", 4500, 100), "T2"),
    (ge("Ax T2 SSFSE", "SE", 900, 84), "T2"),
    (ge("AX DWI B1000", "EP SE", 8000, 80, b_value=1000.0), "DWI"),
    (ge("Ax DWI TENSOR", "EP SE", 8000, 80), "DWI"),
    (ge("Apparent Diffusion Coefficient (mm2/s)", "EP SE", 8000, 80, b_value=1000.0), "ADC"),
    (ge("ADC", "EP SE", 8000, 80, b_value=600.0, image_type=("DERIVED", "SECONDARY", "PROCESSED")), "ADC"),
    (ge("AX DWI/ADC", "EP SE", 8000, 80, b_value=600.0, image_type=("ORIGINAL", "PRIMARY", "OTHER")), "DWI"),
    (ge("Exponential Apparent Diffusion Coefficient", "EP SE", 8000, 80), "OTHER"),
    (ge("3D ASL (non-contrast)", "RM", 4854, 10.7), "PERFUSION"),
    (ge("CBF (PLD 1525)", "RM", 4854, 10.7), "PERFUSION"),
    (ge("Cor FIESTA-C", "GR", 5.6, 2.3, flip_angle_deg=55.0), "T2"),
    (ge("Ax FIESTA FatSat", "GR", 4.3, 1.9, flip_angle_deg=55.0), "OTHER"),
    (ge("WATER: Ax LAVA-Flex +C", "GR", 4.0, 1.7, flip_angle_deg=12.0), "T1C"),
    (ge("Ax VIBRANT MPH +C", "GR", 5.4, 2.6, flip_angle_deg=10.0), "DCE"),
    (ge("COR TRICKS", "GR", 3.3, 1.2, flip_angle_deg=30.0), "MRA"),
    (ge("AX MERGE", "GR", 500, 14, flip_angle_deg=20.0), "T2STAR"),
    (ge("FSE PD AXIAL OBL", "SE", 2300, 22), "PD"),
    (ge("SAG STIR", "SE IR", 4500, 45, inversion=160.0), "STIR"),
    (ge("Sag IDEAL T2", "SE", 3800, 85), "T2"),
    (ge("3D Ax TOF MRA", "GR", 24, 2.8, flip_angle_deg=20.0), "MRA"),
    (ge("FLAIR", "RM", 10002, 159.5, angio=True), "FLAIR"),
    (timed("SE", 10002, 159.5, vendor="GE", angio=True), "T2"),
    # Philips
    (philips("sT2W_TSE_TRA", "SE", 3000, 80), "T2"),
    (philips("T1W_3D_TFE", "GR", 8.1, 3.7, flip_angle_deg=8.0, sequence_variant=("MP",)), "T1"),
    (
        philips("ADNI_Sag3D MPRAGE", "GR", 6.5, 2.93, inversion=900.0, flip_angle_deg=9.0, sequence_variant=("MP",)),
        "T1",
    ),
    (philips("3D_Brain_VIEW_FLAIR", "SE IR", 4800, 340, inversion=1650.0), "FLAIR"),
    (philips("FLAIR_longTR", "IR", 11000, 125, inversion=2800.0), "FLAIR"),
    (
        philips("STIR GR 512", "IR", 4414, 64, inversion=140.0, image_type=("DERIVED", "PRIMARY", "OTHER", "R", "IR")),
        "STIR",
    ),
    (philips("T2W_VISTA", "SE", 2000, 200), "T2"),
    (philips("PDW_aTSE_SPAIR", "SE", 2800, 30), "PD"),
    (philips("B-FFE_M2D_BH", "GR", 2.8, 1.4, flip_angle_deg=60.0, sequence_variant=("SS",)), None),
    (philips("BTFE_BH", "GR", 2.8, 1.4, flip_angle_deg=60.0), "OTHER"),
    (philips("FFE_T2W", "GR", 700, 16, flip_angle_deg=18.0, protocol_name="T2W_FFE"), "T2STAR"),
    (philips("VEN_BOLD_HR", "GR", 15, 21, flip_angle_deg=10.0), "EPI"),
    (philips("SWIp", "GR", 31, 7.2, flip_angle_deg=17.0), "SWI"),
    (philips("DWI_3b", "SE", 3200, 70, b_value=800.0, image_type=("ORIGINAL", "PRIMARY", "M", "SE", "M", "SE")), "DWI"),
    (philips("DTI_S2MB2", "SE", 4972, 72.4, echo_train_length=63, sequence_name="DwiSE"), "DWI"),
    (philips("dADC_DWI_3b", "SE", 3200, 70, image_type=("DERIVED", "PRIMARY", "ADC", "UNSPECIFIED")), "ADC"),
    (philips("EPI_asc", "GR", 2000, 30, flip_angle_deg=90.0, echo_train_length=39), "EPI"),
    (philips("run 1", "GR", 2000, 30, flip_angle_deg=90.0, echo_train_length=39), "EPI"),
    (philips("3DpCASL", "GR", 4250, 9, sequence_name="GraSE"), "PERFUSION"),
    (philips("mDIXON-All_BH", "GR", 3.8, 1.3, flip_angle_deg=10.0, image_type=("ORIGINAL", "PRIMARY", "W", "W")), "T1"),
    (philips("eTHRIVE_dyn", "GR", 3.0, 1.4, flip_angle_deg=10.0, contrast_agent="Dotarem"), "DCE"),
    (philips("4D-TRAK", "GR", 2.4, 0.9, flip_angle_deg=20.0), "MRA"),
    (philips("fcMRI Field Mapping", "GR", 20, 2.3, flip_angle_deg=10.0), "OTHER"),
    (philips("T1W/SE/1024", "SE", 350, 27), "T1"),
    (philips("Survey_BFFE", "GR", 3.1, 1.5), "LOCALIZER"),
    (philips("PDFF", "GR", 6, 1.0, image_type=("DERIVED", "PRIMARY", "FF", "FF")), "OTHER"),
    # Canon, UIH, Hitachi
    (timed("SE EP", 10000, 79, series_description="DTI_AX_30d", sequence_name="SEEPI2D+0.7", vendor="Canon"), "DWI"),
    (timed("SE", 4000, 240, vendor="Canon"), "T2"),
    (timed("GR", 29, 40, series_description="FSBB", vendor="Canon"), "SWI"),
    (
        timed("GR IR", 7.25, 3.1, 750.0, series_description="t1_gre_fsp_3d_sag", sequence_name="gre_fsp", vendor="UIH"),
        "T1",
    ),
    (timed("SE", 4200, 98, series_description="t2_fse_tra", sequence_name="fse", vendor="UIH"), "T2"),
    (timed("GR", 21, 3.4, series_description="tof_gre_tra", vendor="UIH", flip_angle_deg=18.0), "MRA"),
    (timed("", 4200, 98, sequence_name="fse", vendor="UIH"), "T2"),
    (timed("GR", 5, 2.5, series_description="COR BASG", vendor="Hitachi", flip_angle_deg=60.0), "OTHER"),
    # What only relaxometry and multi-parameter mapping do
    (timed("SE", 2450, 6.3, echoes=8), "OTHER"),
    (timed("SE", 2450, 19, echoes=2), "PD"),
    (siemens("2D 16Echo qT2", "se2d16", "SE", 3000, 40), "OTHER"),
    (timed("GR", 24.5, 2.3, flip_angle_deg=6.0), "PD"),
    (timed("GR", 24.5, 2.3, flip_angle_deg=21.0), "T1"),
    (called("T1rho_sag_knee"), "OTHER"),
    (called("3D_QSM_GRE"), "SWI"),
    (called("MR Elastography stiffness"), "OTHER"),
    # Words of other languages, and words glued together
    (called("T1TSE_TRA nach KM"), "T1C"),
    (called("AXT2FS"), "T2"),
    (called("SAG DP FATSAT GENOU"), "PD"),
    (called("AX DIFUSION"), "DWI"),
    (called("T2 TSE fase arterial"), "T2"),
    (called("cardiac b1000 phantom", scanning_sequence=("SE",)), None),
    # Timing against words
    (timed("SE", 500, 10, series_description="AX FLAIR"), "T1"),
    (timed("SE IR", 9000, 110, 2500.0, series_description="COR STIR"), "FLAIR"),
    (timed("SE IR", 4500, 60, 160.0, series_description="COR FLAIR"), "STIR"),
    (timed("SE", 3500, 90, series_description="T1 AX"), "T2"),
    (timed("SE", 3500, 90, series_description="T2 haste dynamic pelvic floor"), "T2"),
    (timed("SE", 4000, 90, acquisition_contrast="T1"), "T2"),
    (timed("GR", 150, 10, acquisition_contrast="T1"), "T1"),
    # Names: what BIDS says of person, session and task is not said of the image
    (Tags(name="sub-01_ses-post_T1w", bids_suffix="T1w", folder="anat"), "T1"),
    (Tags(name="sub-01_acq-iso_ce-gad_T1w", bids_suffix="T1w", folder="anat"), "T1C"),
    (Tags(name="sub-01_task-dti_bold", bids_suffix="bold"), "EPI"),
    (Tags(name="b100_T1"), "T1"),
]


@pytest.mark.parametrize(("tags", "expected"), VENDORS, ids=lambda one: str(one)[:80])
def test_sequences_as_vendors_write_them(tags: Tags, expected: str | None) -> None:
    assert infer_sequence(Tags(**{"words_from": "tag", **tags}))[0] == expected  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("AAHScout",), True),
        (("3-plane LOC",), True),
        (("sub-01_task-loc_bold",), False),
        (("fMRI localizer",), False),
        (("local shim", "T1"), False),
        ((None,), False),
    ],
)
def test_planning_images(texts: tuple[str | None, ...], expected: bool) -> None:
    assert is_localizer(*texts) is expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (Tags(contrast_agent="Gadovist 7.5 ml"), ("yes", "tag")),
        (Tags(contrast_agent="None"), ("no", "tag")),
        (called("T1 post gad"), ("yes", "tag")),
        (called("t1_ce"), ("yes", "tag")),
        (called("T1 without contrast"), ("no", "tag")),
        (called("T1 W/O"), ("no", "tag")),
        (called("BRAIN W/WO"), (None, None)),
        (called("BRAIN W AND W/O CONTRAST"), (None, None)),
        (called("AX T2 POST FOSSA"), (None, None)),
        (called("ANT/POST"), (None, None)),
        (called("T1 pre"), ("no", "tag")),
        (called("T1 post-op"), (None, None)),
        (called("T1 post treatment"), (None, None)),
        (called("T1 pre and post"), (None, None)),
        (called("T1 without FS"), (None, None)),
        (called("AX T1 +C"), ("yes", "tag")),
        (called("AX T1 C+ FS"), ("yes", "tag")),
        (called("3D phase contrast"), (None, None)),
        (called("T1 ohne KM"), ("no", "tag")),
        (called("T1 sin contraste"), ("no", "tag")),
        (called("T1 sans injection gado"), ("yes", "tag")),
        (called("DCE_noGd"), ("no", "tag")),
        (called("dce_vibe"), ("yes", "tag")),
        (called("T1 pre", contrast_agent="Dotarem"), ("no", "tag")),
        (called("T1 post", contrast_agent="none"), ("no", "tag")),
        (Tags(contrast_agent="0.0 ml"), ("no", None)),
        (Tags(contrast_agent="unknown"), (None, None)),
        (called("T1 ax", protocol_name="BRAIN W/WO CONTRAST", vendor="GE"), (None, None)),
        (called("T1 ax", protocol_name="t1_post_km", vendor="Siemens"), ("yes", "tag")),
        (Tags(name="sub-01_ses-pre_T1w"), (None, None)),
        (called("posterior fossa"), (None, None)),
        (Tags(name="tcga/T1_post-contrast"), ("yes", "name")),
        (Tags(), (None, None)),
    ],
)
def test_contrast(tags: Tags, expected: tuple[str | None, str | None]) -> None:
    assert infer_contrast(tags) == (expected[0], expected[1] or ("tag" if expected[0] else None))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (Tags(body_part="HEAD", series_description="knee"), ("brain", "tag")),
        (Tags(body_part="LSPINE"), ("spine", "tag")),
        (Tags(body_part="PROSTATE"), ("pelvis", "tag")),
        (Tags(body_part="HEADNECK"), ("neck", "tag")),
        (Tags(body_part="WHOLEBODY"), ("whole_body", "tag")),
        (Tags(body_part="EXTREMITY", series_description="Left Knee PD"), ("knee", "tag")),
        (called("C-Spine T2 sag"), ("spine", "tag")),
        (called("whole body stir"), ("whole_body", "tag")),
        (Tags(name="sct/t2_lumbar"), ("spine", "name")),
        (Tags(name="pyradiomics/breast1"), ("breast", "name")),
        (called("Schädel"), ("brain", "tag")),
        (called("Épaule gauche DP"), ("shoulder", "tag")),
        (called("RM RODILLA IZQ"), ("knee", "tag")),
        (called("femoral head"), (None, None)),
        (called("shoulder ABD"), ("shoulder", "tag")),
        (called("t1 cor", protocol_name="CLINICAL BRAIN"), ("brain", "tag")),
        (Tags(name="sub-01_task-hand_bold"), (None, None)),
        (timed("SE IR", 9000, 110, 2500.0), ("brain", "physics")),
        (timed("SE IR", 9000, 110, 2500.0, body_part="LSPINE"), ("spine", "tag")),
        (Tags(name="patient07/FLAIR"), ("brain", "name")),
        (called("t2_tse_tra"), (None, None)),
    ],
)
def test_region(tags: Tags, expected: tuple[str | None, str | None]) -> None:
    assert infer_region(tags) == expected


@settings(max_examples=60, deadline=None)
@given(
    kind=st.lists(st.sampled_from(["SE", "GR", "IR", "EP", "RM"]), max_size=3),
    times=st.lists(st.floats(0.01, 20_000), min_size=3, max_size=3),
    text=st.text(max_size=30),
)
def test_only_words_of_the_vocabulary_come_out(kind: list[str], times: list[float], text: str) -> None:
    tags = timed(" ".join(kind), times[0], times[1], times[2], series_description=text, words_from="tag")
    found, source = infer_sequence(tags)
    assert found is None or found in SEQUENCES
    assert (found is None) == (source is None)
    assert infer_region(tags)[0] in (None, *REGIONS)


def test_words_split_at_punctuation_and_capitals() -> None:
    assert words_of("T2*_tse-Tra AxialFLAIR", None) == ("t2star", "tse", "tra", "axial", "flair")
    assert words_of("sT2W_TSE eADC qT2 T1rho", "Wirbelsäule") == ("t2w", "tse", "eadc", "qt2", "t1rho", "wirbelsaeule")
    assert words_of("AXT2FS", "t1_pre", "dark-fluid") == ("ax", "t2", "fs", "t1", "pre", "darkfluid")
    assert words_of("sub-07_ses-post_task-hand_dir-AP_bold") == ("bold",)


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("026Y", 26.0),
        ("006M", 0.5),
        ("012W", 0.23),
        ("030D", 0.082),
        ("63", 63.0),
        ("090Y", 90.0),
        ("101Y", 90.0),
        ("089Y", 89.0),
        ("***", None),
        ("", None),
        ("999Y", None),
    ],
)
def test_age_strings(text: str, years: float | None) -> None:
    assert age_of_string(text) == years


@pytest.mark.parametrize(
    ("birth", "study", "years"),
    [
        ("19800115", "20200114", 39.9),
        ("19800115", "20200116", 40.0),
        ("19000101", "20200101", 90.0),
        ("20200101", "19800101", None),
        ("", "20200101", None),
        ("19801399", "20200101", None),
    ],
)
def test_ages_from_dates(birth: str, study: str, years: float | None) -> None:
    assert age_between(birth, study) == years


@pytest.mark.parametrize(
    ("text", "agent"),
    [
        ("Gadovist 7.5 ml", "gadobutrol"),
        ("DOTAREM15ML", "gadoterate"),
        ("Gd-DTPA (Magnevist)", "gadopentetate"),
        ("Gadolinium: ProHance", "gadoteridol"),
        ("11 ml Omniscan", "gadodiamide"),
        ("Primovist", "gadoxetate"),
        ("MULTIHANCE", "gadobenate"),
        ("Elucirem", "gadopiclenol"),
        ("Feraheme", "ferumoxytol"),
        ("Resovist", "ferucarbotran"),
        ("GADOLINIUM", "gadolinium"),
        ("gd", "gadolinium"),
        ("no gadolinium", None),
        ("IODINE", None),
        ("Meier, Gadi", None),
        ("10 ml", None),
        ("", None),
        (None, None),
    ],
)
def test_contrast_agents_are_told_by_their_generic_names(text: str | None, agent: str | None) -> None:
    assert contrast_agent_of(text) == agent


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("HEAD", "HEAD"),
        ("prostate ", "PROSTATE"),
        ("C-SPINE", "CSPINE"),
        ("L_SPINE", "LSPINE"),
        ("Head and Neck", "HEADNECK"),
        ("Wirbels\u00e4ule", "SPINE"),
        ("Kopf", "HEAD"),
        ("THORAX", "CHEST"),
        ("WHOLE BODY", "WHOLEBODY"),
        ("TMJ", "TMJ"),
        ("KNEE of Meier", None),
        ("Meier", None),
        ("", None),
        (None, None),
    ],
)
def test_body_parts_are_defined_terms(text: str | None, part: str | None) -> None:
    assert body_part_of(text) == part


@given(st.text(max_size=40))
def test_free_text_never_becomes_an_agent_or_a_body_part(text: str) -> None:
    assert contrast_agent_of(text) in {None, "gadolinium", *_AGENTS}
    assert body_part_of(text) in {None, *_BODY_PARTS}


def test_sex_and_vendor_are_normalised() -> None:
    assert [sex_of(text) for text in ("f", "Male", "O", "", None, "U")] == ["F", "M", "O", None, None, None]
    makers = [
        "SIEMENS",
        "Siemens Healthineers",
        "GE MEDICAL SYSTEMS",
        "Philips Healthcare",
        "TOSHIBA_MEC",
        "UIH",
        "Acme",
    ]
    assert [vendor_of(maker) for maker in makers] == ["Siemens", "Siemens", "GE", "Philips", "Canon", "UIH", None]
