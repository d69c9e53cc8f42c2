"""What a method trains besides the student: in the gradients, in checkpoints, never published."""

import pytest
import torch
import torch.nn.functional as F
from one_step import one_step
from safetensors.torch import load_file
from test_trainer import QUIET, images, network, trainer_for
from transformers import AutoModelForImageClassification, TrainerCallback

from hf_ltkd import (
    CATKDLoss,
    DistillationTrainer,
    DistillationTrainingArguments,
    KDLoss,
    ReviewKDLoss,
)


def test_fusion_modules_are_trained_and_never_published(tmp_path):
    loss = ReviewKDLoss()
    trainer = trainer_for(tmp_path, loss=loss, args={"save_strategy": "steps", "save_steps": 4})
    before = {name: p.detach().clone() for name, p in loss.named_parameters()}
    trainer.train()
    assert before and not any(torch.equal(p, before[name]) for name, p in loss.named_parameters())
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["loss"] == pytest.approx(entry["cross_entropy"] + entry["review"], rel=1e-4) for entry in logs)
    trainer.save_model()
    assert (tmp_path / "checkpoint-4" / "distillation_loss.safetensors").is_file()
    assert not list(tmp_path.glob("distillation_loss*")) and not list(tmp_path.glob("*/*.tmp"))
    for folder in (tmp_path, tmp_path / "checkpoint-4"):
        assert set(load_file(folder / "model.safetensors")) == set(network().state_dict())


def test_gradients_of_fusion_modules_do_not_pile_up(tmp_path):
    """Plain SGD without momentum: a step moves the weights by rate × the gradient of that step alone."""
    loss = ReviewKDLoss()
    args = {"max_steps": 3, "logging_steps": 1, "learning_rate": 0.01, "lr_scheduler_type": "constant"}
    gradients, weights = [], []

    class Recorder(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            parameter = next(loss.parameters())
            weights.append(parameter.detach().clone())
            gradients.append(parameter.grad.clone())

    trainer = trainer_for(tmp_path, loss=loss, args=args, callbacks=[Recorder()])
    trainer.train()
    weights.append(next(loss.parameters()).detach())
    for step in range(3):
        torch.testing.assert_close(weights[step + 1], weights[step] - 0.01 * gradients[step])
    assert gradients[2].norm() < 1.5 * max(gradients[0].norm(), gradients[1].norm())


def test_resume_with_fusion_modules(tmp_path):
    args = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-3}
    losses = [ReviewKDLoss(), ReviewKDLoss()]
    whole = trainer_for(tmp_path / "whole", loss=losses[0], args=args)
    whole.train()
    resumed = trainer_for(tmp_path / "resumed", loss=losses[1], args=args)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for a, b in zip((whole.model, losses[0]), (resumed.model, losses[1]), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_resume_from_a_checkpoint_of_another_loss(tmp_path):
    args = {"save_strategy": "steps", "save_steps": 2}
    trainer_for(tmp_path, loss=KDLoss(), args=args).train()
    with pytest.raises(ValueError, match=r"its loss was another one: class ReviewKDLoss \(was KDLoss\)"):
        trainer_for(tmp_path, loss=ReviewKDLoss(), args=args).train(resume_from_checkpoint=True)


def test_a_second_trainer_starts_with_fresh_fusion_modules(tmp_path):
    loss = ReviewKDLoss()
    trainer_for(tmp_path, loss=loss).train()
    trained = [p.detach().clone() for p in loss.parameters()]
    trainer_for(tmp_path, loss=loss)
    fresh = list(loss.parameters())
    assert not any(torch.equal(p, t) for p, t in zip(fresh, trained, strict=True) if p.ndim == 4)


def test_an_optimizer_of_ones_own_has_to_train_the_loss_too(tmp_path):
    student, teacher, loss = network(1), network(2), ReviewKDLoss()
    loss.prepare(student, teacher)
    alone = torch.optim.SGD(student.parameters(), lr=0.01)
    with pytest.raises(ValueError, match="does not train .* parameters of ReviewKDLoss"):
        trainer_for(tmp_path, model=student, teacher=teacher, loss=loss, optimizers=(alone, None))
    before = next(loss.parameters()).detach().clone()
    both = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr=0.01)
    trainer_for(tmp_path, model=student, teacher=teacher, loss=loss, optimizers=(both, None)).train()
    assert not torch.equal(next(loss.parameters()), before)


def test_published_student_of_cat_kd_predicts_what_was_trained(tmp_path):
    trainer = trainer_for(tmp_path, loss=CATKDLoss(cat_weight=5.0))
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    pixels = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        outputs = trainer.model.eval()(pixels, output_hidden_states=True)
        assert torch.equal(loaded(pixels).logits, outputs.logits)
    maps = F.conv2d(outputs.hidden_states[-1].relu(), loaded.classifier.weight.detach()[:, :, None, None])
    torch.testing.assert_close(maps.mean((2, 3)), outputs.logits)  # the bias has stayed 0


@pytest.mark.parametrize("loss", [ReviewKDLoss(), CATKDLoss()], ids=["reviewkd", "catkd"])
def test_feature_methods_with_model_init_bf16_and_evaluation_with_the_teacher(tmp_path, loss):
    args = {"bf16": True, "eval_with_teacher": True, "gradient_accumulation_steps": 2}
    trainer = trainer_for(tmp_path, loss=loss, args=args, model_init=lambda: network(1))
    trainer.train()
    metrics = trainer.evaluate()
    term = "eval_review" if isinstance(loss, ReviewKDLoss) else "eval_class_attention"
    assert metrics[term] > 0
    assert trainer.predict(images(seed=2)).predictions.shape == (32, 6)  # logits, no feature maps


def test_feature_methods_refuse_sharded_students(tmp_path):
    class Sharded(DistillationTrainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            self.is_fsdp_enabled = True

    args = DistillationTrainingArguments(output_dir=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="cannot run on a sharded one"):
        Sharded(network(1), network(2), args, distillation_loss=ReviewKDLoss(), train_dataset=images())


def test_two_ranks_train_the_fusion_modules_as_one_process_does(tmp_path, two_ranks):
    """Batch normalisation sees 16 examples either way: 1 process × 16 × 2 accumulated, and 2 ranks × 16."""
    one, _ = one_step(str(tmp_path), ["reviewkd"], 16, 2, 1)["reviewkd"]
    two, _ = two_ranks(one_step, str(tmp_path), ["reviewkd"], 16, 1, 2)[0]["reviewkd"]
    assert one.keys() == two.keys() and any(name.startswith("loss.fusion") for name in one)
    for name, value in one.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):  # for evaluation alone
            torch.testing.assert_close(two[name].double(), value.double(), rtol=1e-4, atol=2e-6, msg=name)
