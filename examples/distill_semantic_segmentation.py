r"""Distils a model that gives each pixel a class, where classes are long-tailed: IoU per group, a card, pictures.

Small UperNets from scratch, without a download; the teacher is trained first, by the same script:

python examples/distill_semantic_segmentation.py --data camvid --loss ce --student upernet_32 --output_dir teacher
python examples/distill_semantic_segmentation.py --data camvid --teacher teacher --student upernet_16 \
    --output_dir student

It takes the flags of `hf-ltkd distill --task semantic-segmentation`, or a YAML file alone. `--data` is a folder of
parquet files or of `images/` and `masks/`, or a Hub id; `--teacher` and `--student` also take folders and Hub ids of
any `...ForSemanticSegmentation`. In a script of your own, write them as keywords:

    hf_ltkd.distill("teacher", "upernet_16", "camvid", task="semantic-segmentation", output_dir="student")

No student without a teacher is trained beside the student here; `--plain_student` does it, to compare.
"""

import sys

import hf_ltkd
from hf_ltkd.cli import parse
from hf_ltkd.cli.text import print_comparison


def main():
    defaults = {"task": "semantic-segmentation", "plain_student": False}
    print_comparison(hf_ltkd.distill(**{**defaults, **parse("distill", sys.argv[1:])}))


if __name__ == "__main__":
    main()
