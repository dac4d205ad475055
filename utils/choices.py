"""The names that options of the command line may take."""

SCHEDULERS = ("none", "plateau", "cosine")
PRECISIONS = ("float32", "bfloat16")
