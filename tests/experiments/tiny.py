"""What the tests of the experiments share: a tiny experiment, and how its result lines are read."""

import json
from pathlib import Path
from typing import Any


FOLDER = Path(__file__).parents[2] / "examples" / "experiments"
COLOURS = {
    "red": [1, 0, 0],
    "green": [0, 1, 0],
    "blue": [0, 0, 1],
    "yellow": [1, 1, 0],
    "cyan": [0, 1, 1],
    "pink": [1, 0, 1],
}
TINY: dict[str, Any] = {
    "title": "Six colours",
    "data": {"label_column": "colour", "image_size": 8, "crop_padding": 1},
    "classes": 6,
    "images_per_class": 20,
    "pairs": ["resnet8x2:resnet8"],
    "imbalance_factors": [4],
    "seeds": [0, 1],
    "training": {"preset": "paper", "num_train_epochs": 2, "per_device_train_batch_size": 16},
    "running": {"per_device_eval_batch_size": 48, "use_cpu": True, "save_steps": 0.3},
    "methods": {
        "Student": {"loss": "ce"},
        "LTKD": {"loss": "ltkd", "arguments": {"alpha": 1, "beta": 1}, "num_groups": 2},
        "ReviewKD": {"loss": "reviewkd", "published": "resnet32x4:resnet8x4"},
    },
}


def lines_of(folder):
    path = Path(folder) / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def settled(lines):
    """Without what depends on the moment."""
    moment = ("seconds", "examples_per_second", "resumed_at_step")
    return sorted(({k: v for k, v in line.items() if k not in moment} for line in lines), key=json.dumps)


def made_up(name, values, overrides=None, **where):
    """Result lines with these accuracies in %: method to one (tail, all) a seed, or `None` for one that diverged."""
    from experiment import load_experiment  # its folder is on the path by now
    from plan import plan

    methods = [method for method in values if method != "Teacher"]
    lines = []
    for cell in plan(load_experiment(FOLDER / f"{name}.yaml"), overrides, methods=methods, seeds=[0, 1, 2], **where):
        seeds = values.get(cell.method, [])
        if cell.seed >= len(seeds):
            continue
        line = {"experiment": name, "overrides": overrides or {}, "method": cell.method, "pair": cell.pair}
        line |= {"imbalance_factor": cell.imbalance_factor, "seed": cell.seed, "run": cell.run}
        line |= {"device": "a CPU", "versions": {"torch": "2.0"}}
        if seeds[cell.seed] is None:
            line["error"] = "The loss is not finite"
        else:
            tail, everything = (value / 100 for value in seeds[cell.seed])
            groups = {"head_accuracy": 0.9, "medium_accuracy": 0.5, "tail_accuracy": tail}
            line |= {"metrics": {"accuracy": everything, **groups}, "seconds": 60.0, "examples_per_second": 1000.0}
        lines.append(line)
    return lines
