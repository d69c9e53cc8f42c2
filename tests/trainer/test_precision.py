"""bf16 and fp16: the losses in float32, how far a mixed-precision step is from a float32 one, and torch.compile."""

import pytest
import torch
from test_trainer import GROUPS, network, trainer_for
from torch import nn

from hf_ltkd import (
    BKDLoss,
    CATKDLoss,
    CrossEntropyLoss,
    DISTLoss,
    DKDLoss,
    GKLLoss,
    KDLoss,
    LTKDLoss,
    ReviewKDLoss,
    WTTMLoss,
    log_class_prior,
)


COUNTS = GROUPS.class_counts
LOSSES = {
    "ce": CrossEntropyLoss(ce="class_balanced", class_counts=COUNTS),
    "kd": KDLoss(teacher_log_prior=log_class_prior(COUNTS)),
    "ltkd": LTKDLoss(GROUPS, temperature=1.0, ce="balanced_softmax"),
    "dkd": DKDLoss(temperature=1.0, ce="logit_adjusted", class_counts=COUNTS),
    "dist": DISTLoss(temperature=1.0),
    "bkd": BKDLoss(COUNTS),
    "gkl": GKLLoss(GROUPS, standardize=True),
    "wttm": WTTMLoss(prior="student", ce="ldam", class_counts=COUNTS),
}


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (4 * torch.randn(16, 6, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(0, 6, (16,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_terms_are_float32_whatever_the_logits(name, dtype):
    """Rounded logits give what they give as float32, in autocast too: nothing is lost beyond their rounding."""
    student, teacher, labels = batch()
    low = student.to(dtype).requires_grad_()
    high = low.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        terms = LOSSES[name](low, teacher.to(dtype), labels)
    expected = LOSSES[name](high, teacher.to(dtype).float(), labels)
    for key, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected[key], rtol=1e-6, atol=1e-7)
    sum(terms.values()).backward()
    sum(expected.values()).backward()
    # The gradients of the terms are rounded one by one before they are added.
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        low.grad.float(), high.grad, rtol=tolerance, atol=tolerance * high.grad.abs().max().item()
    )


@pytest.mark.parametrize("loss", [ReviewKDLoss(), CATKDLoss()], ids=["reviewkd", "catkd"])
def test_feature_terms_are_float32_for_bf16_models(loss):
    student, teacher = network(1).bfloat16(), network(2).bfloat16().eval()
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loss.prepare(student, teacher)
    outputs = student(pixels, output_hidden_states=True)
    with torch.no_grad():
        teacher_outputs = teacher(pixels, output_hidden_states=True)
    terms = loss.float()(outputs, teacher_outputs, torch.tensor([0, 1, 2, 3]))
    assert all(term.dtype == torch.float32 and torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert student.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", ["ltkd", "kd", "dkd", "dist"])
def test_a_mixed_precision_step_agrees_with_float32(tmp_path, loss):
    """Measured on these networks: bf16 autocast moves each term of the first step by less than 1 %."""
    logs = []
    for bf16 in (False, True):
        args = {"max_steps": 1, "logging_steps": 1, "bf16": bf16, "per_device_train_batch_size": 32}
        trainer = trainer_for(tmp_path, loss=LOSSES[loss], args=args)
        trainer.train()
        logs.append(trainer.state.log_history[0])
    terms = [key for key in logs[0] if key not in ("epoch", "learning_rate", "grad_norm")]
    assert len(terms) >= 3
    for key in terms:
        assert logs[1][key] == pytest.approx(logs[0][key], rel=0.01), key


def test_bf16_weights_train(tmp_path):
    student = network(1).bfloat16()
    before = student.classifier.weight.detach().clone()
    trainer = trainer_for(tmp_path, model=student, teacher=network(2).bfloat16(), args={"learning_rate": 0.5})
    trainer.train()
    assert student.classifier.weight.dtype == torch.bfloat16
    assert not torch.equal(before, student.classifier.weight.cpu())
    assert torch.isfinite(torch.tensor(trainer.state.log_history[-1]["train_loss"]))


def compiled_and_not(tmp_path, backend):
    weights = []
    for compiles in (False, True):
        args = {"max_steps": 2, "torch_compile": compiles}
        if compiles:
            args["torch_compile_backend"] = backend
        trainer = trainer_for(tmp_path, args=args)
        trainer.train()
        weights.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
        teacher = trainer.teacher_model
        assert (teacher._compiled_call_impl is not None) == compiles
        torch._dynamo.reset()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)
    assert isinstance(trainer.accelerator.unwrap_model(trainer.model), nn.Module)
    trainer.save_model()
    return trainer


def test_torch_compile(tmp_path):
    compiled_and_not(tmp_path, "aot_eager")
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_torch_compile_with_inductor(tmp_path):
    compiled_and_not(tmp_path, "inductor")
