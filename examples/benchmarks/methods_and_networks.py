"""Trains every method on every pair of networks for a few steps of CIFAR-100-LT, and prints a table in Markdown.

python examples/benchmarks/methods_and_networks.py --output_file examples/benchmarks/methods_and_networks.md

It shows that the combinations work, not how good they are: the teachers have fresh weights and the batch statistics of
one batch. `--data_dir FOLDER` takes the parquet files of uoft-cs/cifar100 from a local folder.
"""

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    HfArgumentParser,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from hf_ltkd import DistillationTrainer, DistillationTrainingArguments, create_loss, create_model
from hf_ltkd.data import cifar100_lt


@dataclass
class Arguments:
    data_dir: str | None = field(default=None, metadata={"help": "Local parquet files instead of the Hub."})
    steps: int = field(default=3, metadata={"help": "Optimizer steps of each combination."})
    batch_size: int = field(default=16, metadata={"help": "Examples per step."})
    output_file: str | None = field(default=None, metadata={"help": "Where the table is written."})


METHODS = ["ce", "kd", "ltkd", "dkd", "dist", "reviewkd", "catkd", "bkd"]
# The pairs of Tab. 1 to 5, and Transformers' own models. `imagenet_resnet50` is the form for 224 pixels.
PAIRS = [
    ("resnet32x4", "resnet8x4"),
    ("resnet32x4", "shufflenet_v1"),
    ("vgg13", "vgg8"),
    ("vgg13", "mobilenet_v2"),
    ("wrn_40_2", "wrn_40_1"),
    ("wrn_40_2", "shufflenet_v1"),
    ("resnet50", "mobilenet_v2"),
    ("resnet34", "resnet18"),
    ("imagenet_resnet50", "mobilenet_v1"),
    ("vit", "convnext"),
]


def network(name: str) -> PreTrainedModel:
    if name == "imagenet_resnet50":
        return create_model("resnet50", 100, image_size=224)
    if name == "vit":
        return ViTForImageClassification(
            ViTConfig(
                hidden_size=96, num_hidden_layers=6, num_attention_heads=3, intermediate_size=192,
                image_size=32, patch_size=4, num_labels=100,
            )
        )  # fmt: skip
    if name == "convnext":
        sizes, depths = [24, 48, 96, 192], [1, 1, 2, 1]
        return ConvNextForImageClassification(
            ConvNextConfig(hidden_sizes=sizes, depths=depths, image_size=32, num_labels=100)
        )
    return create_model(name, 100)


@torch.no_grad()
def observe_batch(model: PreTrainedModel, pixel_values: torch.Tensor) -> None:
    """Gives batch normalisation the statistics of a batch; those it starts with let fresh networks explode."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = None  # the mean over all batches seen, here one
    model.train()(pixel_values)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def short_run(method: str, pair: tuple[str, str], data, args: Arguments, folder: str) -> str:
    """The loss at the first and the last step, or why the combination does not exist."""
    set_seed(0)
    teacher, student = (network(name) for name in pair)
    observe_batch(teacher, torch.stack([example["pixel_values"] for example in data.test.__getitems__(range(64))]))
    before = [parameter.detach().clone() for parameter in student.parameters()]
    try:
        loss = create_loss(method, data.groups, pair=pair, warmup_epochs=0.0)
    except ValueError:  # the authors publish nothing for this pair
        loss = create_loss(method, data.groups, warmup_epochs=0.0)
    training_args = DistillationTrainingArguments(
        folder, preset="paper", max_steps=args.steps, per_device_train_batch_size=args.batch_size,
        learning_rate=0.01, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    try:
        trainer = DistillationTrainer(
            student, teacher, training_args, distillation_loss=loss, train_dataset=data.train
        )
    except ValueError as error:
        return f"no: {str(error).split(':')[0]}"
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trained = [p for p, b in zip(student.parameters(), before, strict=True) if not torch.equal(p.detach().cpu(), b)]
    if len(trained) < 0.9 * len(before):
        raise RuntimeError(f"{method} on {pair} moved only {len(trained)} of {len(before)} parameter tensors.")
    return f"{losses[0]:.3g} → {losses[-1]:.3g}"


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    data = cifar100_lt(100, data_dir=args.data_dir)
    rows = [["teacher → student", *METHODS], ["---"] * (len(METHODS) + 1)]
    progress = tqdm(total=len(PAIRS) * len(METHODS), desc="Combinations", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for pair in PAIRS:
            row = [" → ".join(pair)]
            for method in METHODS:
                row.append(short_run(method, pair, data, args, folder))
                progress.update()
            rows.append(row)
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    print(table)
    if args.output_file:
        Path(args.output_file).write_text(table + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
