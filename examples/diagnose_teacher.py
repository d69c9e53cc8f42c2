"""How biased is a teacher? The paper's diagnosis of a teacher on one's own images, printed and drawn.

python examples/diagnose_teacher.py --teacher teacher --data photos
python examples/diagnose_teacher.py --teacher teacher --data cifar100_lt --imbalance_factor 100 --student student

Fig. 3 of the paper (the probability that each group gets, over batches of evaluation and of training images),
where the losses of KD and LTKD go (Eq. 8 and 14), and which alpha, beta and number of groups to start from. It is what
`hf-ltkd diagnose` does, written out: take from it what a notebook needs.
"""

import argparse

from hf_ltkd.analysis.bias import group_report, loss_parts, teacher_group_mass
from hf_ltkd.analysis.plots import plot_teacher_bias
from hf_ltkd.cli.text import describe_bias, describe_images, describe_start, say, share_table
from hf_ltkd.hub.names import BIAS_PICTURE
from hf_ltkd.workflow.inputs import check_classes, find_data, load_classifier, load_images, make_groups
from hf_ltkd.workflow.recommend import recommend_num_groups, recommend_weights


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="A folder, or an id of the Hub.")
    parser.add_argument("--data", required=True, help="A folder of images, a benchmark, or a dataset of the Hub.")
    parser.add_argument("--data_dir", help="Where a benchmark's images are, instead of on the Hub.")
    parser.add_argument("--label_column", help="The column of the classes, if it is not 'label'.")
    parser.add_argument("--imbalance_factor", type=float, help="Cut the training images to this long tail first.")
    parser.add_argument("--num_groups", type=int, help="Equal groups, instead of head, medium and tail.")
    parser.add_argument("--student", help="Takes the loss of a trained student, instead of one that knows nothing.")
    parser.add_argument("--picture", default=BIAS_PICTURE, help="Where the picture goes.")
    args = parser.parse_args()

    names = ("data_dir", "label_column", "imbalance_factor")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    teacher = load_classifier(args.teacher)
    data, _ = load_images({**find_data(args.data), **given}, args.teacher, share=0.2, seed=0, progress=True)
    check_classes(teacher, args.teacher, data)
    groups = make_groups(data, args.num_groups)
    say("Images", *describe_images(data, groups))
    say("Teacher", *describe_bias(group_report(teacher, data.test, groups), groups))

    weights = recommend_weights(groups.num_classes)
    alpha, beta, temperature = (weights.values[name] for name in ("alpha", "beta", "temperature"))
    student = load_classifier(args.student) if args.student else None
    parts = loss_parts(teacher, data.train, groups, student=student, temperature=temperature, max_batches=100)
    shares = {"KD": parts.kd_shares(), f"LTKD({alpha:g}, {beta:g})": parts.ltkd_shares(alpha, beta)}
    say("Loss", *share_table(shares, groups))
    say("Start with", *describe_start(weights, recommend_num_groups(groups.num_classes)))

    mass = [teacher_group_mass(teacher, images, groups, max_batches=30) for images in (data.test, data.train)]
    plot_teacher_bias(*mass, groups, args.picture, loss_shares=shares)
    say("Files", f"the picture is {args.picture!r}")


if __name__ == "__main__":
    main()
