"""lmms-eval (extra `eval`): a FUSION checkpoint as one of its models, and its tasks run one a process."""
