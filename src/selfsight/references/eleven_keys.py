"""Keys of the YAML files of the project of eleven methods, and what they are here: tables for eleven_config.py."""

from __future__ import annotations

ALGORITHMS = {
    **{name: name for name in ("simclr", "moco", "byol", "dino", "pirl", "simsiam", "relic", "swav", "sela")},
    "barlow": "barlowtwins",
    "deep_cluster": "deepcluster",
}
"""Name there -> name here."""

# Kind of a group by its name; all other groups are the method's own, such as `loss_fn`, `memory_bank` or its name.
KINDS = {
    "data": "data", "dataset": "data", "dataloader": "data", "data_loader": "data",
    "transforms": "transforms", "transform": "transforms", "train_transforms": "transforms", "train_transform": "transforms",
    "augmentations": "transforms", "augs": "transforms",
    "test_transforms": "test", "test_transform": "test", "val_transforms": "test", "std_transforms": "test", "test": "test",
    "encoder": "encoder", "backbone": "encoder", "network": "encoder",
    "proj_head": "projector", "projection_head": "projector", "projector": "projector", "projection": "projector",
    "head": "projector", "pred_head": "predictor", "prediction_head": "predictor", "predictor": "predictor",
    "optimizer": "optimizer", "optim": "optimizer", "scheduler": "schedule", "lr_scheduler": "schedule",
    "schedule": "schedule", "linear_eval": "linear", "linear_evaluation": "linear",
}  # fmt: skip

# Leaf as written -> leaf as the tables below call it, in every kind of group.
SAME = {
    "learning_rate": "lr", "wd": "weight_decay", "decay": "weight_decay", "bs": "batch_size", "n_epochs": "epochs",
    "num_epochs": "epochs", "warmup": "warmup_epochs", "warmup_epoch": "warmup_epochs", "workers": "num_workers",
    "n_workers": "num_workers", "temp": "temperature", "normalise": "normalize", "img_size": "image_size",
    "input_size": "image_size", "path": "root", "data_dir": "root", "type": "name", "dataset": "name",
    "hidden": "hidden_dim", "proj_dim": "output_dim", "out_dim": "output_dim", "projection_dim": "output_dim",
    "in_dim": "input_dim", "queue": "queue_size", "lambd": "lambda", "lmbda": "lambda", "lambda_param": "lambda",
    "n_prototypes": "prototypes", "num_prototypes": "prototypes", "bank_size": "queue_size", "feature_bank": "queue_size",
    "feature_bank_size": "queue_size", "sinkhorn_eps": "epsilon", "eps_sinkhorn": "epsilon",
    "sinkhorn_iters": "iterations", "sinkhorn_iterations": "iterations", "n_iters": "iterations", "n_iter": "iterations",
    "num_iters": "iterations", "max_iter": "iterations", "base_tau": "tau", "tau_start": "tau", "tau_base": "tau",
    "final_tau": "tau_end", "memory_momentum": "momentum", "num_negatives": "negatives", "n_negatives": "negatives",
    "n_patches": "num_patches", "loss_weight": "weight", "student_temp": "student_temperature",
    "teacher_temp": "teacher_temperature_end", "teacher_temp_start": "teacher_temperature",
    "warmup_teacher_temp": "teacher_temperature", "teacher_temp_end": "teacher_temperature_end",
    "final_teacher_temp": "teacher_temperature_end", "teacher_temp_epochs": "temperature_epochs",
    "warmup_teacher_temp_epochs": "temperature_epochs", "center_momentum": "centre_momentum",
    "momentum_teacher": "tau", "teacher_momentum": "tau", "teacher_momentum_end": "tau_end", "clip_grad": "clip",
    "grad_clip": "clip", "n_global": "global_crops", "n_local": "local_crops", "num_global": "global_crops",
    "num_local": "local_crops", "global_views": "global_crops", "local_views": "local_crops",
    "n_clusters": "clusters", "num_clusters": "clusters", "k": "clusters", "n_heads": "heads", "num_heads": "heads",
    "n_init": "restarts", "weight_decay_start": "weight_decay", "final_weight_decay": "weight_decay_end",
}  # fmt: skip

# kind -> leaf -> setting here; "" where a remark is all (see REMARKS).
GENERAL: dict[str, dict[str, str]] = {
    "run": {
        "epochs": "epochs", "eval_every": "probe.every", "batch_size": "batch_size", "num_workers": "workers",
        "seed": "seed", "name": "data", "device": "device", "arch": "", "algo": "", "algorithm": "", "task": "", "output": "",
    },
    "data": {
        "name": "data", "root": "data_root", "download": "download", "batch_size": "batch_size",
        "num_workers": "workers", "image_size": "image_size", "shuffle": "", "drop_last": "", "pin_memory": "",
    },
    "encoder": {
        "name": "", "arch": "", "reduce_bottom_conv": "net.stem", "zero_init_residual": "net.zero_init_residual",
        "norm_layer": "net.norm", "patch_size": "net.patch", "pretrained": "",
    },
    "optimizer": {
        "name": "optimizer.name", "lr": "optimizer.lr", "weight_decay": "optimizer.weight_decay",
        "weight_decay_end": "optimizer.weight_decay_end", "momentum": "optimizer.momentum",
        "nesterov": "optimizer.nesterov", "eps": "optimizer.eps", "betas": "optimizer.betas", "amsgrad": "",
        "clip": "optimizer.clip_norm",
    },
    "schedule": {
        "name": "schedule.name", "warmup_epochs": "schedule.warmup_epochs", "milestones": "schedule.milestones",
        "gamma": "schedule.gamma", "final": "schedule.final",
    },
    "linear": {
        "epochs": "epochs", "batch_size": "batch_size", "lr": "lr", "weight_decay": "weight_decay",
        "momentum": "momentum", "input_dim": "", "num_classes": "", "name": "",
    },
}  # fmt: skip
HEADS = {"input_dim": "", "hidden_dim": "method.hidden", "output_dim": "method.dim", "num_layers": "method.layers"}
TARGET = {"tau": "method.momentum", "tau_end": "method.momentum_end"}
# algorithm -> leaf -> setting here, of its own groups and of the top
METHODS: dict[str, dict[str, str]] = {
    "simclr": {"temperature": "method.temperature", "normalize": ""},
    "moco": {
        "temperature": "method.temperature", "momentum": "method.momentum", "queue_size": "method.queue",
        "size": "method.queue",
    },
    "byol": TARGET,
    "simsiam": {},
    "barlow": {"lambda": "method.weight"},
    "swav": {
        "prototypes": "method.prototypes", "queue_size": "method.queue", "size": "method.queue",
        "temperature": "method.temperature", "epsilon": "method.epsilon", "iterations": "method.iterations",
    },
    "relic": {"tau": "method.momentum", "tau_end": "", "temperature": "method.temperature", "alpha": "method.alpha"},
    "pirl": {
        "momentum": "method.momentum", "negatives": "method.negatives", "temperature": "method.temperature",
        "weight": "method.weight", "patch_size": "views.tiles.cell", "num_patches": "views.tiles.grid",
    },
    "dino": {
        **TARGET, "momentum": "method.momentum", "student_temperature": "method.student_temperature",
        "teacher_temperature": "method.teacher_temperature", "clip": "optimizer.clip_norm",
        "teacher_temperature_end": "method.teacher_temperature_end",
        "temperature_epochs": "method.temperature_epochs", "centre_momentum": "method.centre_momentum",
        "global_crops": "views.views", "local_crops": "views.locals", "global_size": "views.size",
        "local_size": "views.local_size", "outputs": "method.outputs",
    },
    "sela": {
        "clusters": "method.clusters", "lambda": "method.sharpness", "iterations": "method.iterations",
        "heads": "method.heads",
    },
    "deep_cluster": {
        "clusters": "method.clusters", "iterations": "method.iterations", "restarts": "", "hungarian": "method.head",
    },
}  # fmt: skip
PREDICTED = ("byol", "simsiam")
PROJECTED: dict[str, dict[str, str]] = {
    **dict.fromkeys(("simclr", "byol", "simsiam", "barlow", "swav"), HEADS),
    "moco": {"input_dim": "", "output_dim": "method.dim"},
    "relic": {"input_dim": "", "hidden_dim": "method.hidden", "output_dim": "method.dim"},
    "pirl": {"input_dim": "", "output_dim": "method.dim"},
    "dino": {
        "input_dim": "", "hidden_dim": "method.hidden", "bottleneck_dim": "method.bottleneck", "output_dim": "method.outputs",
        "num_layers": "method.layers",
    },
}  # fmt: skip

# What becomes a remark and nothing else, and when it is worth one.
REMARKS = {
    "linear.input_dim": "input_dim: the width of the features is known here, a wrong one cannot stop the evaluation",
    "linear.num_classes": "num_classes: follows the data set",
    "deep_cluster.restarts": "restarts of k-means: one start, by k-means++; an empty cluster is filled",
    "relic.tau_end": "tau_end: the teacher's momentum always rises to 1",
    "projector.input_dim": "input_dim of the head: follows the encoder",
    "optimizer.amsgrad": "amsgrad: is not there; Adam as published",
    **dict.fromkeys(("encoder.name", "encoder.arch", "run.arch"), "the encoder in the file: --arch chooses it"),
    "data.shuffle": "shuffle: training pictures are always shuffled",
    "data.drop_last": "drop_last: the last batch is left out if it is not full",
    "data.pin_memory": "pin_memory: chosen by the device",
    "run.algo": "algorithm in the file: --algo chooses it",
    "run.algorithm": "algorithm in the file: --algo chooses it",
    "run.task": "task in the file: --task chooses it",
    "run.output": "output in the file: --output chooses it",
}
