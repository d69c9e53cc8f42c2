"""Where the teacher's outputs come from: a live model, several, the student's own mean, or a cache on disk."""

from .cache import CachedTeacherDataset, TeacherCache
from .ema import EMATeacher
from .ensemble import TeacherEnsemble
from .live import ask_teacher, load_teacher, teacher_fingerprint


__all__ = [
    "CachedTeacherDataset",
    "EMATeacher",
    "TeacherCache",
    "TeacherEnsemble",
    "ask_teacher",
    "load_teacher",
    "teacher_fingerprint",
]
