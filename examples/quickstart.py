"""A student that learns the tail from a teacher that does not favour it, in under three minutes on two CPU cores.

Scikit-learn's handwritten digits (8 × 8 pixels, real images, nothing to download) are made long-tailed. A teacher is
trained on them by cross-entropy, then small students by cross-entropy, by knowledge distillation (KD) and by LTKD, all
from the same initial weights, for three seeds. Prints a table, writes results.json, two pictures and a student folder.

python examples/quickstart.py --output_dir quickstart_output
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    ImageDataset,
    KDLoss,
    LongTailSplit,
    LTKDLoss,
    create_model,
    group_accuracy,
)
from hf_ltkd.analysis.bias import teacher_group_mass
from hf_ltkd.analysis.plots import plot_group_accuracy, plot_teacher_bias, sample_deviation
from hf_ltkd.hub.names import BIAS_PICTURE, GROUP_PICTURE
from hf_ltkd.utils import write_json


IMBALANCE_FACTOR = 20
SEEDS = (0, 1, 2)
# Chosen on the validation images (--evaluate_on validation), before the test images were looked at.
TEACHER = {"name": "resnet8x2", "epochs": 80}
STUDENT = {"name": "resnet8", "epochs": 40}
ALPHA, BETA, TEMPERATURE = 1.0, 1.0, 4.0


class ProgressBar(TrainerCallback):
    """Moves one bar over all trainings, an optimizer step at a time."""

    def __init__(self, bar: tqdm):
        self.bar = bar

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()


def load_splits(seed: int, evaluate_on: str) -> tuple[ImageDataset, ImageDataset, LongTailSplit]:
    """A long-tailed training set, and 50 test (or 20 validation) images of each digit that are never trained on."""
    digits = load_digits()
    rows = np.arange(len(digits.target))
    rest, test = train_test_split(rows, test_size=500, stratify=digits.target, random_state=0)
    rest, validation = train_test_split(rest, test_size=200, stratify=digits.target[rest], random_state=0)
    full = Dataset.from_dict(
        {"row": rest, "label": digits.target[rest]},
        features=Features({"row": Value("int64"), "label": ClassLabel(num_classes=10)}),
    )
    split = LongTailSplit.of(full, IMBALANCE_FACTOR, seed=seed)
    train = np.asarray(split.apply(full)["row"])
    held_out = test if evaluate_on == "test" else validation

    pixels = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    scaled = pixels[train].float() / 255
    normalisation = {"mean": [scaled.mean().item()], "std": [scaled.std().item()]}
    return (
        ImageDataset(
            pixels[train],
            digits.target[train],
            **normalisation,
            augment=True,
            padding=1,
            horizontal_flip=False,  # a mirrored 2 is no digit
            seed=seed,
        ),
        ImageDataset(pixels[held_out], digits.target[held_out], **normalisation),
        split,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", default="quickstart_output", help="where results, pictures and student go")
    parser.add_argument("--evaluate_on", choices=("test", "validation"), default="test")
    options = parser.parse_args()
    output_dir = Path(options.output_dir)
    logging.set_verbosity_error()
    torch.set_num_threads(1)  # networks this small gain nothing from more, and on a busy machine they lose a lot

    results: dict[str, dict[str, list[float]]] = {name: {} for name in ("teacher", "student", "kd", "ltkd")}
    train, test, split = load_splits(SEEDS[0], options.evaluate_on)
    groups = ClassGroups.from_counts(split.class_counts)
    print(f"Training images per digit, 0 to 9: {split.class_counts} (imbalance factor {IMBALANCE_FACTOR})")
    steps = len(SEEDS) * -(-len(train) // 64) * (TEACHER["epochs"] + 3 * STUDENT["epochs"])
    bar = tqdm(total=steps, unit="step")

    def fit(name, model, teacher, loss, epochs, seed):
        bar.set_description(f"seed {seed}: {name}")
        trainer = DistillationTrainer(
            model,
            teacher,
            DistillationTrainingArguments(
                output_dir=output_dir / "student",  # nothing is written there before save_model
                preset="paper",
                num_train_epochs=epochs,
                logging_strategy="no",
                save_strategy="no",
                per_device_eval_batch_size=500,
                dataloader_pin_memory=torch.cuda.is_available(),
                disable_tqdm=True,
                report_to="none",
                seed=seed,
            ),
            distillation_loss=loss,
            train_dataset=train,
            eval_dataset=test,
            compute_metrics=group_accuracy(groups),
            callbacks=[ProgressBar(bar)],
        )
        trainer.remove_callback(PrinterCallback)  # one bar for all is enough
        trainer.train()
        metrics = trainer.evaluate()
        for metric in ("accuracy", *(f"{group}_accuracy" for group in groups.names)):
            results[name].setdefault(metric, []).append(metrics[f"eval_{metric}"])
        return trainer

    for seed in SEEDS:
        train, test, split = load_splits(seed, options.evaluate_on)
        set_seed(seed)
        teacher = create_model(TEACHER["name"], 10, image_size=8, num_channels=1)
        teacher = fit("teacher", teacher, None, CrossEntropyLoss(), TEACHER["epochs"], seed).model
        if seed == SEEDS[0]:
            plot_teacher_bias(
                teacher_group_mass(teacher, test, groups),
                teacher_group_mass(teacher, train, groups),
                groups,
                output_dir / BIAS_PICTURE,
            )
        set_seed(seed)
        initial = create_model(STUDENT["name"], 10, image_size=8, num_channels=1).state_dict()
        losses = {
            "student": CrossEntropyLoss(),
            "kd": KDLoss(temperature=TEMPERATURE),
            "ltkd": LTKDLoss(groups, alpha=ALPHA, beta=BETA, temperature=TEMPERATURE),
        }
        for name, loss in losses.items():
            student = create_model(STUDENT["name"], 10, image_size=8, num_channels=1)
            student.load_state_dict(initial)
            trainer = fit(name, student, teacher if loss.needs_teacher else None, loss, STUDENT["epochs"], seed)
    bar.close()
    trainer.save_model(output_dir / "student")  # the last one: LTKD
    split.save_pretrained(output_dir / "student")

    means = {name: {metric: float(np.mean(v)) for metric, v in values.items()} for name, values in results.items()}
    write_json(output_dir / "results.json", means)
    plot_group_accuracy(results, groups, output_dir / GROUP_PICTURE)
    print(f"\nAccuracy (%) on {len(test)} {options.evaluate_on} images, mean ± deviation over {len(SEEDS)} seeds")
    print("".join(f"{column:>14}" for column in ("", *groups.names, "all")))
    for name, values in results.items():
        columns = [values[f"{group}_accuracy"] for group in groups.names] + [values["accuracy"]]
        cells = [f"{100 * np.mean(v):.1f} ± {100 * sample_deviation(v):.1f}" for v in columns]
        print("".join(f"{cell:>14}" for cell in (name, *cells)))
    print(f"\nresults.json, teacher_bias.png, group_accuracy.png and student/ are in {output_dir}.")


if __name__ == "__main__":
    main()
