"""Distillation of pixels on CamVid: one teacher, small students by several methods and seeds, IoU per group.

python examples/experiments/segmentation.py --data camvid --output_dir segmentation

Stop it at any time: the same command goes on, and repeats no finished run. Each is a line of `results.jsonl`; choices
were made with `--evaluate_on validation`.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from transformers import set_seed

from hf_ltkd import ClassGroups, DistillationTrainer, DistillationTrainingArguments, create_loss, mean_iou


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
TEACHER = {"width": 32, "epochs": 30.0}
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
    parser.add_argument("--teacher", type=json.loads, default={}, help="JSON: width, epochs, learning_rate, ...")
    parser.add_argument("--student", type=json.loads, default={}, help="The same of the students.")
    given = parser.parse_args()
    args = SegmentationArguments(given.data, len(CLASSES), CLASSES, evaluate_on=given.evaluate_on)
    data = load_data(args)
    groups = ClassGroups.from_masks(data["train"], num_classes=len(CLASSES))
    teacher_settings = {**TEACHER, **given.teacher}
    folder = given.output_dir / "teacher"

    def run(method: str, loss: str, arguments: dict, network: dict, seed: int, teacher: Any, save_to: Path) -> None:
        what = {"method": method, "loss": loss, "arguments": arguments, "network": network, "seed": seed}
        what |= {"evaluated_on": args.evaluate_on, "teacher": teacher and teacher_settings}
        path = given.output_dir / "results.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if any(what.items() <= json.loads(line).items() for line in lines):
            return
        settings = {**TRAINING, **network}
        width, epochs = settings.pop("width"), settings.pop("epochs")
        set_seed(seed)
        student = load_network(str(width), len(CLASSES), CLASSES)
        if (save_to / "config.json").is_file():  # trained, and evaluated on another split
            student, epochs = load_network(str(save_to), len(CLASSES), CLASSES), 0
        train_images, eval_images = load_images(args, data, seed)
        metric = mean_iou(groups, class_names=CLASSES)
        trainer = DistillationTrainer(
            student,
            load_network(str(folder), len(CLASSES), CLASSES) if teacher else None,
            DistillationTrainingArguments(
                str(save_to),
                seed=seed,
                num_train_epochs=epochs or 1,
                batch_eval_metrics=True,
                save_strategy="no",
                logging_steps=20,
                disable_tqdm=True,
                report_to=[],
                use_cpu=True,
                **settings,
            ),
            distillation_loss=create_loss(loss, groups, **arguments),
            train_dataset=train_images,
            eval_dataset=eval_images,
            compute_metrics=metric,
            processing_class=eval_images.pixels.processor,
        )
        start = time.process_time()
        if epochs:
            trainer.train()
        seconds = time.process_time() - start
        scores = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
        trainer.save_model()
        kept = {name: value for name, value in scores.items() if name in {"loss", *metric.names}}
        per_class = metric.scores()["class_iou"]
        terms = {n: v for n, v in trainer.state.log_history[-3].items() if n not in ("step", "epoch", "grad_norm")}
        parameters = sum(p.numel() for p in student.parameters())
        line = {**what, "scores": kept, "class_iou": per_class, "terms": terms, "parameters": parameters}
        line |= {"cpu_seconds": seconds, "threads": torch.get_num_threads(), "torch": torch.__version__}
        given.output_dir.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{method}, seed {seed}: " + ", ".join(f"{n} {v:.3f}" for n, v in kept.items()), flush=True)

    run("teacher", "ce", {}, teacher_settings, 0, None, folder)
    for seed in given.seeds:
        for method in given.methods:
            loss, arguments = METHODS[method]
            save_to = given.output_dir / "students" / f"{method.replace(' ', '_')}_{seed}"
            run(
                method,
                loss,
                {**arguments, **given.loss_args},
                {**STUDENT, **given.student},
                seed,
                loss != "ce",
                save_to,
            )
    print(table(given.output_dir / "results.jsonl", args.evaluate_on))


def table(path: Path, split: str) -> str:
    """Mean and sample deviation over the seeds, and where a paired 95 % interval to cross-entropy leaves out 0, a star."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, dict[int, dict[str, float]]] = {}
    for line in lines:
        if line["evaluated_on"] == split:
            found.setdefault(line["method"], {})[line["seed"]] = line["scores"]
    names = ["head_iou", "medium_iou", "tail_iou", "mean_iou"]
    rows = ["| method | head | medium | tail | all | runs |", "|---|---|---|---|---|---|"]
    for method, runs in found.items():
        cells = []
        for name in names:
            values = torch.tensor([100 * scores[name] for scores in runs.values()], dtype=torch.float64)
            cell = f"{values.mean():.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")
            plain = found.get("cross-entropy", {})
            pairs = [100 * (runs[seed][name] - plain[seed][name]) for seed in runs if seed in plain]
            if method != "cross-entropy" and len(pairs) > 1:
                difference = torch.tensor(pairs, dtype=torch.float64)
                half = stats.t.ppf(0.975, len(pairs) - 1) * difference.std() / len(pairs) ** 0.5
                cell += " *" if abs(difference.mean()) > half else ""
            cells.append(cell)
        rows.append(f"| {method} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
