"""Pascal VOC with a modern encoder: CPCL between two DINOv2 networks (`-f config_modern.py`).

Ours, not a published recipe. Optimizer, crop and batch are those of UniMatch V2; not measured yet (docs/RESULTS.md).
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data, as in config.py
C.labeled_ratio = 8
C.dataset_name = "pascal_voc"
C.dataset_path = f"{C.volna}/DATA/pascal_voc"
C.train_folder, C.eval_folder = "train_aug", "val"
partitions = f"{C.dataset_path}/subset_train_aug"
C.train_source = f"{partitions}/train_aug_labeled_1-{C.labeled_ratio}.txt"
C.unsup_source = f"{partitions}/train_aug_unlabeled_1-{C.labeled_ratio}.txt"
C.eval_source = f"{C.dataset_path}/val.txt"
C.num_classes = 21
C.image_height = C.image_width = 518  # 37 patches

# Method: CPCL as published; strong views and averaged teachers did not help in short runs on CamVid (docs/RESULTS.md)
C.unsup_weight = 1
C.ignore_padding = True

# Network
C.backbone = "vit_small_patch14_dinov2"
C.pretrained_model = "imagenet"  # timm's own weights, downloaded once
C.decoder = "dpt"
C.head_channels = 128

# Optimization
C.optimizer = "adamw"
C.lr, C.lr_backbone = 2e-4, 1 / 40
C.weight_decay = 0.01
C.batch_size = 16
C.nepochs = 60
C.num_train_imgs = 10582 // C.labeled_ratio
C.num_unsup_imgs = 10582 - C.num_train_imgs
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size

# Evaluation
C.eval_crop_size = 518
