"""Arguments of data: presets of the benchmarks, and what does not go together."""

import pytest
from transformers import HfArgumentParser

from hf_ltkd.data import DataArguments


@pytest.mark.parametrize(
    "benchmark, dataset_name, label_column, image_size, crop, crop_padding",
    [
        ("cifar100_lt", "uoft-cs/cifar100", "fine_label", 32, "padded", 4),
        ("tiny_imagenet_lt", "zh-plus/tiny-imagenet", "label", 64, "padded", 8),
        ("imagenet_lt", "ILSVRC/imagenet-1k", "label", 224, "resized", 4),
    ],
)
def test_preset_on_the_command_line(benchmark, dataset_name, label_column, image_size, crop, crop_padding):
    parser = HfArgumentParser(DataArguments)
    (args,) = parser.parse_args_into_dataclasses(["--benchmark", benchmark, "--imbalance_factor", "10"])
    assert (args.dataset_name, args.label_column, args.data_dir) == (dataset_name, label_column, None)
    assert (args.image_size, args.crop, args.crop_padding) == (image_size, crop, crop_padding)
    assert args.imbalance_factor == 10 and args.group_rule == "thirds" and args.horizontal_flip


def test_own_values_win():
    own = {"data_dir": "x", "label_column": "y", "image_size": 16, "crop": "padded", "crop_padding": 2}
    args = DataArguments(benchmark="imagenet_lt", imbalance_factor=1, group_rule="thresholds", **own)
    assert args.dataset_name is None and args.group_rule == "thresholds"
    assert {name: getattr(args, name) for name in own} == own


def test_defaults_without_a_benchmark():
    (args,) = HfArgumentParser(DataArguments).parse_args_into_dataclasses(["--data_dir", "x"])
    assert (args.label_column, args.image_size, args.crop_padding, args.imbalance_factor) == ("label", 32, 4, 1)
    assert args.crop == "padded" and args.group_rule == "thirds"


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"benchmark": "cifar10"}, r"benchmark='cifar10' is not known: use one of \['cifar100_lt'"),
        ({"benchmark": "imagenet_lt"}, "--benchmark imagenet_lt needs --imbalance_factor: the paper uses"),
        ({"benchmark": "imagenet_lt", "dataset_name": "a", "data_dir": "b"}, "either --dataset_name .* or --data_dir"),
        ({"data_dir": "x", "train_list": "a"}, "Give --train_list and --test_list together"),
        ({"dataset_name": "x", "train_list": "a", "test_list": "b"}, "together, and --data_dir"),
        ({"data_dir": "x", "train_list": "a", "test_list": "b", "imbalance_factor": 5}, "=5 does not go with"),
        ({"data_dir": "x", "split_rule": "ldam"}, "split_rule='ldam' says how --imbalance_factor cuts"),
        ({"data_dir": "x", "crop": "center"}, "crop='center' is not valid: use padded or resized"),
        ({"data_dir": "x", "group_rule": "halves"}, "group_rule='halves' is not valid: use thirds or thresholds"),
    ],
)
def test_argument_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**kwargs)
