"""Pascal VOC 2012, augmented: 10,582 training and 1,449 validation images, 21 classes.

Assign any setting of `python train.py --settings`; settings that are not assigned here keep their defaults.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data. 1/labeled_ratio of the images are labelled; ratios: 2, 4, 8 or 16
C.labeled_ratio = 8
C.dataset_name = "pascal_voc"
C.dataset_path = f"{C.volna}/DATA/pascal_voc"
C.train_folder, C.eval_folder = "train_aug", "val"
partitions = f"{C.dataset_path}/subset_train_aug"
C.train_source = f"{partitions}/train_aug_labeled_1-{C.labeled_ratio}.txt"
C.unsup_source = f"{partitions}/train_aug_unlabeled_1-{C.labeled_ratio}.txt"
C.eval_source = f"{C.dataset_path}/val.txt"
# Lists for few labels, 92 (ratio 16), 183 (8), 366 (4) or 732 (2), and for all 1,464 official ones: every augmented
# image is unlabelled, and the number of iterations is that of the partition above
every = f"{C.dataset_path}/train_aug.txt"
# C.train_source, C.unsup_source = f"{partitions}/train_pseudoseg_labeled_1-{C.labeled_ratio}.txt", every
# C.train_source, C.unsup_source = f"{C.dataset_path}/train.txt", every
C.num_classes = 21
C.image_height = C.image_width = 512

# Method
C.unsup_weight = 1

# Network
C.backbone = "resnet50"  # or "resnet101"
C.pretrained_model = f"{C.volna}/DATA/pytorch-weight/{C.backbone}_v1c.pth"  # or "imagenet", or None

# Optimization
C.lr = 0.005
C.batch_size = 8
C.nepochs = {16: 32, 8: 34, 4: 40, 2: 60}.get(C.labeled_ratio, 34)
C.num_train_imgs = 10582 // C.labeled_ratio
C.num_unsup_imgs = 10582 - C.num_train_imgs
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size

# Evaluation
C.eval_crop_size = 512
