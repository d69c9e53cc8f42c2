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
from typing import Any

import torch
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


sys.path.insert(0, str(Path(__file__).parents[1]))
from distill_semantic_segmentation import SegmentationArguments, load_data, load_images, load_network  # noqa: E402


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
    folders = []
    for teacher in teachers:
        network = {name: value for name, value in teacher.items() if name != "ce"}
        run = {"method": "teacher", "loss": "ce", "arguments": {"ce": teacher["ce"]} if "ce" in teacher else {}}
        run |= {"network": network, "seed": 0, "teacher": None}
        folders.append(train(run, None, groups, args, data, given.output_dir))
    for seed, method in itertools.product(given.seeds, given.methods):
        loss, arguments = METHODS[method]
        run = {"method": method, "loss": loss, "arguments": {**arguments, **given.loss_args}, "seed": seed}
        run["network"] = {**STUDENT, **given.student}
        if loss == "ce":
            train({**run, "teacher": None}, None, groups, args, data, given.output_dir)
            continue
        for teacher, folder in zip(teachers, folders, strict=True):
            student = train({**run, "teacher": teacher}, folder, groups, args, data, given.output_dir)
            if given.diagnose:
                diagnose(f"{method}, seed {seed}, teacher {teacher}", student, folder, groups, args, data)
    print(table(given.output_dir / "results.jsonl", args.evaluate_on))


def train(
    run: dict[str, Any], teacher: Path | None, groups: ClassGroups, args: Any, data: Any, output_dir: Path
) -> Path:
    """Trains a network and adds a line of its scores, each where it is not there. Returns the network's folder."""
    name = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]
    folder = output_dir / "networks" / f"{run['method'].replace(' ', '_')}_{run['seed']}_{name}"
    run = {**run, "evaluated_on": args.evaluate_on}
    path = output_dir / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if any(run.items() <= json.loads(line).items() for line in lines):
        return folder
    settings = {**TRAINING, **run["network"]}
    width, epochs, crop = settings.pop("width"), settings.pop("epochs"), settings.pop("crop", args.crop)
    set_seed(run["seed"])
    is_trained = (folder / "config.json").is_file()  # and was evaluated on another split
    network = load_network(str(folder) if is_trained else str(width), len(CLASSES), CLASSES)
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
    """Which groups the teacher takes pixels for, and where Eq. 8's terms are, by the group of a pixel's class."""
    networks = [load_network(str(folder), len(CLASSES), CLASSES).eval() for folder in (student, teacher)]
    images, sums = load_images(args, data, 0)[1], torch.zeros(groups.num_groups, 3 + 2 * groups.num_groups)
    for index in range(0, len(images), 4):
        item = images[index]
        with torch.no_grad():
            logits = [
                network(pixel_values=item["pixel_values"][None]).logits[0].flatten(1).t() for network in networks
            ]
        labels = item["labels"].flatten()
        counted = labels != images.ignore_index
        parts = kl_decomposition(*(some[counted] for some in logits), groups)
        weighted = (parts.teacher_group_probs * parts.within).sum(1)
        row = torch.stack([torch.ones_like(weighted), parts.cross, weighted], dim=1)
        row = torch.cat([row, parts.teacher_group_probs, parts.within], dim=1)
        sums.index_add_(0, groups.group_of_class[labels[counted]], row)
    share = sums[:, 0] / sums[:, 0].sum()
    print(
        f"{title}\n| pixels of | share | cross | weighted within | teacher's p of each group | within of each group |"
    )
    for name, part, row in zip(groups.names, share, sums / sums[:, :1], strict=True):
        numbers = [f"{value:.3f}" for value in row[1:].tolist()]
        cells = *numbers[:2], " ".join(numbers[2 : 2 + groups.num_groups]), " ".join(numbers[2 + groups.num_groups :])
        print(f"| {name} | {part:.3f} | {' | '.join(cells)} |")


def table(path: Path, split: str) -> str:
    """
    Mean and sample deviation over the seeds; a star where the paired 95 % interval (t) of the difference to
    cross-entropy leaves out 0.
    """
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if line["evaluated_on"] == split:
            found.setdefault(line["method"], {})[line["seed"]] = line["scores"]
    rows = ["| method | head | medium | tail | all | runs |", "|---|---|---|---|---|---|"]
    plain = found.get("cross-entropy", {})
    for method, runs in found.items():
        cells = []
        for name in ("head_iou", "medium_iou", "tail_iou", "mean_iou"):
            values = torch.tensor([100 * scores[name] for scores in runs.values()], dtype=torch.float64)
            cell = f"{values.mean():.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")
            pairs = [100 * (runs[seed][name] - plain[seed][name]) for seed in runs if seed in plain]
            if method not in ("cross-entropy", "teacher") and len(pairs) > 1:
                difference = torch.tensor(pairs, dtype=torch.float64)
                half = stats.t.ppf(0.975, len(pairs) - 1) * difference.std() / len(pairs) ** 0.5
                cell += " *" if abs(difference.mean()) > half else ""
            cells.append(cell)
        rows.append(f"| {method} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
