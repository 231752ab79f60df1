"""Why a number of ours is not that of a recipe's source, by recipe and by the source's name of it."""

from collections.abc import Mapping

_TEST_CROP = {"DATA.TEST_CROP_SIZE": "the test crop is the training's"}
_START = {"SOLVER.WARMUP_START_LR": "the warm-up starts at 0"}
_JITTER = {"DATA.TRAIN_JITTER_SCALES": "areas of frames of 4:3, rounded to two digits"}
_NO_WARMUP = {"SOLVER.WARMUP_START_LR": "there is no warm-up"}
_TWO_CLIPS = {"DATA.TRAIN_CROP_NUM_TEMPORAL": "two clips cost what the other methods cost"}
_TEST_VIEWS = "the published test of most others, 10 x 3, for all"

REASONS: Mapping[str, Mapping[str, str]] = {
    "moco": _TWO_CLIPS,
    "byol": {"CONTRASTIVE.T": "it scales the loss alone; ours is the squared distance, as in the paper"},
    "simclr": {
        **_TWO_CLIPS,
        "CONTRASTIVE.NUM_MLP_LAYERS": "CVRL's head",
        "CONTRASTIVE.BN_MLP": "CVRL's head",
        "CONTRASTIVE.SEQUENTIAL": "SimCLR's single pass; `separate_passes` has the study's",
    },
    "ssv2:weak_teacher": {
        **_START,
        **_TWO_CLIPS,
        "SOLVER.BASE_LR": "of four clips; 0.05 is its file's own rate for two",
        "DATA.SSL_COLOR_HUE": "strengths of all our configurations (CoCLR's)",
        "DATA.SSL_COLOR_BRI_CON_SAT": "the same",
        "DATA.TRAIN_JITTER_SCALES_RELATIVE": "the same",
        "DATA.TRAIN_JITTER_ASPECT_RELATIVE": "its rounding",
        "CONTRASTIVE.NUM_MLP_LAYERS": "the weak teacher's head",
        "CONTRASTIVE.MOCO_MULTI_VIEW_QUEUE": "one key of each video",
        "DATA.SAMPLING_RATE": "videos of 4 s at 12 frames a second",
        "DATA.RANDOM_FLIP": "classes differ by side",
    },
    "k400:vjepa2": {
        "optimization.epochs": "its file stops within the warm-up; the length of the main phase could not be read: V-JEPA's",
        "optimization.ipe_scale": "of cosines; rate and decay are constant",
    },
    "finetune.RHO_FINETUNE_UCF101": {**_NO_WARMUP, **_JITTER, **_TEST_CROP},
    "finetune.RHO_FINETUNE_SSV2": {
        **_START,
        **_JITTER,
        **_TEST_CROP,
        "SOLVER.LRS": "there are two drops",
    },
    "linear_clips.RHO_LINEAR_K400": {
        **_JITTER,
        **_TEST_CROP,
        "TRAIN.BATCH_SIZE": "on each of eight machines, by which it scales the rate",
    },
    "finetune.MACLR_FINETUNE": {
        **_START,
        **_TEST_CROP,
        "BN.USE_PRECISE_STATS": "the running statistics are the training's",
    },
    "linear_clips.MACLR_LINEAR": {**_NO_WARMUP, **_TEST_CROP},
    "k400:videomae": {"epochs": "one more, by inference for its checkpoint"},
    "k400:svt": {"epochs": "those of its released model"},
    "vtdl": {"nce_k": "the next multiple of usual batches"},
    "swav": {"nmb_crops": "all clips have one size: no small ones"},
}
