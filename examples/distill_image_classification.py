"""Distils an image classifier on a long-tailed split, with LTKD or a baseline.

python examples/distill_image_classification.py --benchmark cifar100_lt --imbalance_factor 100 \
    --teacher teacher --student resnet8x4 --loss ltkd --preset paper --output_dir student

It takes the flags of `hf-ltkd distill`, or a YAML file alone; `examples/README.md` lists more. In a script of your
own, write them as keywords:

    hf_ltkd.distill("teacher", "resnet8x4", "photos", loss_args={"alpha": 1}, output_dir="student")

What is not set is recommended there; here it keeps the defaults of the loss and of `TrainingArguments`
(`recommend=False`), and no plain student is trained beside the student.
"""

import sys

import hf_ltkd
from hf_ltkd.cli import parse
from hf_ltkd.cli.text import print_comparison


def main():
    defaults = {"student": "resnet8", "recommend": False, "plain_student": False}
    print_comparison(hf_ltkd.distill(**{**defaults, **parse("distill", sys.argv[1:])}))


if __name__ == "__main__":
    main()
