"""The name of every file that is written beside a student."""

from ..data.holdout import HOLDOUT_NAME
from ..data.long_tail import SPLIT_NAME
from ..groups import CLASS_GROUPS_NAME


CARD_NAME = "README.md"
RUN_NAME = "distillation.json"
ARGUMENTS_NAME = "training_arguments.json"
EVALUATION_NAME = "eval_results.json"  # of Trainer.save_metrics("eval", ...)
EMISSIONS_NAME = "emissions.csv"  # of codecarbon
COMPARISON_NAME = "comparison.json"
BIAS_PICTURE = "teacher_bias.png"
CONFUSION_PICTURE = "confusion.png"
REPORT_NAME = "class_report.json"
TUNING_NAME, TUNING_PICTURE = "tuning.json", "tuning.png"
GROUP_PICTURE, CLASS_PICTURE, GROUP_IOU_PICTURE, CLASS_IOU_PICTURE = PICTURES = (
    *("group_accuracy.png", "class_accuracy.png"),
    *("group_iou.png", "class_iou.png"),  # where each pixel has a class
)
EXAMPLES_PICTURE = "examples.png"
# The second file holds the weights of a network above 1.5 GB; the measurements are written last.
ONNX_FILES = ("onnx/model.onnx", "onnx/model.onnx.data", "onnx/measurements.json")
# Nothing else of a folder goes to the Hub, whatever lies in it; beside these the code files that config.json names,
# and ONNX_FILES if they were made from these weights.
PUBLISHED = (
    *("config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors"),
    *("model.safetensors.index.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json"),
    *("tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"),
    *(CLASS_GROUPS_NAME, SPLIT_NAME, HOLDOUT_NAME, ARGUMENTS_NAME, RUN_NAME, EVALUATION_NAME, CARD_NAME),
    *(BIAS_PICTURE, EXAMPLES_PICTURE, REPORT_NAME, CONFUSION_PICTURE, TUNING_NAME, TUNING_PICTURE, *PICTURES),
)
