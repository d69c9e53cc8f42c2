"""Classifiers as people save them: in half precision, in few bits, with adapters, with code of their own."""

import json
import shutil
from dataclasses import fields
from importlib.util import find_spec

import pytest
import torch
from helpers import EXAMPLES
from transformers import (
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from hf_ltkd import DistillationTrainer, ImageDataset, KDLoss, TeacherCache, create_model
from hf_ltkd.cli.arguments import COMMANDS, parse
from hf_ltkd.teacher import loading
from hf_ltkd.teacher.live import ask_teacher, load_teacher, place_teacher
from hf_ltkd.teacher.loading import head_tensors, load_config, load_model
from hf_ltkd.workflow.inputs import load_processor


SMALL = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
SMALL = {**SMALL, "intermediate_size": 32, "initializer_range": 0.3}
CODE = """
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

class BrandNewConfig(PreTrainedConfig):
    model_type = "brand_new"

class BrandNewForImageClassification(PreTrainedModel):
    config_class = BrandNewConfig

    def __init__(self, config):
        super().__init__(config)
        self.top = nn.Linear(3, config.num_labels)
        self.post_init()

    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.top(pixel_values.mean((2, 3))))
"""


def vit(seed=0, **fields):
    torch.manual_seed(seed)
    return ViTForImageClassification(ViTConfig(**{**SMALL, "num_labels": 3, **fields})).eval()


def pixels(examples=4):
    return torch.randn(examples, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def edit(folder, name="config.json", **changes):
    """Changes fields of a JSON file; `None` takes one out."""
    values = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def save_code(folder):
    """A classifier that comes with its code, and would write a file if that were run."""
    folder.mkdir()
    (folder / "modeling_brand_new.py").write_text(CODE + f"\nopen({str(folder / 'was_run')!r}, 'w').close()\n")
    names = {"AutoConfig": "BrandNewConfig", "AutoModelForImageClassification": "BrandNewForImageClassification"}
    auto_map = {auto: f"modeling_brand_new.{name}" for auto, name in names.items()}
    config = {"model_type": "brand_new", "auto_map": auto_map, "architectures": [names[[*names][1]]]}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    from safetensors.torch import save_file

    weights = {"top.weight": torch.eye(3), "top.bias": torch.zeros(3)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_teachers_answer_alike_live_and_cached(tmp_path, dtype):
    saved = vit().to(dtype)
    saved.save_pretrained(tmp_path / "teacher")
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageDataset(images, [0, 1, 2, 0, 1, 2], mean=[0.5] * 3, std=[0.5] * 3)
    seen = torch.stack([data[i]["pixel_values"] for i in range(6)])
    with torch.no_grad():
        expected = saved(pixel_values=seen.to(dtype)).logits.float()
    teacher = load_teacher(str(tmp_path / "teacher"))
    assert teacher.dtype == dtype
    live = ask_teacher(teacher, {"pixel_values": seen}, torch.autocast("cpu", enabled=False)).logits
    cache = TeacherCache.build(tmp_path / "cache", teacher, data, views=1, batch_size=6, device="cpu", progress=False)
    assert torch.equal(live.float(), expected) and torch.equal(cache.logits(range(6), 0), expected)
    with torch.no_grad():  # what the same weights answer in float32, but for the digits that were rounded away
        exact = load_model(tmp_path / "teacher", dtype=torch.float32).eval()(pixel_values=seen).logits
    tolerance = 40 * torch.finfo(dtype).eps * float(exact.abs().max())  # some 40 roundings on the way
    torch.testing.assert_close(live.float(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("changes", [{"architectures": None}, {"return_dict": False}, {"output_attentions": False}])
def test_configs_that_lack_or_ask_for_something(tmp_path, changes):
    network = vit()
    network.save_pretrained(tmp_path)
    edit(tmp_path, **changes)
    with torch.no_grad():
        assert torch.equal(load_teacher(str(tmp_path))(pixels()).logits, network(pixels()).logits)


def test_two_heads_and_no_architectures(tmp_path):
    DeiTForImageClassification(DeiTConfig(**SMALL)).save_pretrained(tmp_path)
    edit(tmp_path, architectures=None)
    assert isinstance(load_model(tmp_path, AutoModelForImageClassification), DeiTForImageClassification)


def test_a_new_head_forgets_that_there_were_several_labels(tmp_path):
    vit(num_labels=5, problem_type="multi_label_classification").save_pretrained(tmp_path)
    model = load_model(tmp_path, class_names=["a", "b"])
    assert model.config.problem_type == "single_label_classification" and model.config.id2label == {0: "a", 1: "b"}


def test_weights_that_would_be_random(tmp_path):
    ViTModel(ViTConfig(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no trained classifier: it lacks classifier.bias, classifier.weight, which"):
        load_model(tmp_path, AutoModelForImageClassification)
    assert load_model(tmp_path, AutoModelForImageClassification, class_names=["a", "b"]).config.num_labels == 2


def test_the_head_is_what_changes_with_the_number_of_classes():
    network = create_model("resnet8", 3)
    assert head_tensors(network.config, type(network)) == {"classifier.weight": 0, "classifier.bias": 0}


def test_code_runs_only_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    save_code(folder)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    for load in (load_config, load_model, lambda name: load_teacher(str(name))):
        with pytest.raises(ValueError) as caught:
            load(folder)
        message = str(caught.value)
        assert "\n" not in message and str(folder) in message
        assert "add --trust_remote_code true (in Python trust_remote_code=True" in message
        assert message.endswith("or load it and pass the model).")
    assert not (folder / "was_run").exists()
    model = load_model(folder, AutoModelForImageClassification, trust_remote_code=True)
    assert torch.allclose(model(pixel_values=pixels()).logits, pixels().mean((2, 3)))
    assert load_model(folder, class_names=["x", "y"], trust_remote_code=True).config.num_labels == 2


def test_every_command_that_loads_a_model_can_be_told_to_trust_it():
    for name in COMMANDS:
        options = {f.name: f.default for arguments in COMMANDS[name].arguments for f in fields(arguments)}
        assert options.get("trust_remote_code") is (None if name == "check" else False)
    assert parse("export", ["--model", str(EXAMPLES), "--trust_remote_code"])["trust_remote_code"] is True


@pytest.mark.parametrize("package", ["timm", "peft", "bitsandbytes"])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == package else find_spec(name))
    vit().save_pretrained(tmp_path)
    if package == "peft":
        (tmp_path / "config.json").unlink()
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/base"}))
    else:

        def fail(*args, **kwargs):
            raise ImportError(f"This requires\n`{package}`: pip install {package}")

        monkeypatch.setattr(loading.AutoConfig, "from_pretrained", fail)
    install = {"bitsandbytes": "bitsandbytes"}.get(package, f'"hf_ltkd\\[{package}\\]"')
    with pytest.raises(ValueError, match=f"needs {package}, which is not installed here: pip install {install}$"):
        load_model(tmp_path)


def test_a_package_in_a_list_of_names_is_not_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    vit().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    with pytest.raises(
        ValueError, match="There is no image processor .* in this folder: Unrecognized image processor"
    ):
        load_processor(tmp_path)


class FewBits(torch.nn.Module):
    """As Transformers marks a quantised model."""

    is_quantized = True

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def to(self, *args, **kwargs):
        raise AssertionError("a quantised model was moved")


def test_quantised_and_spread_teachers_are_not_moved():
    teacher = FewBits()
    assert place_teacher(teacher, torch.device("cpu")) is teacher
    with pytest.raises(ValueError, match="quantised, which keeps it on cpu, and the training runs on cuda"):
        place_teacher(teacher, torch.device("cuda"))
    teacher.is_quantized, teacher.hf_device_map = False, {"a": 0, "b": "cpu"}
    assert place_teacher(teacher, torch.device("cuda")) is teacher


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", [4, 8])
def test_teachers_of_few_bits(tmp_path, bits):
    from transformers import BitsAndBytesConfig

    vit(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path / "full")  # multiples of 64 on a CPU
    how = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, llm_int8_skip_modules=["classifier"])
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "full", quantization_config=how)
    saved.save_pretrained(tmp_path / "few")
    with torch.no_grad():
        expected = saved(pixel_values=pixels()).logits
    data = ImageDataset(torch.zeros(6, 3, 16, 16, dtype=torch.uint8), [0, 1, 2] * 2, mean=[0.5] * 3, std=[0.5] * 3)
    teacher = load_teacher(str(tmp_path / "few"))
    logits = ask_teacher(teacher, {"pixel_values": pixels()}, torch.autocast("cpu", enabled=False)).logits
    torch.testing.assert_close(logits, expected)
    from transformers import TrainingArguments

    args = TrainingArguments(output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none")
    student = create_model("resnet8", 3)
    DistillationTrainer(student, teacher, args, distillation_loss=KDLoss(), train_dataset=data).train()
    assert TeacherCache.build(tmp_path / "cache", teacher, data, views=1, device="cpu").num_classes == 3


needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")


def save_adapter(folder, base, head):
    """LoRA of rank 2 on two layers of a base that lies in a folder, and perhaps a head of three classes."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    labels = {"num_labels": 3, "ignore_mismatched_sizes": True} if head else {}
    model = AutoModelForImageClassification.from_pretrained(base, **labels)
    config = LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "fc1"], modules_to_save=["classifier"] if head else None,
        init_lora_weights=False,
    )  # fmt: skip
    get_peft_model(model, config).save_pretrained(folder)


@needs_peft
@pytest.mark.parametrize("head", [True, False])
def test_an_adapter_is_its_base_plus_its_matrices(tmp_path, head):
    """The weights by hand: W + alpha / r · B A, and the adapter's own head."""
    from safetensors.torch import load_file

    vit(num_labels=5, id2label=None).save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "adapter", tmp_path / "base", head)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    adapter = {key.removeprefix("base_model.model."): value for key, value in adapter.items()}
    model = load_model(tmp_path / "adapter", AutoModelForImageClassification)
    expected, changed = dict(load_model(tmp_path / "base").state_dict()), 0
    for key, value in adapter.items():
        if key.endswith(".lora_A.weight"):
            name = key.replace(".lora_A", "")
            expected[name] = expected[name] + 3 * adapter[key.replace("lora_A", "lora_B")] @ value
            changed += 1
        elif ".lora_" not in key:
            expected[key] = value
    assert changed == 2 and len(weights) == len(expected)
    assert model.config.num_labels == (3 if head else 5) and model.name_or_path == str(tmp_path / "adapter")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert all(p.requires_grad for p in model.parameters())
    new = load_model(tmp_path / "adapter", AutoModelForImageClassification, class_names=["x", "y"])
    assert new.config.num_labels == 2


@needs_peft
def test_where_the_base_of_an_adapter_lies(tmp_path):
    vit().save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "adapter", tmp_path / "base", head=False)
    edit(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path="../base")  # moved together
    assert load_config(tmp_path / "adapter").num_labels == 3
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(ValueError, match="names the base model '../base', which is no folder here"):
        load_model(tmp_path / "adapter")
