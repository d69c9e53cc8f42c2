"""The bias of a teacher, and where the loss of a student goes; their pictures are in `analysis.plots`."""

from .bias import GroupReport, LossParts, group_report, loss_parts, teacher_group_mass


__all__ = ["GroupReport", "LossParts", "group_report", "loss_parts", "teacher_group_mass"]
