"""Where the teacher's outputs come from: a live model, or a cache on disk."""

from .cache import CachedTeacherDataset, TeacherCache
from .live import ask_teacher, load_teacher, teacher_fingerprint


__all__ = ["CachedTeacherDataset", "TeacherCache", "ask_teacher", "load_teacher", "teacher_fingerprint"]
