"""The exam: attacks found by name, and the examination that runs one and checks its claims.

The trainer imports nothing from here, so the exam cannot leak into the lesson.
"""

from dynat.attacks.examine import Examination, examine

__all__ = ["Examination", "examine"]
