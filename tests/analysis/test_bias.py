import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from segmenters import FAMILIES, GROUPS, scenes, segformer, upernet

from hf_ltkd import ClassGroups, ImageDataset, create_model
from hf_ltkd.analysis.bias import group_report, loss_parts, teacher_group_mass


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


def test_pixels_equal_plain_loops():
    """A teacher and a student of other strides, in batches of uneven numbers of pixels that count."""
    data, temperature = scenes(size=16)[:5], 2.0
    teacher, student = upernet().eval(), segformer(confidence=100.0).eval()
    with torch.no_grad():
        teacher.decode_head.classifier.weight.mul_(100)
    report = group_report(teacher, data, GROUPS, batch_size=3)
    mass = teacher_group_mass(teacher, data, GROUPS, batch_size=5, temperature=temperature)
    parts = loss_parts(teacher, data, GROUPS, student=student, temperature=temperature, batch_size=5)

    of_group = GROUPS.group_of_class.tolist()
    rows = []  # class, teacher's and student's logits of each pixel that counts
    for item in data:
        with torch.no_grad():
            maps = [
                F.interpolate(m(item["pixel_values"][None]).logits.double(), (16, 16), mode="bilinear")[0]
                for m in (teacher, student)
            ]
        for y, x in itertools.product(range(16), repeat=2):
            if item["labels"][y, x] not in (255, -100):
                rows.append((int(item["labels"][y, x]), *(one[:, y, x].tolist() for one in maps)))

    def softmax(logits, by=1.0):
        powers = [math.exp(value / by) for value in logits]
        return [value / sum(powers) for value in powers]

    def groups_of(probabilities):
        return [sum(p for p, g in zip(probabilities, of_group, strict=True) if g == group) for group in range(3)]

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    share = [sum(column) / len(rows) for column in zip(*(groups_of(softmax(row[1])) for row in rows), strict=True)]
    assert report.probability == pytest.approx(share, rel=1e-5)
    assert report.images == [sum(of_group[row[0]] == group for row in rows) for group in range(3)]
    confusion = torch.zeros(5, 5)
    for label, logits, _ in rows:
        confusion[label, max(range(5), key=logits.__getitem__)] += 1
    right, known = confusion.diagonal(), confusion.sum(1) > 0
    iou = right / (confusion.sum(0) + confusion.sum(1) - right)
    assert report.answers.scores(GROUPS)["mean_iou"] == pytest.approx(iou[~iou.isnan()].mean().item(), rel=1e-6)
    tail = (GROUPS.group_of_class == 2) & known
    assert report.accuracy["tail_accuracy"] == pytest.approx((right[tail].sum() / confusion.sum(1)[tail].sum()).item())

    p, q = ([softmax(row[which], temperature) for row in rows] for which in (1, 2))
    of_teacher, of_student = ([groups_of(one) for one in some] for some in (p, q))
    sums = [sum(column) for column in zip(*of_teacher, strict=True)]
    assert mass[0].tolist() == pytest.approx(sums, rel=1e-5) and sum(sums) == pytest.approx(len(rows))
    balanced = [[value / total for value, total in zip(row, sums, strict=True)] for row in of_teacher]  # Eq. 9 to 11
    balanced = [[value / sum(row) for value in row] for row in balanced]

    def mean_kl(a, b):
        return sum(map(kl, a, b)) / len(rows)

    assert parts.cross == pytest.approx(mean_kl(of_teacher, of_student), rel=1e-4)
    assert parts.rebalanced_cross == pytest.approx(mean_kl(balanced, of_student), rel=1e-4)
    assert parts.cross + sum(parts.weighted_within) == pytest.approx(mean_kl(p, q), rel=1e-4)  # Eq. 8
    for group in range(3):
        inside = [[c for c in range(5) if of_group[c] == group] for _ in rows]
        within = [
            kl([a[c] / m[group] for c in cs], [b[c] / n[group] for c in cs])
            for a, b, m, n, cs in zip(p, q, of_teacher, of_student, inside, strict=True)
        ]
        assert parts.within[group] == pytest.approx(sum(within) / len(rows), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_batches_give_the_same_pixels(family):
    data, model = scenes()[:5], FAMILIES[family]()
    one, several = (group_report(model, data, GROUPS, batch_size=size) for size in (5, 3))
    assert several.probability == pytest.approx(one.probability, rel=1e-5)
    assert several.answers.scores(GROUPS) == one.answers.scores(GROUPS) and several.images == one.images
    nothing = {**data[0], "labels": torch.full((32, 32), 255)}
    assert teacher_group_mass(model, [nothing], GROUPS).tolist() == [[0.0] * 3]
