"""Modules and names of version 0.1.0: those that have moved work for one more version, with a warning."""

import importlib
import importlib.util
import subprocess
import sys
import warnings

import pytest

from hf_ltkd import _moved


MODULES = """
analysis checkpoints checks cli commands data data.arguments data.augment data.benchmarks data.holdout data.image_files
data.images data.lazy data.long_tail data.sources engines estimate groups hub hub_trainer inputs logit_files
losses losses.balanced_softmax losses.base losses.bkd losses.catkd losses.checks losses.class_balanced
losses.closed_form losses.dist losses.dkd losses.features losses.kd losses.logit_adjustment losses.ltkd
losses.published losses.reviewkd losses.triton_kernels metrics metrics.group_accuracy
metrics.group_accuracy.group_accuracy model_card models models.bottleneck_resnet models.cifar_resnet models.imagenet
models.mobilenet_v2 models.shufflenet_v1 models.vgg models.wide_resnet outputs plots recommend report teacher
teacher_cache trainer training_args utils
"""
NAMES = {
    "hf_ltkd": """
        BKDLoss CATKDLoss CachedTeacherDataset ClassGroups CrossEntropyLoss DISTLoss DKDLoss DistillationLoss
        DistillationTrainer DistillationTrainingArguments ImageDataset KDLoss KLDecomposition LTKDLoss LazyImageDataset
        LongTailRecipe ReviewKDLoss TeacherCache balanced_softmax_loss bkd_loss cifar100_lt class_attention_loss
        class_balanced_loss class_balanced_weights class_counts create_loss create_model dist_loss dkd_loss
        group_accuracy hierarchical_context_loss imagenet_lt kd_loss kl_decomposition log_class_prior
        logit_adjusted_loss long_tailed_counts ltkd_loss make_long_tailed read_image_list tiny_imagenet_lt
    """,
    "hf_ltkd.data": """
        DataArguments ImageData ImageDataset LabelledImages LazyImageDataset LongTailRecipe SetEpochCallback
        cifar100_lt class_counts decode_images imagenet_lt load_image_data long_tailed_counts make_long_tailed
        read_class_folders read_image_list read_tiny_imagenet tiny_imagenet_lt
    """,
    "hf_ltkd.losses": """
        BKDLoss CATKDLoss CrossEntropyLoss DISTLoss DKDLoss DistillationLoss KDLoss KLDecomposition LOSSES LTKDLoss
        ReviewKDLoss balanced_softmax_loss bkd_loss class_attention_loss class_balanced_loss class_balanced_weights
        create_loss dist_loss dkd_loss hierarchical_context_loss kd_loss kl_decomposition log_class_prior
        logit_adjusted_loss ltkd_loss
    """,
    "hf_ltkd.metrics": """
        GroupAccuracy group_accuracy
    """,
    "hf_ltkd.models": """
        CifarBottleneckResNetConfig CifarBottleneckResNetForImageClassification CifarMobileNetV2Config
        CifarMobileNetV2ForImageClassification CifarResNetConfig CifarResNetForImageClassification
        CifarShuffleNetV1Config CifarShuffleNetV1ForImageClassification CifarVGGConfig CifarVGGForImageClassification
        CifarWideResNetConfig CifarWideResNetForImageClassification create_model
    """,
    "hf_ltkd.analysis": """
        GroupReport LossParts group_report loss_parts teacher_group_mass
    """,
    "hf_ltkd.plots": """
        COLORS plot_class_accuracy plot_group_accuracy plot_sensitivity plot_teacher_bias
    """,
    "hf_ltkd.teacher_cache": """
        CachedTeacherDataset TeacherCache
    """,
    "hf_ltkd.training_args": """
        DistillationTrainingArguments
    """,
    "hf_ltkd.trainer": """
        DistillationTrainer
    """,
    "hf_ltkd.groups": """
        ClassGroups
    """,
}


@pytest.mark.parametrize("name", MODULES.split())
def test_modules_are_found_where_they_were(name, monkeypatch):
    name = f"hf_ltkd.{name}"
    new = _moved.MODULES.get(name, name)
    if new.endswith("triton") and not importlib.util.find_spec("triton"):
        assert importlib.util.find_spec(new)
        return
    if name in _moved.MODULES:  # which warns when it is first imported
        monkeypatch.delitem(sys.modules, name, raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        module = importlib.import_module(name)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning)]
    assert said == ([f"{name} is now {new}; the old name goes with version 0.3."] if new != name else [])
    assert module is importlib.import_module(new)


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module].split()])
@pytest.mark.filterwarnings("ignore:hf_ltkd:FutureWarning")
def test_names_are_found_where_they_were(module, name):
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize("old", sorted(_moved.NAMES))
def test_names_that_have_moved_say_where_to(old):
    module, _, name = old.rpartition(".")
    with pytest.warns(FutureWarning, match=f"{old} is now {'.'.join(_moved.NAMES[old])}"):
        getattr(importlib.import_module(module), name)


def test_a_name_that_never_was():
    with pytest.raises(AttributeError, match="module 'hf_ltkd' has no attribute 'LTKDLos'"):
        _ = importlib.import_module("hf_ltkd").LTKDLos
    with pytest.raises(ModuleNotFoundError, match="hf_ltkd.nothing"):
        importlib.import_module("hf_ltkd.nothing")


def test_importing_the_package_imports_neither_torch_nor_transformers_and_warns_of_nothing():
    heavy = {"torch", "transformers", "datasets", "numpy", "matplotlib"}
    code = f"import hf_ltkd, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
