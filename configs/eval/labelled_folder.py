"""Any labelled videos: kNN, linear, attentive and low-shot probes and retrieval, small enough for a CPU.

Command:   python -m wt_jax.tools.evaluate --config=configs/eval/labelled_folder.py --encoders=random,RUN --workdir=OUT
           --config.lists=FOLDER
           FOLDER holds class folders below train/ and test/. For list files add --config.splits="(('train.csv','test.csv'),)";
           for one list or one set of class folders --config.splits="(('NAME',''),)" (30 % of each class become the test
           set) or --config.leave_out=COLUMN (CSV). Clips should be those of the runs: --config.clip.num_frames=... and so on.
           Two more protocols train on clips: --config.protocols="('linear_clips','finetune')".
Hardware:  two CPU cores for some thousand small videos.
Expect:    docs/results.md has what it gave on the rendered motion data.

All values are our choice. `--config.model` is the encoder that `random` means: name the one of the runs it is compared with.
"""

from ml_collections import ConfigDict

from wt_jax.eval.config import default_evaluation


def get_config() -> ConfigDict:
    config = default_evaluation()
    config.clip.num_frames, config.clip.stride, config.clip.size = 8, 4.0, 48
    config.features.windows, config.features.batch_size = 2, 32
    config.model.name, config.model.width, config.model.norm = "small_r2plus1d", 24, "group"
    config.protocols = ("knn", "linear", "attentive", "low_shot", "retrieval")
    config.settings.attentive.batch_size = 64
    for training in (config.settings.linear_clips, config.settings.finetune):
        training.train.duration, training.train.batch_size, training.train.checkpoint_every = "20 epochs", 32, "2 epochs"
        training.optim.name, training.optim.learning_rate, training.optim.warmup = "adamw", 8e-3, "5 %"
        training.strong.flip_probability = 0.0  # left and right may be what distinguishes classes
        training.windows, training.crops, training.batch_size = 2, 1, 32
    config.settings.linear_clips.method.head_norm = "batch"
    return config
