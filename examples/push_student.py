"""Sends a student that was trained earlier to the Hub, with its card; running it again sends only what is missing.

python examples/push_student.py student --repo_id me/resnet8x4-cifar100-lt --dataset uoft-cs/cifar100 \
    --teacher_results teacher/eval_results.json

The folder is what `trainer.save_model()` wrote. The token is that of `hf auth login` or HF_TOKEN.
"""

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from hf_ltkd.hub.card import write_model_card
from hf_ltkd.hub.describe import describe_model
from hf_ltkd.hub.names import RUN_NAME
from hf_ltkd.hub.push import add_code, push_folder
from hf_ltkd.teacher.live import load_teacher
from hf_ltkd.utils import write_json


@dataclass
class PushArguments:
    repo_id: str = field(metadata={"help": "The repository as owner/name; it is made if it does not exist."})
    dataset: str | None = field(
        default=None, metadata={"help": "The full dataset's name, best its Hub id; the card's metrics need it."}
    )
    dataset_split: str = field(default="test", metadata={"help": "The split that was evaluated on."})
    teacher_name: str | None = field(default=None, metadata={"help": "The teacher's Hub id, for the card."})
    teacher_results: str | None = field(
        default=None, metadata={"help": "The teacher's eval_results.json, to stand beside the student's."}
    )
    plain_student_results: str | None = field(
        default=None, metadata={"help": "That of the same student trained without a teacher."}
    )
    license: str | None = field(default=None, metadata={"help": "The weights' license, e.g. apache-2.0."})
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    revision: str | None = field(default=None, metadata={"help": "The branch (main)."})
    model_code: bool = field(
        default=True, metadata={"help": "Send the code of a network of hf_ltkd too, so that it loads without hf_ltkd."}
    )
    keep_card: bool = field(default=False, metadata={"help": "Send the README.md that the folder has already."})
    timeout: float = field(default=60.0, metadata={"help": "Seconds that the Hub may stay silent."})

    def __post_init__(self):
        if "/" not in self.repo_id:
            raise ValueError(
                f"--repo_id {self.repo_id} must have the form owner/name, for instance me/{self.repo_id}."
            )


def read(path: str | None) -> dict[str, Any] | None:
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def main():
    parser = HfArgumentParser(PushArguments, description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="the student's folder")
    args, options = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO)
    folder = Path(options.folder)
    model = load_teacher(str(folder))  # loads any classifier
    add_code(folder, model, args.model_code)
    if not (folder / RUN_NAME).is_file():
        write_json(folder / RUN_NAME, {"student": describe_model(model)})
    if not (args.keep_card and (folder / "README.md").is_file()):
        write_model_card(
            folder,
            repo_id=args.repo_id,
            dataset=args.dataset,
            dataset_split=args.dataset_split,
            teacher_name=args.teacher_name,
            teacher_metrics=read(args.teacher_results),
            plain_student_metrics=read(args.plain_student_results),
            license=args.license,
        )
    try:
        commit = push_folder(folder, args.repo_id, private=args.private, revision=args.revision, timeout=args.timeout)
    except OSError as error:
        sys.exit(str(error))
    print(commit.commit_url)


if __name__ == "__main__":
    main()
