"""wingspan: from a social platform's posts to the platform's own assistant.

Seven stages, one project file: plan, rehearse, prepare, train, align, evaluate, serve.
"""

__version__ = "0.1.0"
