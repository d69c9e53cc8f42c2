"""Distils a small GPT-2 on one text, tokenizer, teacher and students from scratch, and compares KD with LTKD.

The classes are the tokens of the vocabulary, which are long-tailed in any text: head, medium and tail are the
first, second and last third of the tokens that were seen, and tokens that were not seen are tail. Every student starts
from the same weights and sees the same batches as the others of its seed; the teacher is the same for all.

python examples/distill_language_model.py --text kjv.txt --output_dir language_model
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset, load_dataset
from scipy.stats import sem, t
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    HfArgumentParser,
    PreTrainedTokenizerFast,
    default_data_collator,
    set_seed,
)

from hf_ltkd import (
    ClassGroups,
    CrossEntropyLoss,
    DistillationLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    KDLoss,
    LTKDLoss,
    group_perplexity,
    token_counts,
)


logger = logging.getLogger(__name__)
GROUPS = ("head", "medium", "tail")


@dataclass
class Arguments:
    text: str = field(metadata={"help": "A text file, or a parquet file with a column of texts."})
    output_dir: str = field(metadata={"help": "Where the teacher and results.jsonl go; runs that are there are kept."})
    text_column: str = field(default="text", metadata={"help": "Of a parquet file."})
    vocab_size: int = field(default=4000, metadata={"help": "Tokens of the byte-level BPE tokenizer."})
    length: int = field(default=64, metadata={"help": "Tokens of an example."})
    batch_size: int = field(default=16, metadata={"help": "Examples of a step."})
    teacher: str = field(default="2x128", metadata={"help": "Layers x width; a head is 32 wide."})
    teacher_steps: int = field(default=600, metadata={"help": "Steps of the teacher."})
    student: str = field(default="1x64", metadata={"help": "Layers x width."})
    steps: int = field(default=300, metadata={"help": "Steps of each student."})
    learning_rate: float = field(default=3e-3, metadata={"help": "The largest one of teacher and students."})
    methods: list[str] = field(
        default_factory=lambda: ["plain", "kd", "ltkd", "ltkd_paper"],
        metadata={"help": "plain; kd, ltkd and ltkd_paper; with settings of your own kd:temperature=2."},
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Of the students."})
    evaluate_on: Literal["validation", "test"] = field(
        default="test", metadata={"help": "validation is for choosing settings."}
    )


def read_text(args: Arguments) -> dict[str, list[str]]:
    """Stretches of 100 lines: of ten one is for validation and one for the test."""
    path = Path(args.text)
    if not path.is_file():
        raise SystemExit(
            f"--text {args.text!r} is no file: give a text file, or a parquet file with a column of texts."
        )
    if path.suffix == ".parquet":
        lines = load_dataset("parquet", data_files=args.text, split="train")[args.text_column]
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for start in range(0, len(lines), 100):
        part = {8: "validation", 9: "test"}.get(start // 100 % 10, "train")
        parts[part].append("\n".join(lines[start : start + 100]))
    return parts


def tokenise(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> Dataset:
    """Examples of `length` tokens; the labels of a causal model are its input."""
    ids = np.concatenate(tokenizer(texts)["input_ids"])
    rows = ids[: len(ids) // length * length].reshape(-1, length).tolist()
    return Dataset.from_dict({"input_ids": rows, "labels": rows})


def gpt2(size: str, vocab_size: int, length: int, seed: int) -> GPT2LMHeadModel:
    layers, width = map(int, size.split("x"))
    set_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size, n_positions=length, n_embd=width, n_layer=layers, n_head=width // 32, resid_pdrop=0,
            embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def loss_of(method: str, groups: ClassGroups) -> DistillationLoss:
    """Temperature 1 suits thousands of classes; LTKD's defaults are the paper's for a hundred."""
    name, _, values = method.partition(":")
    settings = {key: float(value) for key, _, value in (item.partition("=") for item in values.split(",") if item)}
    if name == "plain":
        return CrossEntropyLoss()
    if name == "kd":
        return KDLoss(**{"temperature": 1.0, **settings})
    if name == "ltkd":
        return LTKDLoss(groups, **{"alpha": 1.0, "beta": 1.0, "temperature": 1.0, **settings})
    return LTKDLoss(groups, **settings)


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO)
    folder = Path(args.output_dir)
    texts = read_text(args)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts["train"], vocab_size=args.vocab_size, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer)
    data = {part: tokenise(tokenizer, some, args.length) for part, some in texts.items()}
    counts = token_counts(data["train"], len(tokenizer))
    groups = ClassGroups.from_token_counts(counts)
    share = [counts[groups.group_of_class == group].sum() / counts.sum() for group in range(3)]
    logger.info("%d training tokens, of head, medium and tail: %s", counts.sum(), np.round(share, 3).tolist())

    def train(model: Any, teacher: Any, loss: DistillationLoss, steps: int, seed: int) -> DistillationTrainer:
        trainer = DistillationTrainer(
            model,
            teacher,
            DistillationTrainingArguments(
                output_dir=str(folder / "teacher"),
                max_steps=max(1, steps),
                per_device_train_batch_size=args.batch_size,
                per_device_eval_batch_size=args.batch_size,
                learning_rate=args.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.05,
                logging_strategy="no",
                save_strategy="no",
                dataloader_pin_memory=torch.cuda.is_available(),
                disable_tqdm=True,
                report_to="none",
                seed=seed,
            ),
            distillation_loss=loss,
            train_dataset=data["train"],
            eval_dataset=data[args.evaluate_on],
            data_collator=default_data_collator,
            compute_metrics=group_perplexity(groups),
            processing_class=tokenizer,
        )
        if steps:
            trainer.train()
        return trainer

    results_file = folder / "results.jsonl"
    settings = {**asdict(args), "text": Path(args.text).name}
    for name in ("output_dir", "methods", "seeds"):
        del settings[name]

    def write(method: str, seed: int, trainer: DistillationTrainer) -> None:
        metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
        kept = {name: metrics[name] for name in metrics if name.split("_")[-1] in ("loss", "perplexity")}
        line = {"method": method, "seed": seed, "metrics": kept, "settings": settings}
        with results_file.open("a") as file:
            file.write(json.dumps(line) + "\n")

    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in results_file.read_text().splitlines()] if results_file.exists() else []
    done = {(line["method"], line["seed"]) for line in lines if line["settings"] == settings}
    if (folder / "teacher" / "model.safetensors").exists():
        teacher = GPT2LMHeadModel.from_pretrained(folder / "teacher")
    else:
        teacher = gpt2(args.teacher, len(tokenizer), args.length, seed=0)
        train(teacher, None, CrossEntropyLoss(), args.teacher_steps, seed=0).save_model()
    if ("teacher", 0) not in done:
        write("teacher", 0, train(teacher, None, CrossEntropyLoss(), 0, seed=0))
    for seed in args.seeds:
        for method in args.methods:
            if (method, seed) not in done:
                loss = loss_of(method, groups)
                student = gpt2(args.student, len(tokenizer), args.length, seed)
                write(method, seed, train(student, teacher if loss.needs_teacher else None, loss, args.steps, seed))
    lines = [json.loads(line) for line in results_file.read_text().splitlines()]
    print(table([line for line in lines if line["settings"] == settings]))


def table(lines: list[dict[str, Any]]) -> str:
    """
    Perplexities, mean ± sample deviation over the seeds, and how much lower than the plain student's the mean loss is:
    exp of it is a ratio of perplexities, with the paired 95 % interval of Student's t.
    """
    methods = list(dict.fromkeys(line["method"] for line in lines))
    rows = ["| | n | all | " + " | ".join(GROUPS) + " |", "|" + "---|" * (3 + len(GROUPS))]
    names = ("", *(f"{group}_" for group in GROUPS))
    losses = {m: {line["seed"]: line["metrics"] for line in lines if line["method"] == m} for m in methods}
    for method, of_seed in losses.items():
        cells = []
        for name in names:
            values = np.array([metrics[f"{name}perplexity"] for metrics in of_seed.values()])
            cells.append(f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""))
        rows.append(f"| {method} | {len(of_seed)} | " + " | ".join(cells) + " |")
    rows += ["", "Ratio of perplexities to the plain student's:", "", rows[0], rows[1]]
    for method, of_seed in losses.items():
        seeds = [seed for seed in of_seed if method not in ("plain", "teacher") and seed in losses.get("plain", {})]
        if len(seeds) < 2:
            continue
        cells = []
        for name in names:
            pairs = [(of_seed[seed][f"{name}loss"], losses["plain"][seed][f"{name}loss"]) for seed in seeds]
            differences = np.array([ours - plain for ours, plain in pairs])
            margin = t.ppf(0.975, len(seeds) - 1) * sem(differences)
            ratio = np.exp(differences.mean() + np.array([0, -margin, margin]))
            cells.append("{:.3f} ({:.3f} to {:.3f})".format(*ratio))
        rows.append(f"| {method} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
