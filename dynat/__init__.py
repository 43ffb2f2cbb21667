"""dynat: Dynamic Label Adversarial Training and its baselines, trained, attacked and reported alike."""

__version__ = "0.1.0"
