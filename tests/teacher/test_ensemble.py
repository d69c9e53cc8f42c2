"""Several teachers are one: what they say together, by a plain loop; live, cached, and in which order."""

import math

import pytest
import torch
from datasets import Dataset
from teacher.test_cache import build, images, network
from torch import nn
from transformers import TrainingArguments

from hf_ltkd import ClassGroups, DistillationTrainer, KDLoss, LTKDLoss, ReviewKDLoss, TeacherCache, TeacherEnsemble
from hf_ltkd.teacher.live import check_same_classes, load_teacher, teacher_fingerprint


GROUPS = ClassGroups([0, 2, 1, 0, 2, 1])


class Fixed(nn.Module):
    """The same logits whatever it is asked; it takes a column of its own, and no other."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)
        self.asked = []

    def forward(self, pixel_values):
        self.asked.append(pixel_values)
        return self.logits.expand(len(pixel_values), -1)


A, B = [1.0, 2.0, 0.5, -1.0, 0.0, 3.0], [0.0, -2.0, 1.5, 4.0, 0.25, 1.0]


def softmax(logits):
    total = sum(math.exp(z) for z in logits)
    return [math.exp(z) / total for z in logits]


@pytest.mark.parametrize("weights", [None, [3, 1], [0.0, 2.0]])
def test_the_mean_by_a_plain_loop(weights):
    w = [0.5, 0.5] if weights is None else [weight / sum(weights) for weight in weights]
    logits = TeacherEnsemble([Fixed(A), Fixed(B)], weights=weights)(pixel_values=torch.zeros(2, 1)).logits
    expected = [w[0] * a + w[1] * b for a, b in zip(softmax(A), softmax(B), strict=True)]
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([expected] * 2))
    torch.testing.assert_close(logits, torch.tensor([expected] * 2).log())  # they are normalised
    logits = TeacherEnsemble([Fixed(A), Fixed(B)], weights=weights, mean_of="logits")(pixel_values=torch.zeros(1, 1))
    expected = [w[0] * a + w[1] * b for a, b in zip(A, B, strict=True)]
    torch.testing.assert_close(logits.logits, torch.tensor([expected]))


def test_logits_that_a_mean_of_probabilities_would_lose():
    far = TeacherEnsemble([Fixed([0.0, -1e4]), Fixed([0.0, -2e4])])(pixel_values=torch.zeros(1, 1)).logits
    torch.testing.assert_close(far, torch.tensor([[0.0, -1e4 - math.log(2)]]))


@pytest.mark.parametrize("alone", [True, False])
def test_experts_are_those_of_lfme(alone):
    """The loss within the groups is LFME's: the KL divergence of the softened part of each expert."""
    everything = torch.randn(3, 6, generator=torch.manual_seed(0))
    members = [(GROUPS.group_of_class == k).nonzero().flatten() for k in range(3)]
    experts = [Fixed((row[m] if alone else row).tolist()) for row, m in zip(everything, members, strict=True)]
    logits = TeacherEnsemble(experts, groups=GROUPS)(pixel_values=torch.zeros(4, 1)).logits
    student, temperature = torch.randn(4, 6), 2.0
    expected = 0.0
    for expert, m in zip(everything, members, strict=True):
        teacher = (expert[m].double() / temperature).softmax(-1)
        student_part = (student[:, m].double() / temperature).log_softmax(-1)
        expected += (teacher * (teacher.log() - student_part)).sum(-1).mean().item()
    loss = LTKDLoss(GROUPS, alpha=0.0, beta=1.0, temperature=temperature, ce_weight=0.0)
    found = sum(loss(student, logits, torch.zeros(4, dtype=torch.long)).values())
    assert found.item() == pytest.approx(temperature**2 * expected, rel=1e-5)
    mass = logits.softmax(-1)[0]
    probabilities = [softmax((row[m] if alone else row).tolist()) for row, m in zip(everything, members, strict=True)]
    sums = [1.0 if alone else sum(p[c] for c in m.tolist()) for p, m in zip(probabilities, members, strict=True)]
    torch.testing.assert_close(torch.stack([mass[m].sum() for m in members]), torch.tensor(sums) / sum(sums))


def test_each_sees_its_own_columns_in_its_own_type():
    a, b = Fixed(A), Fixed(B)
    b.register_parameter("weight", nn.Parameter(torch.zeros(1, dtype=torch.bfloat16)))
    a.register_parameter("weight", nn.Parameter(torch.zeros(1)))
    inputs = {
        "pixel_values": torch.full((2, 1), 0.1),
        "1_pixel_values": torch.full((2, 3), 0.2),
        "other": torch.ones(2),
    }
    TeacherEnsemble([a, b])(**inputs)
    assert torch.equal(a.asked[0], torch.full((2, 1), 0.1))
    assert torch.equal(b.asked[0], torch.full((2, 3), 0.2).bfloat16())


def test_fingerprints_tell_order_weights_and_kind():
    a, b = network(1), network(2)
    made = [TeacherEnsemble(*arguments, **how) for arguments, how in [
        (([a, b],), {}), (([b, a],), {}), (([a, b],), {"weights": [1, 2]}), (([a, b],), {"mean_of": "logits"}),
        (([a, b],), {"groups": ClassGroups([0, 0, 0, 1, 1, 1])}),
        (([a, b],), {"groups": ClassGroups([0, 0, 1, 1, 1, 1])}), (([a, a],), {}),
    ]]  # fmt: skip
    assert len({teacher_fingerprint(one) for one in made}) == len(made)
    assert teacher_fingerprint(TeacherEnsemble([a, b], weights=[3, 3])) == teacher_fingerprint(made[0])
    assert teacher_fingerprint(a) in teacher_fingerprint(made[0])


def test_a_cache_is_what_they_say_together_and_lists_them(tmp_path):
    a, b, data = network(1), network(2), images()
    cache = build(tmp_path, [a, b], data)
    assert all(teacher_fingerprint(one) in cache.manifest["teacher"] for one in (a, b))
    data.set_epoch(1)
    pixels = torch.stack([item["pixel_values"] for item in data.__getitems__(range(16))])
    with torch.no_grad():
        expected = (a.eval()(pixels).logits.softmax(-1) + b.eval()(pixels).logits.softmax(-1)) / 2
    torch.testing.assert_close(cache.logits(range(16), 1).softmax(-1), expected)
    assert TeacherCache.open(tmp_path, teacher=[a, b], dataset=data).views == 2
    for other in ([b, a], TeacherEnsemble([a, b], weights=[1, 3]), [a, network(3)], a):
        with pytest.raises(ValueError, match="was built with teacher probabilities of 0.5 \\* "):
            TeacherCache.open(tmp_path, teacher=other)
        with pytest.raises(ValueError, match="was built with teacher"):
            build(tmp_path, other, data)


def trained(folder, teacher, **kwargs):
    arguments = {
        "output_dir": folder, "num_train_epochs": 1, "per_device_train_batch_size": 20, "learning_rate": 0.05,
        "save_strategy": "steps", "save_steps": 1, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "dataloader_pin_memory": False, "seed": 3,
    }  # fmt: skip
    loss = kwargs.pop("loss", None) or KDLoss()
    trainer = DistillationTrainer(
        network(5), teacher, TrainingArguments(**arguments), distillation_loss=loss, train_dataset=images()
    )
    trainer.train(**kwargs)
    return trainer.model.state_dict()


def test_training_is_the_same_live_cached_and_from_folders(tmp_path):
    a, b = network(1), network(2)
    a.save_pretrained(tmp_path / "a")
    expected = trained(tmp_path / "live", [a, b])
    others = {
        "folder": [str(tmp_path / "a"), b],
        "ensemble": TeacherEnsemble([a, b]),
        "cached": build(tmp_path / "cache", [a, b], views=1, batch_size=20),
    }
    for name, teacher in others.items():
        found = trained(tmp_path / name, teacher)
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    checkpoint = str(tmp_path / "live" / "checkpoint-1")
    found = trained(tmp_path / "live", [a, b], resume_from_checkpoint=checkpoint)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    for other in ([b, a], TeacherEnsemble([a, b], weights=[1, 2]), [a, network(3)]):
        with pytest.raises(ValueError, match="its teacher had other weights"):
            trained(tmp_path / "live", other, resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize("removes", [True, False])
def test_a_column_for_one_teacher_alone(tmp_path, removes, caplog):
    items = images(augment=False).__getitems__(range(16))
    pixels = torch.stack([item["pixel_values"] for item in items])
    columns = {"pixel_values": pixels.numpy(), "teacher_1_pixel_values": 2 * pixels.numpy(), "other": list(range(16))}
    data = Dataset.from_dict({**columns, "labels": [int(item["labels"]) for item in items]})
    teachers, asked = [network(1), network(2)], []
    for teacher in teachers:
        teacher.register_forward_pre_hook(lambda _, a, kwargs: asked.append(kwargs["pixel_values"]), with_kwargs=True)
    args = TrainingArguments(
        output_dir=tmp_path, max_steps=1, per_device_train_batch_size=16, train_sampling_strategy="sequential",
        remove_unused_columns=removes, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    DistillationTrainer(network(5), teachers, args, distillation_loss=KDLoss(), train_dataset=data).train()
    assert torch.equal(asked[0], pixels) and torch.equal(asked[1], 2 * pixels)
    said = [record.message for record in caplog.records if "have no effect" in record.message]
    assert said == ([] if removes else ["Nobody takes these columns of the batch, which have no effect: other."])


def named(names, seed=0):
    return network(seed, id2label=dict(enumerate(names)))


def test_what_does_not_fit():
    six = list("abcdef")
    a = named(six)
    wrong = [
        (lambda: TeacherEnsemble([a]), "two models or more"),
        (lambda: TeacherEnsemble("ab"), "two models or more"),
        (lambda: load_teacher([a, 3]), "The teacher is int"),
        (lambda: TeacherEnsemble([a, "b"]), "Teacher 1 is of type str"),
        (lambda: TeacherEnsemble([a, TeacherEnsemble([a, a])]), "cannot be one of several"),
        (lambda: TeacherEnsemble([a, named(list("abcdfe"))]), "Class 4 is 'f' for teacher 1 and 'e'"),
        (lambda: TeacherEnsemble([Fixed(A), a, named(six)], groups=GROUPS, weights=[1, 1, 1]), "no mean to weigh"),
        (lambda: TeacherEnsemble([a, a], groups=GROUPS), "2 teachers for 3 groups"),
        (lambda: TeacherEnsemble([a, a], weights=[1]), "a number for each of 2 teachers"),
        (lambda: TeacherEnsemble([a, a], weights=[1, -1]), "weights=-1"),
        (lambda: TeacherEnsemble([a, a], weights=[0, 0]), "at least one teacher"),
        (lambda: TeacherEnsemble([a, a], mean_of="votes"), "'probabilities' or 'logits'"),
        (lambda: TeacherEnsemble([Fixed(A), Fixed(A[:5])])(pixel_values=torch.zeros(1, 1)), "the same classes"),
        (lambda: TeacherEnsemble([Fixed(A[:4])] * 3, groups=GROUPS)(pixel_values=torch.zeros(1, 1)), "4 classes"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()


def test_classes_are_compared_with_the_student():
    a, b, unnamed = named(list("abcdef")), named(list("abcdef")), network()
    check_same_classes(a, TeacherEnsemble([unnamed, b]))
    check_same_classes(a, TeacherEnsemble([Fixed(A), Fixed(B)]))
    with pytest.raises(ValueError, match="Class 0 is 'a' for the teacher"):
        check_same_classes(named(list("xbcdef")), TeacherEnsemble([unnamed, b]))


def test_hidden_states_are_refused(tmp_path):
    with pytest.raises(ValueError, match="ReviewKDLoss compares hidden states, which several teachers do not have"):
        trained(tmp_path, [network(1), network(2)], loss=ReviewKDLoss())
