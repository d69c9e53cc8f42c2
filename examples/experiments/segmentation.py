"""Distillation of pixels on CamVid: one teacher, small students by several methods and seeds, IoU per group.

python examples/experiments/segmentation.py --data camvid --output_dir segmentation

Stop it at any time: the same command goes on, and repeats no finished run. Each is a line of `results.jsonl`; choices
were made with `--evaluate_on validation`. `--diagnose` says instead where the loss of trained students goes.
"""

import argparse
import hashlib
import itertools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from transformers import set_seed

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    create_loss,
    kl_decomposition,
    mean_iou,
)


sys.path.insert(0, str(Path(__file__).parent))
from scenes import SegmentationArguments, load_data, load_images, load_network  # noqa: E402


CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross-entropy": ("ce", {}),
    "balanced softmax": ("ce", {"ce": "balanced_softmax"}),
    "KD": ("kd", {"temperature": 4.0}),
    "CWD": ("cwd", {}),
    "LTKD": ("ltkd", {}),
    "LTKD recipe": ("ltkd", {"alpha": 1.0, "beta": 1.0, "temperature": 1.0, "ce": "balanced_softmax"}),
}
TEACHERS: dict[str, dict[str, Any]] = {
    "first": {"width": 32, "epochs": 30.0},
    "balanced": {
        "from": {"width": 32, "epochs": 30.0},
        "epochs": 10.0,
        "learning_rate": 1e-3,
        "ce": "balanced_softmax",
    },
}
STUDENT = {"width": 8, "epochs": 12.0}
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 16,
    "learning_rate": 2e-3,
    "weight_decay": 0.01,
    "warmup_steps": 50,
    "lr_scheduler_type": "cosine",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CamVid's folder, with train, validation and test.")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--evaluate_on", default="test")
    parser.add_argument("--methods", nargs="*", default=[*METHODS], choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--loss_args", type=json.loads, default={}, help="JSON: arguments that win over a method's.")
    teachers = ", ".join(TEACHERS)
    parser.add_argument(
        "--teachers",
        nargs="*",
        default=[*TEACHERS],
        metavar="TEACHER",
        help=f"Of {teachers}, or JSON: width, epochs, ce, crop, learning_rate, ... Each teaches students of its own.",
    )
    parser.add_argument("--student", type=json.loads, default={}, help="JSON: the same of the students.")
    parser.add_argument("--diagnose", action="store_true", help="Print Eq. 8's terms per group of these students.")
    given = parser.parse_args()
    args = SegmentationArguments(given.data, len(CLASSES), CLASSES, evaluate_on=given.evaluate_on)
    data = load_data(args)
    groups = ClassGroups.from_masks(data["train"], num_classes=len(CLASSES))
    teachers = [TEACHERS[name] if name in TEACHERS else json.loads(name) for name in given.teachers]
    folders = [train_teacher(teacher, groups, args, data, given.output_dir) for teacher in teachers]
    for seed, method in itertools.product(given.seeds, given.methods):
        loss, arguments = METHODS[method]
        run = {"method": method, "loss": loss, "arguments": {**arguments, **given.loss_args}, "seed": seed}
        run["network"] = {**STUDENT, **given.student}
        if loss == "ce":
            train({**run, "teacher": None}, None, None, groups, args, data, given.output_dir)
            continue
        for teacher, folder in zip(teachers, folders, strict=True):
            student = train({**run, "teacher": teacher}, None, folder, groups, args, data, given.output_dir)
            if given.diagnose:
                diagnose(f"{method}, seed {seed}, teacher {teacher}", student, folder, groups, args, data)
    print(tables(given.output_dir / "results.jsonl", args.evaluate_on))


def train_teacher(teacher: dict[str, Any], groups: ClassGroups, args: Any, data: Any, output_dir: Path) -> Path:
    """Trains a teacher, after the one whose weights it starts from. Returns its folder."""
    start = train_teacher(teacher["from"], groups, args, data, output_dir) if "from" in teacher else None
    run = {"method": "teacher", "loss": "ce", "arguments": {"ce": teacher["ce"]} if "ce" in teacher else {}}
    network = {name: value for name, value in teacher.items() if name != "ce"}
    run |= {"network": network, "seed": 0, "teacher": None}
    return train(run, start, None, groups, args, data, output_dir)


def train(
    run: dict[str, Any],
    start: Path | None,
    teacher: Path | None,
    groups: ClassGroups,
    args: Any,
    data: Any,
    output_dir: Path,
) -> Path:
    """
    Trains a network, from the weights in `start` or from scratch, and adds a line of its scores, each where it is not
    there. Returns the network's folder.
    """
    name = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]
    folder = output_dir / "networks" / f"{run['method'].replace(' ', '_')}_{run['seed']}_{name}"
    run = {**run, "evaluated_on": args.evaluate_on}
    path = output_dir / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if any(run.items() <= json.loads(line).items() for line in lines):
        return folder
    settings = {**TRAINING, **run["network"]}
    epochs, crop = settings.pop("epochs"), settings.pop("crop", args.crop)
    source = start or settings["width"]
    for name in ("width", "from"):
        settings.pop(name, None)
    set_seed(run["seed"])
    is_trained = (folder / "config.json").is_file()  # and was evaluated on another split
    network = load_network(str(folder if is_trained else source), len(CLASSES), CLASSES)
    train_images, eval_images = load_images(replace(args, crop=crop), data, run["seed"])
    metric = mean_iou(groups, class_names=CLASSES)
    trainer = DistillationTrainer(
        network,
        load_network(str(teacher), len(CLASSES), CLASSES) if run["teacher"] else None,
        DistillationTrainingArguments(
            str(folder),
            seed=run["seed"],
            num_train_epochs=epochs,
            batch_eval_metrics=True,
            save_strategy="no",
            logging_steps=20,
            disable_tqdm=True,
            report_to=[],
            use_cpu=True,
            **settings,
        ),
        distillation_loss=create_loss(run["loss"], groups, **run["arguments"]),
        train_dataset=train_images,
        eval_dataset=eval_images,
        compute_metrics=metric,
        processing_class=eval_images.pixels.processor,
    )
    start = time.process_time()
    if not is_trained:
        trainer.train()
    seconds = time.process_time() - start
    scores = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    trainer.save_model()
    terms = [entry for entry in trainer.state.log_history if "grad_norm" in entry][-1:]
    line = {**run, "scores": {name: scores[name] for name in ("loss", *metric.names)}, **metric.of_classes()}
    line |= {"last_terms": terms, "parameters": network.num_parameters(), "cpu_seconds": seconds}
    line |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return folder


def diagnose(title: str, student: Path, teacher: Path, groups: ClassGroups, args: Any, data: Any) -> None:
    """
    Which groups the teacher takes pixels for, where Eq. 8's terms are, and what both name right, by the group of a
    pixel's class and whether a neighbour is of another class (edge).
    """
    networks = [load_network(str(folder), len(CLASSES), CLASSES).eval() for folder in (student, teacher)]
    images, count = load_images(args, data, 0)[1], groups.num_groups
    sums = torch.zeros(2 * count, 5 + 2 * count)
    for index in range(0, len(images), 4):
        item = images[index]
        with torch.no_grad():
            logits = [
                network(pixel_values=item["pixel_values"][None]).logits[0].flatten(1).t() for network in networks
            ]
        mask = item["labels"].float()[None]
        is_edge = (F.max_pool2d(mask, 3, 1, 1) != -F.max_pool2d(-mask, 3, 1, 1)).flatten()
        labels = item["labels"].flatten()
        counted = labels != images.ignore_index
        labels, logits = labels[counted], [some[counted] for some in logits]
        parts = kl_decomposition(*logits, groups)
        weighted = (parts.teacher_group_probs * parts.within).sum(1)
        right = [(some.argmax(1) == labels).float() for some in reversed(logits)]
        row = torch.stack([torch.ones_like(weighted), parts.cross, weighted, *right], dim=1)
        row = torch.cat([row, parts.teacher_group_probs, parts.within], dim=1)
        sums.index_add_(0, 2 * groups.group_of_class[labels] + is_edge[counted], row)
    columns = "pixels of | share | cross | weighted within | right: teacher, student | teacher's p of each group"
    print(f"{title}\n| {columns} | within of each group |\n|---|---|---|---|---|---|---|")
    names = [f"{name}, {where}" for name in groups.names for where in ("inside", "edge")]
    for name, part, row in zip(names, sums[:, 0] / sums[:, 0].sum(), sums / sums[:, :1], strict=True):
        numbers = [f"{value:.3f}" for value in row[1:].tolist()]
        cells = *numbers[:2], ", ".join(numbers[2:4]), " ".join(numbers[4 : 4 + count]), " ".join(numbers[4 + count :])
        print(f"| {name} | {part:.3f} | {' | '.join(cells)} |")


def tables(path: Path, split: str) -> str:
    """
    IoU (%) of each network: mean ± sample deviation over the seeds. Then differences over the seeds that both have:
    the mean ± half of its 95 % interval (Student's t), in bold where this leaves out 0.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if line["evaluated_on"] == split:
            scores = [100 * line["scores"][name] for name in ("head_iou", "medium_iou", "tail_iou", "mean_iou")]
            found.setdefault(row_of(line), {})[line["seed"]] = scores
    rows = ["| | head | medium | tail | all | seeds |", "|---|---|---|---|---|---|"]
    for name, runs in found.items():
        columns = [*zip(*runs.values(), strict=True)]
        cells = [f"{mean(c):.1f}" + (f" ± {stdev(c):.1f}" if len(runs) > 1 else "") for c in columns]
        rows.append(f"| {name} | {' | '.join(cells)} | {len(runs)} |")
    others = "cross-entropy", "balanced softmax"
    head = [f"less {other}" for other in (*others, "the same from the first teacher")]
    rows += ["", f"| tail, all | {' | '.join(head)} |", "|---|---|---|---|"]
    for name, runs in found.items():
        if ", " in name:  # from a teacher
            same = f"{name.partition(', ')[0]}, first teacher"
            cells = [difference(runs, found.get(other, {})) if other != name else "–" for other in (*others, same)]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def row_of(line: dict[str, Any]) -> str:
    """What a run is called in the tables."""
    is_teacher = line["method"] == "teacher"
    teacher = {**line["network"], **line["arguments"]} if is_teacher else line["teacher"]
    if teacher is None:
        return line["method"]
    name = next((name for name, known in TEACHERS.items() if known == teacher), json.dumps(teacher))
    return f"{name} teacher" if is_teacher else f"{line['method']}, {name} teacher"


def difference(runs: dict[int, list[float]], others: dict[int, list[float]]) -> str:
    """Of two rows, on the tail and over all classes."""
    cells = []
    for score in (2, 3):
        values = [runs[seed][score] - others[seed][score] for seed in runs.keys() & others.keys()]
        cells.append(f"{mean(values):+.1f}" if values else "–")
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            cells[-1] += f" ± {half:.1f}"
            cells[-1] = f"**{cells[-1]}**" if abs(mean(values)) > half else cells[-1]
    return ", ".join(cells).replace("-", "−")


if __name__ == "__main__":
    main()
