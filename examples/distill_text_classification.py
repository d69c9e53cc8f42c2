"""Distils a text classifier on imbalanced text, with LTKD or a baseline; `--loss ce` trains the teacher, too.

Small BERTs from scratch, without a download:

python examples/distill_text_classification.py --data_dir texts --loss ce --student 2x256 --output_dir teacher
python examples/distill_text_classification.py --data_dir texts --teacher teacher --student 1x128 --output_dir student

`--teacher` and `--student` also take Hub ids and folders; `examples/README.md` has the settings of a whole run.
"""

import logging
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, DatasetDict, load_dataset
from sklearn.model_selection import train_test_split
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    HfArgumentParser,
    RobertaTokenizer,
    set_seed,
)

from hf_ltkd import (
    ClassGroups,
    DistillationTrainer,
    DistillationTrainingArguments,
    class_counts,
    create_loss,
    group_accuracy,
)
from hf_ltkd.utils import parse_values


logger = logging.getLogger(__name__)


@dataclass
class DistillationArguments:
    student: str = field(
        default="1x128",
        metadata={
            "help": "The model to train: layers x hidden size of a BERT from scratch (the latter a multiple of 64), "
            "or the Hub id or folder of a pretrained model."
        },
    )
    dropout: float = field(
        default=0.1,
        metadata={"help": "Of a model from scratch. Small students follow a teacher's probabilities better without."},
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of the teacher, whose tokenizer the student takes over. With --loss ce it is "
            "not asked and may be left out."
        },
    )
    loss: str = field(
        default="ltkd",
        metadata={
            "help": "The method: ltkd, kd, dkd, dist, bkd, gkl, wttm, ce (the cross-entropy without a teacher), or a "
            "loss of your own as package.module:Class or file.py:Class."
        },
    )
    loss_args: list[str] = field(
        default_factory=list,
        metadata={"help": "Its arguments as name=value, e.g. alpha=1 beta=1 temperature=2 ce=balanced_softmax."},
    )
    vocab_size: int = field(
        default=4000,
        metadata={"help": "Tokens of the byte-level BPE tokenizer that is trained where no model brings one."},
    )

    def __post_init__(self):
        if self.loss in ("reviewkd", "catkd"):
            raise ValueError(
                f"--loss {self.loss} compares feature maps of images: choose a loss on logits, such as kd."
            )
        if self.loss != "ce" and self.teacher is None:
            raise ValueError(
                f"--loss {self.loss} needs --teacher: the Hub id or the folder of a trained text classifier. Train "
                "one with --loss ce."
            )
        if self.size is not None and self.size[1] % 64:
            raise ValueError(f"--student {self.student}: the hidden size must be a multiple of 64, as in 2x128.")

    @property
    def size(self) -> tuple[int, int] | None:
        """Layers and hidden size of a student from scratch, `None` for a pretrained one."""
        numbers = re.fullmatch(r"(\d+)x(\d+)", self.student)
        return None if numbers is None else (int(numbers[1]), int(numbers[2]))


@dataclass
class TextArguments:
    dataset_name: str | None = field(default=None, metadata={"help": "A dataset on the Hub, e.g. clinc/clinc_oos."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration, if it has several."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Instead: a folder with train*.parquet and, named alike, the eval_split."}
    )
    text_column: str = field(default="text", metadata={"help": "Column of texts."})
    label_column: str = field(default="label", metadata={"help": "Column of class ids or of class names."})
    eval_split: str = field(default="test", metadata={"help": "Split to evaluate on."})
    validation_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Evaluate on this fraction of the training texts, kept out of training, instead of eval_split: to "
            "choose settings. The same texts with every seed."
        },
    )
    max_length: int = field(default=64, metadata={"help": "Longer texts are cut to this many tokens."})

    def __post_init__(self):
        if (self.dataset_name is None) == (self.data_dir is None):
            raise ValueError("Give either --dataset_name (a dataset on the Hub) or --data_dir (a local folder).")
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} is not valid: it is a part of the training texts "
                "between 0 and 1, for instance 0.1."
            )


def load_texts(args: TextArguments) -> tuple[DatasetDict, dict[Any, str]]:
    """Columns `text` and `labels` of the splits `train` and `eval`, and the name of each class."""
    if args.dataset_name is not None:
        splits = load_dataset(args.dataset_name, args.dataset_config_name)
    else:
        folder = Path(args.data_dir)
        files = {split: sorted(map(str, folder.glob(f"{split}*.parquet"))) for split in ("train", args.eval_split)}
        if not files["train"]:
            raise ValueError(f"data_dir {str(folder)!r} is not a folder that holds train*.parquet.")
        splits = load_dataset("parquet", data_files={split: paths for split, paths in files.items() if paths})
    train = splits["train"]
    for column in (args.text_column, args.label_column):
        if column not in train.column_names:
            raise ValueError(
                f"The texts have no column {column!r}: their columns are {train.column_names}. Name the right ones "
                "with --text_column and --label_column."
            )

    # Classes without a training text are left out: nothing can be learned of them.
    feature, values = train.features[args.label_column], sorted(set(train[args.label_column]))
    name_of = feature.int2str if isinstance(feature, ClassLabel) else str
    class_ids = {value: class_id for class_id, value in enumerate(values)}
    if args.validation_fraction is not None:
        rows = train_test_split(
            range(len(train)), test_size=args.validation_fraction, stratify=train[args.label_column], random_state=0
        )
        train, evaluated = (train.select(sorted(part)) for part in rows)
    elif args.eval_split in splits:
        evaluated = splits[args.eval_split]
    else:
        raise ValueError(
            f"There is no split {args.eval_split!r}, only {list(splits)}: name another one with --eval_split, or keep "
            "training texts out with --validation_fraction 0.1."
        )
    unknown = sorted(set(evaluated[args.label_column]) - set(class_ids))
    if unknown:
        raise ValueError(
            f"{len(unknown)} classes of the texts to evaluate on have no training text ({name_of(unknown[0])!r}, for "
            "instance): leave their texts out."
        )

    def rename(batch: dict[str, list]) -> dict[str, list]:
        return {"text": batch[args.text_column], "labels": [class_ids[label] for label in batch[args.label_column]]}

    data = DatasetDict(train=train, eval=evaluated)
    return data.map(rename, batched=True, remove_columns=train.column_names), dict(enumerate(map(name_of, values)))


def main():
    parser = HfArgumentParser((DistillationArguments, TextArguments, DistillationTrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml")):
        args, text_args, training_args = parser.parse_yaml_file(sys.argv[1])
    else:
        args, text_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO if training_args.should_log else logging.WARNING)

    data, class_names = load_texts(text_args)
    groups = ClassGroups.from_counts(class_counts(data["train"], "labels"))
    loss = create_loss(args.loss, groups, **parse_values("--loss_args", args.loss_args))
    texts = f"{len(data['train'])} training texts, {len(data['eval'])} to evaluate on"
    logger.info("%s, %d to %d per class", texts, min(groups.class_counts), max(groups.class_counts))

    # Teacher and student read the same token ids, so they have one tokenizer.
    tokenizers = [AutoTokenizer.from_pretrained(args.teacher)] if args.teacher is not None else []
    tokenizers += [] if args.size else [AutoTokenizer.from_pretrained(args.student)]
    if not tokenizers:
        # Byte-level BPE: the trainer of WordPiece gives other tokens each time, and so on each rank.
        tokenizer = RobertaTokenizer(add_prefix_space=True, model_max_length=text_args.max_length)
        tokenizers = [tokenizer.train_new_from_iterator([data["train"]["text"]], args.vocab_size)]
    tokenizer = tokenizers[0]
    if tokenizers[-1].get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"The tokenizers of {args.teacher} ({len(tokenizer)} tokens) and {args.student} ({len(tokenizers[-1])} "
            "tokens) differ, but teacher and student must read the same token ids: choose a student with the "
            "teacher's vocabulary, or one from scratch such as 1x128."
        )
    max_length = min(text_args.max_length, tokenizer.model_max_length)

    def tokenize(batch: dict[str, list]) -> dict[str, list]:
        # No token_type_ids: all are 0, and not every model takes them.
        return tokenizer(batch["text"], truncation=True, max_length=max_length, return_token_type_ids=False)

    # Not from the cache: the tokenizer that is saved below holds the length that it was last called with.
    data = data.map(tokenize, batched=True, remove_columns="text", load_from_cache_file=False)

    set_seed(training_args.seed)
    labels = {"id2label": class_names, "label2id": {name: class_id for class_id, name in class_names.items()}}
    if args.size:
        layers, hidden_size = args.size
        config = BertConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=layers,
            hidden_size=hidden_size,
            num_attention_heads=hidden_size // 64,
            intermediate_size=4 * hidden_size,
            max_position_embeddings=max_length,
            hidden_dropout_prob=args.dropout,
            attention_probs_dropout_prob=args.dropout,
            pad_token_id=tokenizer.pad_token_id,
            **labels,
        )
        student = BertForSequenceClassification(config)
    else:
        student = AutoModelForSequenceClassification.from_pretrained(
            args.student, ignore_mismatched_sizes=True, num_labels=len(class_names), **labels
        )
    collator = DataCollatorWithPadding(tokenizer)
    if loss.needs_teacher:
        teacher = AutoModelForSequenceClassification.from_pretrained(args.teacher).eval().to(training_args.device)

        def ask_teacher(batch: dict[str, list]) -> dict[str, Any]:
            inputs = collator({name: batch[name] for name in ("input_ids", "attention_mask")}).to(training_args.device)
            with torch.no_grad():
                return {"teacher_logits": teacher(**inputs).logits.float().cpu().numpy()}

        # No text is augmented: the teacher reads each one once, and the trainer finds its answer in the batch, so that
        # it needs no teacher_model.
        data["train"] = data["train"].map(ask_teacher, batched=True, batch_size=training_args.eval_batch_size)

    trainer = DistillationTrainer(
        student,
        args=training_args,
        distillation_loss=loss,
        train_dataset=data["train"],
        eval_dataset=data["eval"],
        data_collator=collator,
        compute_metrics=group_accuracy(groups),
        processing_class=tokenizer,
    )
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    trainer.save_metrics("train", result.metrics)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


if __name__ == "__main__":
    main()
