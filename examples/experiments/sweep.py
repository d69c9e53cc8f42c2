"""A sweep from the command line: losses × arguments × seeds as an experiment in memory, without a YAML file."""

import argparse
from pathlib import Path
from typing import Any

from experiment import NEUTRAL, Experiment, check_training, make_experiment
from methods import check_keys, default_arguments, find_loss, with_values

from hf_ltkd.utils import parse_values


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a sweep, instead of a YAML file").add_argument
    add("--losses", nargs="+", help="Names of losses; module:Class or file.py:Class for one of your own.")
    add("--grid", nargs="+", default=[], metavar="NAME=VALUES", help="Values to try, e.g. alpha=1,6 temperature=2,4.")
    add("--loss_args", nargs="+", default=[], metavar="NAME=VALUE", help="Arguments that stay the same.")
    add("--search", type=int, help="Instead of the grid: trials of Optuna between the ends of each argument's values.")
    add("--metric", help="What it maximises: accuracy (default), head_accuracy, medium_accuracy or tail_accuracy.")
    add("--teacher", help="A trained classifier, as folder or Hub id, or a network to train; --losses ce needs none.")
    add("--student", default="resnet8", help="A network (default: resnet8), or the folder or Hub id of a trained one.")
    add("--benchmark", help="cifar100_lt, tiny_imagenet_lt or imagenet_lt.")
    add("--data", nargs="+", default=[], metavar="NAME=VALUE", help="Fields of DataArguments, e.g. image_size=16.")
    add("--evaluate_on", help="test (default), or validation: on training images that are held out.")
    add("--eval_fraction", type=float, help="Part of the smallest class that is held out (0.2).")
    add("--teacher_logits", help="float32 (default) or float16: asked once; live: in every step.")
    add("--teacher_views", type=int, help="Views of each image to ask for (one an epoch).")
    add("--name", default="sweep", help="Of the experiment (default: sweep); the report keeps names apart.")


def make_sweep(args: argparse.Namespace) -> Experiment:
    """
    The experiment of these flags: each loss at each point of the grid, of the arguments that it has.

    Raises:
        `ValueError`: if a loss or an argument is not there, or a search is not one of one loss and one seed.
    """
    given, grid = parse_values("--loss_args", args.loss_args), parse_grid(args.grid)
    known = {loss: default_arguments(find_loss(loss, Path.cwd())) for loss in args.losses}
    check_keys(
        f"--grid and --loss_args of {', '.join(known)}", {**given, **grid}, {k for v in known.values() for k in v}
    )
    if args.search is not None and (args.search < 1 or len(known) > 1 or not grid or len(args.seeds or "012") > 1):
        raise ValueError(
            "--search takes the number of trials, 1 or more, one loss, one seed and the ends of --grid, e.g. "
            "--search 20 --losses ltkd --seeds 0 --grid alpha=0.5,16 beta=0.5,16."
        )
    methods: dict[str, dict[str, Any]] = {}
    for loss, arguments in known.items():
        same, tried = ({k: v for k, v in some.items() if k in arguments} for some in (given, grid))
        variants = {"grid": tried}
        if args.search is not None:
            variants = {"search": {"trials": args.search, "space": tried, "metric": args.metric or "accuracy"}}
        methods[with_values(loss, same)] = {"loss": loss, "arguments": same, **variants}
    data = {"benchmark": args.benchmark, "evaluate_on": args.evaluate_on, "eval_fraction": args.eval_fraction}
    training = check_training("--training", parse_values("--training", args.training))
    values = {
        "title": f"{args.name} of {args.student}",
        "pairs": [":".join(filter(None, [args.teacher, args.student]))],
        "methods": methods,
        "data": {k: v for k, v in data.items() if v is not None} | parse_values("--data", args.data),
        "training": {k: v for k, v in training.items() if k not in NEUTRAL},
        "running": {k: v for k, v in training.items() if k in NEUTRAL},
        "imbalance_factors": args.imbalance_factors,
        "seeds": args.seeds,
        "teacher_logits": args.teacher_logits,
        "teacher_views": args.teacher_views,
    }
    return make_experiment({k: v for k, v in values.items() if v is not None}, args.name, Path.cwd())


def parse_grid(items: list[str]) -> dict[str, list[Any]]:
    """`["alpha=1,6", "beta=2"]` as `{"alpha": [1, 6], "beta": [2]}`."""
    return {
        name: [parse_values("--grid", [f"{name}={value}"])[name] for value in str(values).split(",")]
        for name, values in parse_values("--grid", items).items()
    }
