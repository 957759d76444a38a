"""Cityscapes: 2,975 training and 500 validation images, 19 classes.

Assign any setting of `python train.py --settings`; settings that are not assigned here keep their defaults.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data. 1/labeled_ratio of the images are labelled; ratios: 2, 4, 8 or 16
C.labeled_ratio = 8
C.dataset_name = "cityscapes"
C.dataset_path = f"{C.volna}/DATA/city"
C.train_source = f"{C.dataset_path}/config_new/subset_train/train_aug_labeled_1-{C.labeled_ratio}.txt"
C.unsup_source = f"{C.dataset_path}/config_new/subset_train/train_aug_unlabeled_1-{C.labeled_ratio}.txt"
C.eval_source = f"{C.dataset_path}/config_new/val.txt"
C.num_classes = 19
C.image_height = C.image_width = 800

# Method
C.unsup_weight = 5
C.ohem = True
C.class_weight = [
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
]  # fmt: skip

# Network
C.backbone = "resnet50"  # or "resnet101"
C.pretrained_model = f"{C.volna}/DATA/pytorch-weight/{C.backbone}_v1c.pth"  # or "imagenet", or None

# Optimization
C.lr = 0.01
C.batch_size = 16
C.nepochs = {16: 128, 8: 137, 4: 160, 2: 240}.get(C.labeled_ratio, 137)
C.num_train_imgs = 2975 // C.labeled_ratio
C.num_unsup_imgs = 2975 - C.num_train_imgs
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size

# Evaluation
C.eval_crop_size = 800
