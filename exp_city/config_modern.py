"""Cityscapes with a modern encoder: CPCL between two ConvNeXt networks (`-f config_modern.py`).

Ours, not a published recipe; not measured yet (docs/RESULTS.md).
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data, as in config.py
C.labeled_ratio = 8
C.dataset_name = "cityscapes"
C.dataset_path = f"{C.volna}/DATA/city"
C.train_source = f"{C.dataset_path}/config_new/subset_train/train_aug_labeled_1-{C.labeled_ratio}.txt"
C.unsup_source = f"{C.dataset_path}/config_new/subset_train/train_aug_unlabeled_1-{C.labeled_ratio}.txt"
C.eval_source = f"{C.dataset_path}/config_new/val.txt"
C.num_classes = 19
C.image_height = C.image_width = 800

# Method: CPCL as published; strong views and averaged teachers did not help in short runs on CamVid (docs/RESULTS.md)
C.unsup_weight = 1
C.ignore_padding = True
C.ohem = True

# Network
C.backbone = "convnext_tiny"
C.pretrained_model = "imagenet"  # timm's own weights, downloaded once

# Optimization
C.optimizer = "adamw"
C.lr, C.lr_backbone = 5e-4, 1 / 10
C.weight_decay = 0.01
C.batch_size = 8
C.nepochs = 180
C.num_train_imgs = 2975 // C.labeled_ratio
C.num_unsup_imgs = 2975 - C.num_train_imgs
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size

# Evaluation
C.eval_crop_size = 800
