import math

import pytest
import torch

from hf_ltkd import ClassGroups, ImageDataset, create_model
from hf_ltkd.analysis.bias import loss_parts, teacher_group_mass


def test_group_mass_equals_summed_softmax():
    pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ImageDataset(pixels, [0] * 20, mean=[0.5] * 3, std=[0.2] * 3)
    teacher = create_model("resnet8", 6, image_size=8).train()
    groups = ClassGroups([0, 2, 1, 1, 0, 2])
    mass = teacher_group_mass(teacher, data, groups, batch_size=20, temperature=2.0)
    with torch.no_grad():
        images = torch.stack([example["pixel_values"] for example in data.__getitems__(range(20))])
        probabilities = (teacher.eval()(images).logits / 2).softmax(1)
    expected = [probabilities[:, groups.group_of_class == g].sum().item() for g in range(3)]
    torch.testing.assert_close(mass, torch.tensor([expected]), rtol=1e-4, atol=1e-4)
    assert teacher_group_mass(teacher, data, groups, batch_size=8).shape == (2, 3)
    assert teacher_group_mass(teacher, data, groups, batch_size=64).shape == (1, 3)


def test_loss_parts_equal_plain_loops():
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=random)
    data = ImageDataset(pixels, [0] * 12, mean=[0.5] * 3, std=[0.2] * 3)
    teacher, student = (create_model(name, 6, image_size=8).eval() for name in ("resnet8", "resnet14"))
    group_of_class, temperature = [0, 2, 1, 1, 0, 2], 2.0
    with torch.no_grad():
        images = torch.stack([example["pixel_values"] for example in data.__getitems__(range(12))])
        p = (teacher(images).logits.double() / temperature).softmax(1).tolist()
        trained = (student(images).logits.double() / temperature).softmax(1).tolist()
    for model, q in ((None, [[1 / 6] * 6] * 12), (student, trained)):
        mass, of_student = (
            [[sum(row[c] for c in range(6) if group_of_class[c] == g) for g in range(3)] for row in x] for x in (p, q)
        )
        sums = [sum(row[g] for row in mass) for g in range(3)]
        balanced = [[row[g] / sums[g] for g in range(3)] for row in mass]  # Eq. 9 to 11
        balanced = [[value / sum(row) for value in row] for row in balanced]
        kl = lambda a, b: sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))  # noqa: E731
        within = [[0.0] * 3 for _ in range(12)]
        for i in range(12):
            for c, g in enumerate(group_of_class):
                teacher_prob, student_prob = p[i][c] / mass[i][g], q[i][c] / of_student[i][g]
                within[i][g] += teacher_prob * math.log(teacher_prob / student_prob)
        parts = loss_parts(
            teacher, data, ClassGroups(group_of_class), student=model, temperature=temperature, batch_size=12
        )
        assert parts.cross == pytest.approx(sum(map(kl, mass, of_student)) / 12, rel=1e-4, abs=1e-7)
        assert parts.rebalanced_cross == pytest.approx(sum(map(kl, balanced, of_student)) / 12, rel=1e-4, abs=1e-7)
        means = [sum(row[g] for row in within) / 12 for g in range(3)]
        weighted = [sum(within[i][g] * mass[i][g] for i in range(12)) / 12 for g in range(3)]
        assert parts.within == pytest.approx(means, rel=1e-4) and parts.weighted_within == pytest.approx(
            weighted, 1e-4
        )
        kd = parts.cross + sum(weighted)  # Eq. 8: KD's whole loss
        assert kd == pytest.approx(sum(map(kl, p, q)) / 12, rel=1e-4)
        assert parts.kd_shares() == pytest.approx([parts.cross / kd, *(value / kd for value in weighted)], rel=1e-4)
        ltkd = [2 * parts.rebalanced_cross, *(3 * value for value in means)]
        assert parts.ltkd_shares(2, 3) == pytest.approx([value / sum(ltkd) for value in ltkd], rel=1e-4)
