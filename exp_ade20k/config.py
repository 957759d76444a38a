"""ADE20K, scene parsing challenge 2016: 20,210 training and 2,000 validation images, 150 classes.

Crop, batch and epochs are those of UniMatch V2, whose encoder is DINOv2. The rest of the recipe is ours: there are no
published results for it. Assign any setting of `python train.py --settings`; settings that are not assigned here keep
their defaults.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data. 1/labeled_ratio of the images are labelled; ratios: 2, 4, 8, 16, 32 or 64
C.labeled_ratio = 8
C.dataset_name = "ade20k"
C.dataset_path = f"{C.volna}/DATA/ade20k"
C.train_source = f"{C.dataset_path}/subset_train/train_labeled_1-{C.labeled_ratio}.txt"
C.unsup_source = f"{C.dataset_path}/subset_train/train_unlabeled_1-{C.labeled_ratio}.txt"
C.eval_source = f"{C.dataset_path}/val.txt"
C.num_classes = 150
C.reduce_zero_label = True  # official labels: 0 is unlabelled, 1 to 150 are the classes
C.image_height = C.image_width = 518  # as published: a multiple of DINOv2's patch size, 14

# Method
C.unsup_weight = 1

# Network
C.backbone = "resnet50"  # or "resnet101"
C.pretrained_model = "imagenet"  # or the path of a v1c file, or None

# Optimization
C.lr = 0.01
C.batch_size = 16  # as published
C.nepochs = 60  # as published
C.num_train_imgs = 20210 // C.labeled_ratio
C.num_unsup_imgs = 20210 - C.num_train_imgs
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size

# Evaluation
C.eval_crop_size = 518
