"""CamVid: 367 training, 101 validation and 233 test images of road scenes, 480 x 360, 11 classes.

The SegNet tutorial split (Brostow et al. 2009; Badrinarayanan et al. 2017; CC BY-NC 4.0, research use) in the VOC
layout: {train,val,test}/{image,label}/ and train.txt, val.txt, test.txt; see DATA/README.md. Assign any setting of
`python train.py --settings`; settings that are not assigned here keep their defaults.
"""

from pathlib import Path

from easydict import EasyDict as edict

C = config = cfg = edict()
C.root_dir = Path(__file__).resolve().parents[1]
C.volna = C.root_dir  # folder that contains DATA; the environment variable volna overrides it

# Data. 1/labeled_ratio of the 367 images are labelled
C.labeled_ratio = 8
C.dataset_name = "camvid"
C.dataset_path = f"{C.volna}/DATA/camvid"
C.train_folder, C.eval_folder = "train", "test"
C.train_source = f"{C.dataset_path}/subset_train/train_labeled_1-{C.labeled_ratio}.txt"
C.unsup_source = f"{C.dataset_path}/subset_train/train_unlabeled_1-{C.labeled_ratio}.txt"
C.eval_source = f"{C.dataset_path}/test.txt"
C.num_classes = 11
C.image_height = C.image_width = 352

# Method
C.unsup_weight = 1

# Network
C.backbone = "tf_efficientnet_lite0"
C.pretrained_model = "imagenet"

# Optimization
C.lr = 0.01
C.batch_size = 8
C.nepochs = 100
C.num_train_imgs = 367 // C.labeled_ratio
C.num_unsup_imgs = 367 - C.num_train_imgs
C.max_samples = max(C.num_train_imgs, C.num_unsup_imgs)
C.niters_per_epoch = C.max_samples // C.batch_size
C.snapshot_iter = 10

# Evaluation
C.eval_crop_size = 480
