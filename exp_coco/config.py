"""COCO 2017: 118,287 training and 5,000 validation images, 80 object classes and background.

Crop, batch, learning rate and epochs are those of UniMatch, whose encoder is Xception-65. The rest of the recipe is
ours: there are no published results for it. Assign any setting of `python train.py --settings`; settings that are
not assigned here keep their defaults.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data. 1/labeled_ratio of the images are labelled; ratios: 32, 64, 128, 256 or 512
C.labeled_ratio = 128
C.dataset_name = "coco"
C.dataset_path = f"{C.volna}/DATA/coco"
C.train_source = f"{C.dataset_path}/subset_train/train_labeled_1-{C.labeled_ratio}.txt"
C.unsup_source = f"{C.dataset_path}/subset_train/train_unlabeled_1-{C.labeled_ratio}.txt"
C.eval_source = f"{C.dataset_path}/val.txt"
C.num_classes = 81
C.image_height = C.image_width = 513  # as published

# Method
C.unsup_weight = 1

# Network
C.backbone = "resnet50"  # or "resnet101"
C.pretrained_model = "imagenet"  # or the path of a v1c file, or None

# Optimization
C.lr = 0.004  # as published
C.batch_size = 16  # as published
C.nepochs = 30  # as published
C.num_train_imgs = 118287 // C.labeled_ratio
C.num_unsup_imgs = 118287 - C.num_train_imgs
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size

# Evaluation
C.eval_crop_size = 513
