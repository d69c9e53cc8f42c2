"""Trains an image classifier with cross-entropy, for instance a teacher on a long-tailed split.

python examples/train_teacher.py --benchmark cifar100_lt --imbalance_factor 100 --model resnet32x4 --preset paper \
    --output_dir teacher

It takes the flags of `hf-ltkd train-teacher`, or a YAML file alone. In a script of your own, write them as keywords:

    hf_ltkd.train_teacher("resnet32x4", "photos", image_size=64, preset="paper", output_dir="teacher")

What is not set is recommended there; here it keeps the defaults of `TrainingArguments` (`recommend=False`).
"""

import sys

import hf_ltkd
from hf_ltkd.cli import parse
from hf_ltkd.cli.text import print_evaluation


def main():
    settings = {"model": "resnet20", "recommend": False, **parse("train-teacher", sys.argv[1:])}
    print_evaluation(hf_ltkd.train_teacher(**settings))


if __name__ == "__main__":
    main()
