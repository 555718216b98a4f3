"""FUSION vision-language models: data, training, evaluation, lineage and publishing."""
